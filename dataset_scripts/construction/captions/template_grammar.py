"""The grammar that writes the shipped caption templates: frames of whole sentences, and the parts that fill them.

A `<part>` of a frame is replaced by each of its options, and every combination is a template. A `[slot]` stands for a
whole phrase with its article ("a red coat", "blue jeans"), which the captioner writes. Nothing outside the slots says
what a person looks like, wears, holds or does. Noun phrases that may be singular or plural are not subjects of verbs.

The templates of `WRITTEN` come first. Then each frame gives one in turn, in the order of a hash. No two templates have
the same sequence of slots, and few the same opening. The whole list was read by hand, and frames and parts that read
badly were changed. `python -m benchmarks.construction.templates --write` writes the file again.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator

from .templates import Template, TemplateSet


VERSION = "2"
MAX_SAME_OPENING = 4
"""Templates that begin with the same three words, besides those of `WRITTEN`. Chosen."""
ORIGIN = "written for this package by hand and by a grammar of slots, all read by hand: see template_grammar.py"

WRITTEN = (
    "The [gender] wears [colored top] with [colored bottom] and [colored shoes], has [hair] and carries [colored "
    "bag].",
    "[age and gender] with [hair] is dressed in [colored top] with [sleeve length] and [colored bottom].",
    "From the feet up, the person wears [colored shoes], [colored bottom] and [colored top], with [headwear] above "
    "[hair].",
    "Carrying [colored bag], a [gender] in [colored outerwear] and [colored bottom] is [action].",
    "A [gender] is [action] in [colored top] with [pattern], [colored bottom] and [colored shoes].",
    "With [hair] and [eyewear], this [age group] [gender] wears [colored outerwear] over [colored inner top] "
    "together with [colored bottom].",
    "The person is [pose], wearing [colored top] with [print], [colored bottom] and [colored shoes].",
    "With [colored bag] [bag position], a [gender] wears [colored top] and [colored bottom] with [fit].",
    "This is a [gender] of [body build] with [hair]. The upper body is covered by [colored top], the lower half by "
    "[colored bottom], and the feet are in [colored shoes].",
    "[action], the [gender] holds [held object] in [hand] and wears [colored top] and [colored bottom].",
    "Seen [view], a [gender] in [colored outerwear] and [colored bottom] has [colored bag] [bag position].",
    "A [gender] with [hair] has on [colored top or dress] that is [garment length], along with [colored shoes] and "
    "[colored bag].",
    "On this [gender] one notices [headwear] and [colored bag] first, then [colored top], [colored bottom] and "
    "[colored shoes].",
    "The [age group] [gender] has [hair], [colored top], [colored bottom] and [colored shoes].",
    "Wearing [colored shoes] and [colored bottom], the [gender] is [action]. The upper body is in [colored top] "
    "with [sleeve length], and [accessory] can be seen.",
    "A person in [colored outerwear] of [material], worn [open or closed] over [colored inner top], is [pose]. The "
    "outfit ends in [colored bottom] and [colored shoes].",
    "The [gender] has [hair]. The outfit is [colored top], [colored bottom] with [colored belt], and [colored shoes].",
    "With [headwear] on the head, a [gender] in [colored top] also wears [colored bottom] and [colored shoes].",
    "Below [colored outerwear], the [gender] wears [colored bottom], then [colored socks] and [colored shoes].",
    "A [gender] carries [colored bag] in [hand] while [action], has [hair], and wears [colored top] with [pattern] "
    "and [colored bottom].",
    "Dressed in [colored top] and [colored bottom], a [gender] of [body build] is [pose] with [held object] in "
    "[hand].",
    "The individual has [hair] and [colored bag], is dressed in [colored outerwear], [colored bottom] and [colored "
    "shoes], and is [action].",
    "An upper body in [colored top] with [sleeve length] and legs in [colored bottom] belong to [age and gender] "
    "wearing [colored shoes].",
    "With [colored scarf] around the neck, a [gender] in [colored outerwear] also wears [colored bottom] and "
    "[colored shoes] and is [action].",
    "The [gender] is [pose] and can be seen [view], wearing [colored top], with [colored bottom] and [colored "
    "shoes] to complete the outfit.",
    "A [gender] wears [eyewear] and has [hair]. The clothes are [colored top] with [neckline] and [colored bottom].",
    "[action], the person wears [headwear], [colored top], [colored bottom] and [colored shoes].",
    "The [gender] in [colored top] has [colored bag] [bag position] and wears [colored bottom] with [colored shoes].",
    "[age and gender] is [action] while holding [held object]. The clothes are [colored top] with [pattern] and "
    "[colored bottom], with [colored shoes].",
    "[hair], [colored top] and [colored bottom] are what one sees of this [gender], who is [pose] and carrying "
    "[colored bag].",
    "This person has [colored outerwear] with [outerwear detail], [colored bottom], [colored shoes] and [colored "
    "bag] [bag position].",
    "The lower half of the [gender] shows [colored bottom] and [colored shoes], while the upper half shows [colored "
    "inner top] under [colored outerwear].",
    "A [gender] with [hair] wears [colored top or dress] with [pattern] and carries [colored bag] [bag position].",
    "Wearing [colored outerwear] that is [garment length], the [age group] [gender] is [action], with [colored "
    "bottom] and [colored shoes] beneath it.",
    "The person wears [colored top] with [sleeve length], [colored bottom] with [bottom detail], and [colored "
    "shoes] with [shoe detail].",
    "A [gender] with [accessory] is [action], in [colored top], [colored bottom] and [colored shoes].",
    "[pose] and [looking direction], a [gender] has [hair]. The outfit is [colored top], [colored bottom] and "
    "[colored shoes].",
    "In [colored top] with [print], [colored bottom] and [headwear], a [gender] of [body build] is [action].",
    "The [gender] has [colored bag] [bag position], over [colored outerwear], and beneath that [colored bottom] and "
    "[colored shoes].",
    "With [vehicle or cart], a [gender] is [action]. The person has [hair] and wears [colored outerwear], [colored "
    "bottom] and [colored shoes].",
    "One can see [age and gender] dressed in [colored top] with [fit] and [colored bottom], with [colored shoes] on "
    "the feet and [hair] on the head.",
    "The person with [hair] and [facial hair] wears [colored outerwear] over [colored inner top], [colored bottom] "
    "and [colored shoes].",
    "First come the feet, in [colored shoes] and [colored socks]; above them the [gender] wears [colored bottom] "
    "and [colored top] with [sleeve length].",
    "A [gender] is [pose] in [colored top] and [colored bottom] of [material] with [colored belt], and has [hair].",
    "The [gender] wears [colored top] and [colored bottom]. The person carries [colored bag] [bag position] and has "
    "[colored shoes].",
    "While [action], a [gender] has [accessory]. The clothes are [colored outerwear] with [collar type], [colored "
    "bottom] and [colored shoes].",
    "This [gender] with [hair] wears [colored top or dress] over [colored legwear], with [colored shoes] and "
    "[colored bag] completing the outfit.",
    "A [gender] is noticed for [colored top] with [pattern], has on [colored bottom] and [colored shoes], and wears "
    "[headwear].",
    "Above the waist is [colored top] with [closure], below it [colored bottom], and the person wearing them has "
    "[hair] and is [action].",
    "A [gender] in [colored bottom] and [colored top] is seen [view], [action], with [hair] and [colored bag].",
    "[headwear], [eyewear] and [colored scarf] frame the head of the [gender]. Below, the outfit is [colored "
    "outerwear], [colored bottom] and [colored shoes].",
    "The [gender] has [hair] and is [action]. The clothes are [colored top] with [pattern] and [colored bottom], "
    "with [accessory].",
    "A person of [body build] wears [colored outerwear] with [closure], [colored bottom] with [fit] and [colored "
    "shoes], and is [pose].",
    "With [held object] in [hand] and [colored bag] [bag position], the [gender] is [action] in [colored top] and "
    "[colored bottom].",
    "The [gender] is wearing [colored top] that has [print], and [colored bottom] above [colored shoes].",
    "[age and gender] with [hair], wearing [colored shoes], [colored bottom] and [colored top] with [sleeve "
    "length], is [pose].",
    "Over [colored inner top] the [gender] wears [colored outerwear], [open or closed]. The legs are in [colored "
    "bottom], the feet in [colored shoes], and on the head is [hair].",
    "A person is [action]. This person has [hair], [colored top], [colored bottom] and [colored shoes], with "
    "[colored bag] [bag position].",
    "The [gender] wears [type of uniform] of [colored top] and [colored bottom], with [colored shoes] and [headwear].",
    "Holding [held object] in [hand], the [gender] is [action], dressed in [colored outerwear], [colored bottom] "
    "and [colored shoes].",
    "The person in [headwear] is [age and gender] who has on [colored outerwear], [colored bottom] and [colored "
    "shoes], with [colored bag] [bag position].",
    "A [gender] wears [colored suit or uniform] over [colored inner top], finished with [colored tie or scarf] and "
    "[colored shoes].",
    "[pose], the [age group] [gender] wears [colored top] with [print] [print position], and [colored bottom].",
    "The [gender] is [action] with [held object], and has [hair], [colored outerwear], [colored bottom] and "
    "[colored shoes].",
    "[age and gender] has [hair] and wears [eyewear], is dressed in [colored top] and [colored bottom], and is "
    "[action].",
    "The outfit of the person consists of [colored top], [colored outerwear], [colored bottom] and [colored shoes], "
    "with [colored bag] in [hand].",
    "The [gender] is [action] and wears [headwear] [headwear position], with [colored top] with [print], [colored "
    "bottom] and [colored shoes].",
    "A [gender] wearing [colored gloves] is [action], dressed in [colored outerwear], [colored bottom] and [colored "
    "shoes].",
    "Along with [colored top] and [colored bottom], this [gender] wears [accessory] and carries [colored bag] [bag "
    "position].",
    "A [gender] with [hair] and [hair accessory] wears [colored top or dress] and [colored shoes] and is [pose].",
    "The [age group] [gender] is of [body build] and wears [colored top] with [pattern], [colored bottom] with "
    "[bottom detail], and [colored shoes].",
    "The [gender] carries [colored bag] and [held object], wears [colored top] and [colored bottom], and has [hair].",
    "A [gender] [action] in [colored shoes] wears [colored bottom] and, higher up, [colored outerwear] with "
    "[outerwear detail].",
    "With [hair], the upper body in [colored top] and the legs in [colored bottom], the person is [action].",
    "Viewed [view], this is a [gender] with [hair], [colored bag] [bag position], [colored top], [colored bottom] "
    "and [colored shoes].",
    "The [gender] has [held object] in [hand], and the clothes are [colored top] with [colored bottom] and [colored "
    "shoes].",
    "Between [headwear] and [colored shoes], the person wears [colored outerwear], [colored inner top] and [colored "
    "bottom].",
    "A [gender] is wearing [colored bottom] with [bottom detail], [colored top] and [colored shoes], and is [action].",
    "The person is [age and gender]. The person has [hair], wears [colored top] with [colored bottom], and has "
    "[accessory].",
    "It is [age and gender] in [colored top] with [sleeve length], [colored bottom] and [colored shoes], [action] "
    "with [colored bag].",
    "First comes [colored inner top], then [colored top], and on the outside [colored outerwear]; with them the "
    "[gender] wears [colored bottom].",
    "The clothes of this [age group] [gender] with [hair] are [top color] on the upper body, [bottom color] on the "
    "legs and [shoe color] on the feet.",
    "A [gender] is [pose], [arm position], wearing [colored top], [colored bottom], [colored shoes] and [accessory].",
    "A [gender] wears [colored bottom] and [colored shoes] with [shoe detail]. Higher up is [colored top], below "
    "[hair].",
    "[age and gender] who is [action] has on [colored top] in [pattern], [colored bottom], and [colored shoes] on "
    "the feet.",
    "The [gender] is [action] with [vehicle or cart], in [colored top], [colored bottom] and [colored shoes], with "
    "[headwear] on the head and [colored bag] [bag position].",
    "The [gender] is [pose], with [leg position], has [hair], wears [colored top] and [colored bottom], and has "
    "[colored shoes] on.",
    "A person with [colored bag] [bag position] is dressed in [colored outerwear] of [material], [colored inner "
    "top] and [colored bottom] with [fit].",
    "Seen [view] and [action], the person has [hair] above [colored outerwear] and wears [colored bottom] with "
    "[colored shoes].",
    "With [vehicle or cart], the [gender] has [hair] and wears [colored top], [colored bottom] and [colored shoes].",
    "The [age group] [gender] is [action], wearing [eyewear], [colored scarf], [colored outerwear], [colored "
    "bottom] and [colored shoes], with [colored bag] [bag position].",
    "The [gender] is in [style of clothes], [colored top] with [colored bottom], [colored socks] and [colored "
    "shoes], and is [action].",
    "[hair] and [colored top] belong to a [gender] in [colored bottom], who wears [colored shoes] and carries "
    "[colored bag].",
    "A [gender] has [colored top] on, with [top detail], and [colored bottom] with [colored belt]. The feet are in "
    "[colored shoes].",
    "With the head [head position], [age and gender] is [pose], wearing [headwear], [colored outerwear] and "
    "[colored bottom].",
    "The person wears [colored vest] over [colored top] with [sleeve length], and [colored bottom] with [colored "
    "shoes]. The person is [action] and has [hair].",
    "[colored bag], [colored shoes] and [accessory] go with [colored top or dress] on [age and gender] with [hair].",
    "The [gender] is [action], with [held object] [where it is held]. The clothes are [colored top] and [colored "
    "bottom], with [colored shoes].",
    "[age and gender] of [height and build] is [action], has [hair], and is dressed in [colored top] with "
    "[pattern], [colored bottom] and [colored shoes].",
    "[colored bottom] and [colored top] with [pattern] are worn by a [gender] with [hair], who is [pose] and has "
    "[colored bag] [bag position].",
    "The shoulders of the [gender] are covered by [colored scarf] and [colored outerwear], the legs by [colored "
    "bottom], and the feet by [colored shoes]. The person is [action].",
    "With [colored mask] over the mouth and [headwear] on the head, a [gender] wears [colored top] and [colored "
    "bottom].",
    "Over [colored top] a [gender] wears [apron or overalls], with [colored shoes] on the feet, and is [action].",
    "The person is [action] with [walking aid] in [hand]. The person is [age and gender] in [colored outerwear], "
    "[colored bottom] and [colored shoes].",
    "With [held object] in [hand or arms], a [gender] has [hair] and wears [colored top], [colored bottom] with "
    "[fit] and [colored shoes].",
    "A [gender] with [hair] is [action], in [colored top] with [sleeve length] and [neckline], [colored bottom] "
    "with [fit] and [colored shoes] with [shoe detail], and has [colored bag] with [bag detail] [bag position].",
    "The [gender] is dressed from head to toe in [headwear], [colored outerwear] with [outerwear detail], [colored "
    "inner top], [colored bottom] with [bottom detail], [colored socks] and [colored shoes], and carries [colored "
    "bag] [bag position] and [held object] in [hand].",
)
"""Templates written one by one."""

SUBJECTS = {
    "some": ("a [gender]", "[age and gender]", "a person", "someone", "an individual"),
    "the": (
        "the [gender]",
        "this [gender]",
        "the [age group] [gender]",
        "this [age group] [gender]",
        "the person",
        "this person",
        "this individual",
    ),
    "again": ("the person", "the [gender]"),
}
PARTS = SUBJECTS | {
    "wears": ("wears", "is wearing", "is dressed in", "has on", "is in"),
    "wearing": ("wearing", "dressed in", "in", "clad in"),
    "pair": (
        "[colored top] and [colored bottom]",
        "[colored outerwear] and [colored bottom]",
        "[colored top] with [colored bottom]",
        "[colored outerwear] over [colored inner top]",
        "[colored top or dress] and [colored shoes]",
        "[headwear] and [colored outerwear]",
        "[colored scarf] and [colored outerwear]",
    ),
    "outfit": (
        "[colored top], [colored bottom] and [colored shoes]",
        "[colored outerwear], [colored bottom] and [colored shoes]",
        "[colored outerwear] over [colored inner top], and [colored bottom]",
        "[colored top] with [colored bottom] and [colored shoes]",
        "[colored top or dress], [colored socks] and [colored shoes]",
        "[colored top] with [pattern], and [colored bottom]",
        "[colored top] with [sleeve length], and [colored bottom]",
        "[colored top] with [print], [colored bottom] and [colored shoes]",
        "[headwear], [colored top] and [colored bottom]",
        "[colored outerwear] with [outerwear detail], and [colored bottom]",
        "[colored top], [colored belt] and [colored bottom]",
        "[colored bottom], [colored shoes] and [colored top]",
    ),
    "whole outfit": (
        "[colored outerwear] over [colored inner top], [colored bottom] and [colored shoes]",
        "[headwear], [colored outerwear], [colored bottom] and [colored shoes]",
        "[colored top], [colored belt], [colored bottom], [colored socks] and [colored shoes]",
        "[colored top] with [print], [colored bottom] with [bottom detail], and [colored shoes]",
        "[colored scarf], [colored outerwear], [colored bottom] and [colored shoes]",
        "[colored top] with [neckline] and [sleeve length], [colored bottom] and [colored shoes]",
        "[colored outerwear] with [outerwear detail], [colored bottom] and [colored shoes] with [shoe detail]",
        "[colored top or dress] with [pattern], [colored socks], and [colored shoes] with [shoe detail]",
    ),
    "looks": ("[hair]", "[hair] and [eyewear]", "[hair] under [headwear]", "[hair] and [facial hair]"),
    "carries": (
        "carries [colored bag]",
        "carries [colored bag] [bag position]",
        "holds [held object]",
        "holds [held object] in [hand]",
    ),
    "has": (
        "carries [colored bag]",
        "holds [held object] in [hand]",
        "has [accessory]",
        "has [colored bag] [bag position]",
    ),
    "having": (
        "carrying [colored bag]",
        "carrying [colored bag] [bag position]",
        "holding [held object]",
        "with [colored bag] [bag position]",
        "with [held object] in [hand]",
        "with [accessory]",
    ),
    "does": ("[action]", "[pose]"),
}
"""Options of each part. Of products that differ only in `SUBJECTS`, which name the person, one is taken."""

SHORT_FRAMES = (
    "<some> in <pair>.",
    "<some> <wearing> <pair>.",
    "<the> <wears> <pair>.",
    "<some> with <looks>, in [colored top or dress].",
    "<the> is <does> in <pair>.",
    "[action], <the> <wears> <pair>.",
    "[pose], <some> <wears> <pair>.",
    "<some> <does>, in <pair>.",
    "seen [view], <the> <wears> <pair>.",
    "in <pair>, <some> is <does>.",
    "dressed in <pair>, <the> is <does>.",
    "there is <some> in <pair>.",
    "with <looks>, <the> <wears> <pair>.",
    "holding [held object], <some> <wears> <pair>.",
    "carrying [colored bag], <the> <wears> <pair>.",
    "<some> <having>, in [colored outerwear].",
    "<some> <having>, <wearing> [colored top or dress].",
    "<the> <carries> and <wears> [colored top or dress].",
    "[colored top], [colored bottom] and [colored shoes] on <some>.",
    "<some> with [headwear] and [colored outerwear], seen [view].",
    "<pair>, worn by <some>.",
    "<some> in [colored shoes], [colored bottom] and [colored top].",
    "<some> whose clothes are <pair>.",
    "<some>, [action], <wears> <pair>.",
    "below [headwear], <the> has [hair] and [colored top or dress].",
)
"""Eight to some fifteen words once filled: as people write queries."""

FRAMES = (
    "<some> with <looks> <wears> <outfit>, and <has>.",
    "<some> <does> <wears> <outfit>.",
    "<some> <having> <wears> <outfit>.",
    "<the> is <does>, <wearing> <outfit>.",
    "<some> is <does> in <outfit>, <having>.",
    "<having>, <the> is <does> in <outfit>.",
    "<the> has <looks> and <wears> <outfit>.",
    "wearing <outfit>, <the> is <does>.",
    "dressed in <pair>, <having>, <the> is <does>.",
    "from head to toe, <the> wears [headwear], [colored top], [colored bottom] and [colored shoes].",
    "from the feet up, <the> wears [colored shoes], [colored bottom] and [colored top or dress], with <looks>.",
    "starting at the feet, <the> wears [colored shoes], [colored socks], [colored bottom] and [colored top].",
    "starting at the head, <the> has <looks>, and wears <outfit>.",
    "the upper body of <the> is in [colored top], the lower in [colored bottom], and the feet in [colored shoes].",
    "the feet are in [colored shoes], the legs in [colored bottom], and the upper body of <the> in [colored top].",
    "on the feet <the> has [colored shoes], on the legs [colored bottom], and on the upper body [colored top].",
    "on the head <the> has [headwear]; the clothes are [colored top] and [colored bottom].",
    "around the neck <the> wears [colored scarf], and below it [colored outerwear] and [colored bottom].",
    "at the waist <the> wears [colored belt], between [colored top] and [colored bottom].",
    "<the> combines [colored top] with [colored bottom] and [colored shoes], and <has>.",
    "<the> wears [colored top] together with [colored bottom], and <has>.",
    "<the> wears [colored outerwear] over [colored inner top], and <has>.",
    "the outfit of <the> is <outfit>.",
    "the outfit of <the>, who is <does>, consists of <outfit>.",
    "what <the> wears is <outfit>.",
    "it is <some> with <looks>, <wearing> <outfit>.",
    "<some> with <looks> is <does>, <wearing> <outfit>.",
    "<some> with [hair] and [colored bag] is <does> in <pair>.",
    "<some> who <has> is dressed in <outfit>.",
    "<the>, who <has>, is <does> in <pair>.",
    "<some> is seen [view], <having>, <wearing> <pair>.",
    "<some> of [body build] <wears> <outfit>.",
    "of [body build] and with <looks>, <the> <wears> <pair>.",
    "above [colored bottom] and [colored shoes], <the> wears [colored top] with [sleeve length].",
    "over [colored inner top] <the> wears [colored outerwear], with [colored bottom] below.",
    "under [colored outerwear] <the> wears [colored inner top], together with [colored bottom] and [colored shoes].",
    "below [colored outerwear], <the> wears [colored bottom] and [colored shoes], <having>.",
    "<the> is <does>. <again> <wears> <outfit>.",
    "<some> with <looks> is <does>. The clothes are <outfit>.",
    "<some> is <does>; the clothes are <outfit>.",
    "the clothes of <the> are <outfit>. <again> <has>.",
    "the clothes of <the> are [top color] above and [bottom color] below, with [colored shoes].",
    "<the> is of [body build], has [hair] and <wears> <outfit>.",
    "<the>, seen [view], <wears> <outfit>, and <has>.",
    "<the> <wears> [colored top] with [neckline], and [colored bottom] with [bottom detail].",
    "<the> <wears> [colored top] with [pattern] and [sleeve length], and [colored bottom].",
    "<the> <wears> [colored outerwear] with [closure], and [colored bottom].",
    "besides <pair>, <the> has [accessory] and [colored bag].",
    "together with <pair>, <the> has [colored bag] [bag position].",
    "<some> is <does> in <pair>, and has [accessory].",
    "<the> is [action] with [vehicle or cart], <wearing> <outfit>.",
    "while [action], <the> <carries>. <again> is dressed in <pair>.",
    "[colored top] and [colored bottom] are worn by <some> with <looks>.",
    "with <looks>, <some> is <does>. On the upper body is [colored top or dress].",
    "as for clothes, <the> wears <outfit>, and <has>.",
    "seen [view] and [action], <the> has [hair], and <wears> <pair>.",
)
"""Some fifteen to thirty words, as in captions of the usual data sets."""

LONG_FRAMES = (
    "<some> with <looks> is <does>. <again> <wears> <whole outfit>, and <has>.",
    "<some> is <does>. <again> has <looks>. The clothes are <whole outfit>.",
    "<the> is <does>, seen [view], and has <looks>. The outfit is <whole outfit>.",
    "<the> has <looks> and is of [body build]. Seen [view], the person <wears> <whole outfit>.",
    "<some> <wears> <outfit>. <again> has <looks>, and is <does>, <having>.",
    "<having>, <some> is <does>. The upper body is in [colored outerwear] over [colored inner top], the legs are in"
    " [colored bottom], and the feet are in [colored shoes].",
    "on the head <the> has [headwear], on the upper body [colored outerwear] over [colored inner top], on the legs"
    " [colored bottom], and on the feet [colored shoes]. <again> <has>.",
    "<the> <wears> <whole outfit>. <again> is of [body build], has <looks> and is <does>.",
    "this person, [age and gender] with <looks>, is <does>, <wearing> <whole outfit>.",
    "[age and gender] is <does>, <having>. Over [colored inner top] the person wears [colored outerwear], with"
    " [colored bottom] and [colored shoes] below.",
    "dressed in <whole outfit>, <the> is <does>, <having>. <again> has <looks>.",
    "the person is [age and gender] with <looks>. The clothes are <whole outfit>, and the person <has>.",
    "from head to foot, <the> wears [headwear], [colored top] with [pattern], [colored bottom] and [colored shoes],"
    " <having>.",
    "<some> of [body build], with <looks>, <wears> <whole outfit>, is <does>, and <has>.",
    "<the>, with <looks>, <wears> <whole outfit> and is <does>, <having>.",
)
"""Thirty to some sixty words."""

_PART = re.compile(r"<([a-z ]+)>")
_SLOT = re.compile(r"\[[^\]]*\]")


def write_templates() -> TemplateSet:
    """The shipped set, from the grammar: always the same.

    Raises:
        ValueError: if the frames have too few products within the limits.
    """
    texts = [*WRITTEN]
    patterns: set[str] = set()
    sequences = {tuple(_SLOT.findall(text)) for text in texts}
    openings: Counter[str] = Counter()

    def is_new(text: str, pattern: str) -> bool:
        opening, sequence = opening_of(text), tuple(_SLOT.findall(text))
        if pattern in patterns or sequence in sequences or openings[opening] == MAX_SAME_OPENING:
            return False
        if len(set(sequence)) < len(sequence):  # a slot that is asked for twice
            return False
        patterns.add(pattern)
        sequences.add(sequence)
        openings[opening] += 1
        return True

    for frames, count in ((SHORT_FRAMES, 70), (FRAMES, 150), (LONG_FRAMES, 93)):
        waiting = [iter(sorted(_products(frame), key=lambda product: _hash(product[0]))) for frame in frames]
        end = len(texts) + count
        while len(texts) < end:
            before = len(texts)
            for products in waiting:
                if len(texts) < end:
                    texts += itertools.islice((text for text, pattern in products if is_new(text, pattern)), 1)
            if len(texts) == before:
                raise ValueError(f"the frames give {before} templates within the limits: add frames or parts")
    templates = (Template(f"g{number:03}", text) for number, text in enumerate(texts, start=1))
    return TemplateSet(VERSION, tuple(templates), ORIGIN)


def opening_of(text: str) -> str:
    """The first three words of a template, a slot counting as one.

    >>> opening_of("[age and gender] in [colored top] with [hair].")
    '[age and gender] in [colored top]'
    """
    return " ".join(re.findall(r"\[[^\]]*\]|[^\s\[]+", text)[:3])


def _products(frame: str) -> Iterator[tuple[str, str]]:
    """Each product of a frame, and the same without its subjects."""
    pieces = _PART.split(frame)  # text and names of parts in turn
    choices = [PARTS[piece] if place % 2 else (piece,) for place, piece in enumerate(pieces)]
    for combination in itertools.product(*choices):
        text = re.sub(r"(?:^|(?<=\. ))[a-z]", lambda match: match[0].upper(), "".join(combination))
        pattern = ["_" if name in SUBJECTS else text for name, text in zip(pieces, combination, strict=True)]
        yield text, "".join(pattern)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
