"""A Griffe extension that turns docstrings in Hugging Face's form into Markdown.

References such as ``[`~package.module.Name`]`` and ``[`Name`]`` become links if the site documents the name, and code
otherwise. Sections such as `Args:` become lists, and examples with `>>>` become code blocks.
"""

import inspect
import re
from collections import defaultdict
from pathlib import Path

import griffe


ROOT = Path(__file__).parents[2]
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples?|Note|Warning):$")
_TITLES = {"Args": "Parameters", "Example": "Examples"}
_REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?![\[(])")
_NAME = re.compile(r"(^|, )(\*{0,2}[A-Za-z_]\w*)(?=$|,| \()")


def _documented() -> dict[str, list[str]]:
    """Last name -> full names of the public classes and functions of the packages."""
    found = defaultdict(list)
    for package in ("modeling_gadms", "dataset_scripts"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            for name in re.findall(r"^(?:class|def) ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
                found[name].append(f"{module}.{name}")
    return found


class HuggingFaceDocstrings(griffe.Extension):
    """Rewrites every docstring of the packages after a package is loaded."""

    def __init__(self) -> None:
        self.names = _documented()
        self.full_names = {full for names in self.names.values() for full in names}

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value, self.resolve)

    def resolve(self, name: str, module: str = "") -> str | None:
        """The full name of a documented object, or None."""
        parent = name.rpartition(".")[0]
        if name in self.full_names or parent in self.full_names:
            return name
        found = self.names.get(name, [])
        return found[0] if len(found) == 1 else None


def to_markdown(docstring: str, resolve) -> str:
    """The Markdown of a docstring."""
    lines = inspect.cleandoc(docstring).splitlines()
    written, position = [], 0
    while position < len(lines):
        section = _SECTION.match(lines[position])
        if not section:
            written.append(lines[position])
            position += 1
            continue
        end = position + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
            end += 1
        body = inspect.cleandoc("\n".join(["", *lines[position + 1 : end]])).splitlines()
        title = section[1]
        written += ["", f"**{_TITLES.get(title, title)}:**", ""]
        written += _entries(body) if title in ("Args", "Attributes", "Raises") else body
        written.append("")
        position = end
    return _REFERENCE.sub(lambda match: _reference(match, resolve), _with_examples_fenced("\n".join(written)))


def _entries(body: list[str]) -> list[str]:
    """A list item for each parameter, attribute or error of a section."""
    written: list[str] = []
    for line in body:
        if line and not line.startswith(" "):
            head, text = _split(line)
            written.append("- " + _NAME.sub(r"\1**`\2`**", head) + (f" – {text}" if text else ""))
        elif written and line and written[-1].startswith("- ") and " – " not in written[-1]:
            written[-1] += f" – {line.strip()}"
        else:
            written.append(f"  {line.strip()}" if line else "")
    return written


def _split(line: str) -> tuple[str, str]:
    """The names and types of an entry, and its text after the first colon outside of parentheses."""
    depth = 0
    for position, character in enumerate(line):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == ":" and depth == 0:
            return line[:position], line[position + 1 :].strip()
    return line, ""


def _with_examples_fenced(text: str) -> str:
    """Paragraphs that begin with `>>>` as code blocks."""
    paragraphs = re.split(r"\n{2,}", text)
    return "\n\n".join(f"```pycon\n{each}\n```" if each.lstrip().startswith(">>>") else each for each in paragraphs)


def _reference(match: re.Match[str], resolve) -> str:
    tilde, name = match.groups()
    shown = name.rpartition(".")[2] if tilde else name
    target = resolve(name)
    return f'<autoref optional identifier="{target}">`{shown}`</autoref>' if target else f"`{shown}`"
