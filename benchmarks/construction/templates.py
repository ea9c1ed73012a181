"""Variety of sets of caption templates, beside the published statistics of real captions.

    python -m benchmarks.construction.templates                     # the shipped set: seconds
    python -m benchmarks.construction.templates old.json mined.json # other sets, a column each
    python -m benchmarks.construction.templates --write             # write the shipped set again, from its grammar

A placeholder counts as one word in openings and in self-BLEU, and as the words of its name in lengths. Self-BLEU is
the mean BLEU-4 of a template against all others of its set (Zhu et al., arXiv 1802.01886): lower is more varied. It
grows with the number of templates, so sets are compared by the mean over `--draws` samples of `--sample` templates.
"""

import argparse
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import mean, median

from benchmarks.measuring import table
from dataset_scripts.construction.captions.template_grammar import opening_of, write_templates
from dataset_scripts.construction.captions.templates import SHIPPED, TemplateSet


BANDS = ((0, 10), (11, 15), (16, 20), (21, 30), (31, 100))
LONGEST_N_GRAM = 4
SMOOTHING = 0.1
"""Counts as the matches of an order without any (Chen and Cherry 2014, method 1)."""
REAL_CAPTIONS = """\
Words of real captions, as published: CUHK-PEDES 23.5 on average, 96 at most (Li et al., arXiv 1702.05729);
ICFG-PEDES 37.2 on average (Ding et al., arXiv 2107.12666); RSTPReid 23 or more (Zhu et al., arXiv 2109.05534)."""

_WORD = re.compile(r"\[[^\]]*\]|[^\s\[\].,;]+")
_Counts = Counter[tuple[str, ...]]


def words_of(template: str) -> list[str]:
    """The words of a template, each placeholder as one.

    >>> words_of("A [gender] in [colored top].")
    ['a', '[gender]', 'in', '[colored top]']
    """
    return _WORD.findall(template.lower())


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU-4 of each of two or more texts against all others, from 0 to 1."""
    words = [words_of(text) for text in texts]
    counts = [_n_grams(sequence) for sequence in words]
    # The two largest counts of an n-gram: the second is the largest among the others for the text that has the first.
    largest: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    for grams in counts:
        for gram, count in grams.items():
            largest[gram] = sorted([*largest[gram], count])[1:]
    lengths = [len(sequence) for sequence in words]
    return mean(_bleu(grams, largest, lengths, place) for place, grams in enumerate(counts))


def _n_grams(words: list[str]) -> _Counts:
    sizes = range(1, LONGEST_N_GRAM + 1)
    return Counter(tuple(words[start : start + n]) for n in sizes for start in range(len(words) - n + 1))


def _bleu(grams: _Counts, largest: dict[tuple[str, ...], list[int]], lengths: Sequence[int], place: int) -> float:
    matches, totals = [0.0] * LONGEST_N_GRAM, [0] * LONGEST_N_GRAM
    for gram, count in grams.items():
        second, first = largest[gram]
        matches[len(gram) - 1] += min(count, second if first == count else first)
        totals[len(gram) - 1] += count
    precisions = [(match or SMOOTHING) / max(total, 1) for match, total in zip(matches, totals, strict=True)]
    own = lengths[place]
    others = (length for other, length in enumerate(lengths) if other != place)
    closest = min(others, key=lambda length: (abs(length - own), length))
    brevity = min(1.0, math.exp(1 - closest / own))
    return brevity * math.exp(mean(math.log(precision) for precision in precisions))


def figures(templates: TemplateSet, sample: int, draws: int, seed: int) -> dict[str, str]:
    """The rows of the table, for one set."""
    texts = [template.text for template in templates.templates]
    slots = [tuple(word for word in words_of(text) if word.startswith("[")) for text in texts]
    lengths = [len(text.split()) for text in texts]
    openings = Counter(opening_of(text) for text in texts)
    random_numbers = random.Random(seed)  # noqa: S311
    samples = [random_numbers.sample(texts, min(sample, len(texts))) for _ in range(draws)]
    gendered = sum(bool({"[gender]", "[age and gender]", "[pronoun]"} & set(found)) for found in slots)
    bands = {
        f"words: {least} to {most}" if least else f"words: up to {most}": sum(least <= n <= most for n in lengths)
        for least, most in BANDS
    }
    return {
        "templates": str(len(texts)),
        "distinct openings of three words": f"{len(openings)} ({len(openings) / len(texts):.0%})",
        "the most frequent opening": str(max(openings.values())),
        "begin with `A [gender]`": _share([text.startswith("A [gender]") for text in texts]),
        "name no gender": f"{1 - gendered / len(texts):.0%}",
        "kinds of placeholders": str(len({slot for found in slots for slot in found})),
        "distinct sequences of placeholders": str(len(set(slots))),
        f"self-BLEU of {sample}": f"{mean(map(self_bleu, samples)):.3f}",
        "self-BLEU of all": f"{self_bleu(texts):.3f}",
        "words: shortest, median, mean, longest": (
            f"{min(lengths)}, {median(lengths):g}, {mean(lengths):.1f}, {max(lengths)}"
        ),
        **{name: f"{count / len(texts):.0%}" for name, count in bands.items()},
    }


def _share(values: Sequence[bool]) -> str:
    return f"{sum(values)} ({sum(values) / len(values):.0%})"


def main(arguments: argparse.Namespace) -> None:
    if arguments.write:
        write_templates().save(SHIPPED)
    sets = {"shipped": TemplateSet.load(), **{path: TemplateSet.load(path) for path in arguments.sets}}
    columns = {name: figures(of, arguments.sample, arguments.draws, arguments.seed) for name, of in sets.items()}
    rows = [[row, *(column[row] for column in columns.values())] for row in columns["shipped"]]
    print(table(["", *columns], rows))
    print(f"\n{REAL_CAPTIONS}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help="files of other sets")
    parser.add_argument("--sample", type=int, default=120, help="templates of a sample (default: 120)")
    parser.add_argument("--draws", type=int, default=20, help="samples (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default: 0)")
    parser.add_argument("--write", action="store_true", help=f"write {SHIPPED.name} from the grammar first")
    main(parser.parse_args())
