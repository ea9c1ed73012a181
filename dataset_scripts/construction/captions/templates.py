"""Caption templates: sentences with placeholders that show the captioner how to structure a description.

The paper mines 1,000 templates from the captions of existing data sets. `templates_en.json` contains 420 templates
written for this package (`template_grammar.py`), so that captioning needs neither mining nor other data sets.
"""

import hashlib
import json
import re
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from modeling_gadms.encoders.atomic_files import write_atomically

from .words import COMMAND, MARKUP, folded, is_foreign_letter


FORMAT = 1
"""Version of the JSON format; raised on incompatible changes."""
MAX_TEMPLATE_WORDS = 70
"""Not stated: chosen. Once filled, a longer template exceeds the 77 tokens of the text encoder."""
MAX_PLACEHOLDER_WORDS = 4
"""Not stated: chosen. A placeholder names one attribute."""
TEMPLATE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHIPPED = Path(__file__).with_name("templates_en.json")

_PLACEHOLDER = re.compile(r"\[[a-z][a-z0-9]*(?:[ -][a-z0-9]+)*\]")
_BRACKET = re.compile(r"\[[^\[\]]*\]")
# Words of instructions to a model that a description of a person does not need.
_ADDRESS_TO_A_MODEL = re.compile(r"\b(?:assistant|system prompt|please|caption|template|placeholder|do not|don't)s?\b")
_Record = TypeVar("_Record")


class TemplateError(ValueError):
    """An unusable set of templates: names the file, the template, the problem and what to do."""


@dataclass(frozen=True)
class Template:
    """A sentence pattern such as "The [gender] wears a [colored top] and [colored bottom]."

    Args:
        id (`str`): recorded with every caption and never reused for another text, such as "t001".
        text (`str`): one line, with at least one placeholder.
    """

    id: str
    text: str


@dataclass(frozen=True)
class MinedOrigin:
    """How templates were mined, in enough detail to repeat it."""

    data_set: str
    split: str
    revision: str | None  # `None` for local files
    language_model: str  # wrote the templates
    embedding_model: str  # embedded them for clustering
    clusters: int  # k of k-means
    seed: int  # of clustering and sampling


@dataclass(frozen=True)
class TemplateSet:
    """A validated set of templates: the captioner follows what a template says.

    Args:
        version (`str`): recorded with every caption; raised on every change of the templates.
        templates (`tuple[Template, ...]`): at least one; their order matters to `draw_template`.
        origin (`MinedOrigin` or `str`): how they were mined; for hand-written templates a description.
        language (`str`, *optional*, defaults to `"en"`): informational; the caption rules are for English.

    Raises:
        TemplateError: names the template and the problem.
    """

    version: str
    templates: tuple[Template, ...]
    origin: MinedOrigin | str
    language: str = "en"

    def __post_init__(self) -> None:
        if not self.version or not self.language or not self.origin:
            raise TemplateError("a set of templates needs a version, a language and an origin: one of them is empty")
        if not self.templates:
            raise TemplateError("a set of templates needs at least one template")
        ids: set[str] = set()
        texts: dict[str, str] = {}
        for place, template in enumerate(self.templates, start=1):
            if not TEMPLATE_ID.fullmatch(template.id):
                raise TemplateError(
                    f"template {place} has the id {template.id!r}: use letters, digits, '.', '_' and '-', such as t001"
                )
            if template.id in ids:
                raise TemplateError(f"duplicate template id {template.id}: ids must be unique")
            ids.add(template.id)
            if problem := template_problem(template.text):
                raise TemplateError(f"template {template.id} {problem}: fix or remove it: {template.text!r}")
            # Texts that differ only in letter case or spaces are equal.
            first = texts.setdefault(folded(template.text), template.id)
            if first != template.id:
                raise TemplateError(f"template {template.id} has the same text as {first}: remove one of them")

    @classmethod
    def load(cls, path: str | Path | None = None) -> "TemplateSet":
        """Read and validate a set.

        Args:
            path (`str` or `Path`, *optional*): a file written by `save`; by default the shipped set.

        Raises:
            TemplateError: names the file, the template and the problem.
            OSError: if the file cannot be read.
        """
        path = SHIPPED if path is None else Path(path)
        try:
            return _parse(path.read_bytes())
        except TemplateError as error:
            raise TemplateError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the set as JSON; equal sets give equal files."""
        content = {"format": FORMAT, "version": self.version, "language": self.language}
        content |= {"origin": self.origin, "templates": self.templates}
        text = json.dumps(content, default=asdict, indent=2, ensure_ascii=False)
        write_atomically(Path(path), text + "\n")


def template_problem(text: str) -> str | None:
    """Check one template. An invalid template must never reach the captioner.

    Returns:
        `str`, *optional*: the problem, as a predicate ("is empty"); `None` if the template is valid.
    """
    if not text.strip():
        return "is empty"
    if not text.isprintable():
        return "has several lines or control characters"
    if any(is_foreign_letter(character) for character in text):
        return "has letters outside the Latin script"
    words = len(text.split())
    if words > MAX_TEMPLATE_WORDS:
        return f"has {words} words, but at most {MAX_TEMPLATE_WORDS} are allowed"
    lowered = folded(text)
    if MARKUP.search(lowered) or COMMAND.search(lowered) or _ADDRESS_TO_A_MODEL.search(lowered):
        return "contains code, markup, a web address, or text that a language model may read as an instruction"
    return _bracket_problem(text)


def _bracket_problem(text: str) -> str | None:
    for bracket in _BRACKET.findall(text):
        if not _PLACEHOLDER.fullmatch(bracket) or len(bracket.split()) > MAX_PLACEHOLDER_WORDS:
            return f"has {bracket}, which is not a placeholder of one to {MAX_PLACEHOLDER_WORDS} lower-case words"
    if re.search(r"[\[\](){}<>]", _BRACKET.sub("", text)):
        return "has unbalanced or nested brackets, or brackets other than those of [placeholders]"
    return None if _PLACEHOLDER.search(text) else "has no placeholder such as [colored top]"


def draw_template(templates: TemplateSet, row_id: str, slot: int, attempt: int, seed: int) -> Template:
    """Draw the template of one caption uniformly, as a pure function of the arguments.

    The paper shows each image one random template. Not stated: each further attempt at the same caption gets a
    template that earlier attempts did not have, until all were used; then they are drawn again in another order.

    Args:
        slot (`int`): number of the caption column.
        attempt (`int`): number of earlier attempts.
    """
    count = len(templates.templates)
    cycle, step = divmod(attempt, count)
    # A partial Fisher-Yates shuffle; `moved` maps positions to the items that were swapped there.
    moved: dict[int, int] = {}
    chosen = 0
    for place in range(step + 1):
        key = json.dumps([seed, row_id, slot, cycle, place]).encode()
        # With 128 bits the bias of the remainder is below 1e-30.
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
        raise TemplateError("must contain one JSON object with the keys format, version, language, origin, templates")
    if (found := data.pop("format", None)) != FORMAT:
        raise TemplateError(f"has the format {found!r}, this version reads {FORMAT}: save it again")
    rows = data.get("templates")
    if not isinstance(rows, list):
        raise TemplateError("'templates' must be a list of objects with an id and a text")
    data["templates"] = tuple(_record(Template, row, f"template {place}") for place, row in enumerate(rows, start=1))
    if not isinstance(data.get("origin"), str):
        data["origin"] = _record(MinedOrigin, data.get("origin"), "the origin")
    return _record(TemplateSet, data, "the file")


def _record(kind: type[_Record], values: Any, where: str) -> _Record:
    """Create a dataclass from JSON, checking keys and the types of strings and numbers."""
    if not isinstance(values, dict):
        raise TemplateError(f"{where} must be a JSON object, not {values!r}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise TemplateError(f"{where} has unknown keys {unknown}; known keys are {sorted(known)}")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in values]:
        raise TemplateError(f"{where} lacks the keys {missing}")
    for name, value in values.items():
        expected: Any = known[name].type
        if expected in (str, int, str | None) and (not isinstance(value, expected) or isinstance(value, bool)):
            wanted = getattr(expected, "__name__", str(expected))
            raise TemplateError(f"{where}: {name!r} must be of type {wanted}, not {value!r}")
    return kind(**values)
