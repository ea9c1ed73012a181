"""Caption templates: sentences with placeholders that show the captioner how to arrange a description.

The paper mines 1,000 of them from the captions of existing data sets. `templates_en.json`, beside this file, holds 120
written for this package, so that captioning needs no mining and no foreign data.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from .words import COMMAND, MARKUP, folded, is_foreign_letter


FORMAT = 1
"""Of the JSON file; raised when a reader of this version could no longer read it."""
MAX_TEMPLATE_WORDS = 70
"""Not stated: chosen. With its placeholders filled, a longer template exceeds the 77 tokens that the model reads."""
MAX_PLACEHOLDER_WORDS = 4
"""Not stated: chosen. A placeholder names one attribute; a longer bracket is a sentence in disguise."""
SHIPPED = Path(__file__).with_name("templates_en.json")

_PLACEHOLDER = re.compile(r"\[([a-z][a-z0-9]*(?:[ -][a-z0-9]+)*)\]")
_BRACKET = re.compile(r"\[[^\[\]]*\]")
# Words that a description of one person has no use for, and a text that wants to command the captioner has.
_ADDRESS_TO_A_MODEL = re.compile(r"\b(?:assistant|system prompt|please|caption|template|placeholder|do not|don't)s?\b")
_Record = TypeVar("_Record")


class TemplateError(ValueError):
    """A set of templates that cannot be used: says which file and which template, what is wrong and what to do."""


@dataclass(frozen=True)
class Template:
    """A sentence pattern such as "The [gender] wears a [colored top] and [colored bottom]."

    Args:
        id (`str`): recorded with every caption, so it stays with the text for ever: "t001".
        text (`str`): one line, with at least one placeholder.
    """

    id: str
    text: str


@dataclass(frozen=True)
class MinedOrigin:
    """What mined templates were made from and with: enough to mine them again.

    Args:
        data_set, split, revision (`str`): of the captions; the revision is `None` for files without one.
        language_model (`str`): wrote the templates.
        embedding_model (`str`): embedded them for clustering.
        clusters (`int`): k of k-means.
        seed (`int`): of clustering and sampling.
    """

    data_set: str
    split: str
    revision: str | None
    language_model: str
    embedding_model: str
    clusters: int
    seed: int


@dataclass(frozen=True)
class TemplateSet:
    """Templates to draw from, all of them checked: what the captioner is shown, it follows.

    Args:
        version (`str`): recorded with every caption; raised on every change of the templates.
        templates (`tuple[Template, ...]`): at least one, in the order that `draw_template` counts.
        origin (`MinedOrigin` or `str`): how they were mined, or, of templates written by hand, by whom and for what.
        language (`str`, *optional*, defaults to `"en"`): for the record; the rules on captions are for English.

    Raises:
        TemplateError: names the template and what is wrong with it.
    """

    version: str
    templates: tuple[Template, ...]
    origin: MinedOrigin | str
    language: str = "en"

    def __post_init__(self) -> None:
        if not self.version or not self.language or not self.origin:
            raise TemplateError("a set of templates needs a version, a language and an origin: fill in the empty one")
        if not self.templates:
            raise TemplateError("a set of templates needs at least one template")
        ids: set[str] = set()
        texts: dict[str, str] = {}
        for place, template in enumerate(self.templates, start=1):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", template.id):
                raise TemplateError(
                    f"template {place} has the id {template.id!r}: use letters, digits, '.', '_' and '-', such as t001"
                )
            if template.id in ids:
                raise TemplateError(f"template id {template.id} is given twice: ids must be unique")
            ids.add(template.id)
            if problem := template_problem(template.text):
                raise TemplateError(f"template {template.id} {problem}: mend or remove it: {template.text!r}")
            # Letter case and spaces make no other template.
            first = texts.setdefault(folded(template.text), template.id)
            if first != template.id:
                raise TemplateError(f"template {template.id} has the same text as {first}: remove one of them")

    @classmethod
    def load(cls, path: str | Path | None = None) -> "TemplateSet":
        """Read a set and check it.

        Args:
            path (`str` or `Path`, *optional*): a file that `save` wrote; by default the set of this package.

        Raises:
            TemplateError: names the file, the template and what is wrong.
            FileNotFoundError: if there is no such file.
        """
        path = SHIPPED if path is None else Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file of templates {path}: give another, or none for the shipped set")
        try:
            return _parse(path.read_bytes())
        except TemplateError as error:
            raise TemplateError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the set as JSON; equal sets give equal files."""
        content = {"format": FORMAT, "version": self.version, "language": self.language}
        origin = self.origin if isinstance(self.origin, str) else asdict(self.origin)
        rows = [asdict(template) for template in self.templates]
        text = json.dumps({**content, "origin": origin, "templates": rows}, indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8", newline="\n")


def placeholders(text: str) -> list[str]:
    """The placeholders of a template in order, each as often as it stands there.

    >>> placeholders("The [gender] wears a [colored top].")
    ['gender', 'colored top']
    """
    return _PLACEHOLDER.findall(text)


def template_problem(text: str) -> str | None:
    """Check one template: a faulty one must never reach the captioner, whoever wrote it.

    Returns:
        `str`, *optional*: what is wrong, as the end of a sentence that begins with the template; `None` if it is fine.
    """
    if not text.strip():
        return "is empty"
    if not text.isprintable():
        return "has several lines or control characters"
    if any(is_foreign_letter(character) for character in text):
        return "has letters of another script than the Latin one"
    words = len(text.split())
    if words > MAX_TEMPLATE_WORDS:
        return f"has {words} words, at most {MAX_TEMPLATE_WORDS} are allowed"
    lowered = folded(text)
    if MARKUP.search(lowered) or COMMAND.search(lowered) or _ADDRESS_TO_A_MODEL.search(lowered):
        return "has text that a language model may take for an instruction, or an address, code or markup"
    return _bracket_problem(text)


def _bracket_problem(text: str) -> str | None:
    for bracket in _BRACKET.findall(text):
        if not _PLACEHOLDER.fullmatch(bracket) or len(bracket.split()) > MAX_PLACEHOLDER_WORDS:
            return f"has {bracket}, which is no placeholder of one to {MAX_PLACEHOLDER_WORDS} lower-case words"
    if re.search(r"[\[\](){}<>]", _BRACKET.sub("", text)):
        return "has unbalanced, nested or other brackets than those of [placeholders]"
    return None if placeholders(text) else "has no placeholder such as [colored top]"


def draw_template(templates: TemplateSet, row_id: str, slot: int, attempt: int, seed: int) -> Template:
    """Draw the template of one caption, uniformly, as a pure function of the arguments.

    The paper shows each image one random template. Not stated: a new attempt at the same caption gets a template that
    the earlier attempts had not; when all were drawn, a new round begins in another order.

    Args:
        row_id (`str`): of the image.
        slot (`int`): which of the image's captions, from 0.
        attempt (`int`): from 0, counts how often the captioner was asked before.
        seed (`int`): of the data set.

    Raises:
        ValueError: if `slot` or `attempt` is negative.
    """
    for name, value in (("slot", slot), ("attempt", attempt)):
        if value < 0:
            raise ValueError(f"{name} counts from 0, it cannot be {value}")
    count = len(templates.templates)
    cycle, step = divmod(attempt, count)
    # A shuffle (Fisher and Yates) as far as it is needed: `moved` holds the places that no longer hold themselves.
    moved: dict[int, int] = {}
    chosen = 0
    for place in range(step + 1):
        key = json.dumps([seed, row_id, slot, cycle, place]).encode()
        # 128 bits: the remainder's bias against the last templates is below 1e-30.
        number = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest())
        other = place + number % (count - place)
        chosen = moved.get(other, other)
        moved[other] = moved.get(place, place)
    return templates.templates[chosen]


def _parse(content: bytes) -> TemplateSet:
    try:
        data = json.loads(content)
    except ValueError as error:  # neither UTF-8 nor JSON
        raise TemplateError(f"is not a JSON file: {error}") from error
    if not isinstance(data, dict):
        raise TemplateError("must hold one JSON object with the keys format, version, language, origin, templates")
    if data.get("format") != FORMAT:
        raise TemplateError(f"has the format {data.get('format')!r}, this version reads {FORMAT}: save it anew")
    data = {key: value for key, value in data.items() if key != "format"}
    rows = data.get("templates")
    if not isinstance(rows, list):
        raise TemplateError("'templates' must be a list of objects with an id and a text")
    data["templates"] = tuple(_record(Template, row, f"template {place}") for place, row in enumerate(rows, start=1))
    if not isinstance(data.get("origin"), str):
        data["origin"] = _record(MinedOrigin, data.get("origin"), "the origin")
    return _record(TemplateSet, data, "the file")


def _record(kind: type[_Record], values: Any, where: str) -> _Record:
    """Make a dataclass from JSON; strings and numbers are of the annotated types."""
    if not isinstance(values, Mapping):
        raise TemplateError(f"{where} must be a JSON object, not {values!r}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    required = {name for name, field in known.items() if field.default is MISSING}
    if unknown := sorted(set(values) - set(known)):
        raise TemplateError(f"{where} has unknown keys {unknown}; known are {sorted(known)}")
    if missing := sorted(required - set(values)):
        raise TemplateError(f"{where} lacks the keys {missing}")
    for name, value in values.items():
        expected: Any = known[name].type
        if expected in (str, int, str | None) and (not isinstance(value, expected) or isinstance(value, bool)):
            wanted = getattr(expected, "__name__", str(expected))
            raise TemplateError(f"{where}: {name!r} must be of type {wanted}, not {value!r}")
    return kind(**values)
