"""The Markdown pages of the repository, their code blocks, links and anchors."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[2]
STORIES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
"""Pages whose Python and shell blocks are run, or marked."""
PAGES = [*STORIES, ROOT / "CONTRIBUTING.md"]
RUNNABLE = ("python", "bash", "console")
_BLOCK = re.compile(
    r"^(?:<!-- (?P<marker>not run: [^\n]*?) -->\n)?```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page (`Path`): the Markdown file.
        line (`int`): line of the first line of code.
        language (`str`): as the fence names it, or empty.
        code (`str`)
        not_run (`str`, *optional*): why no test runs it, from the comment above the fence.
    """

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("code")) + 1,
            match["language"],
            match["code"],
            match["marker"].removeprefix("not run: ") if match["marker"] else None,
        )
        for match in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """Targets of links that do not leave the repository."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    return (target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target))


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MkDocs make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*?)\s*$", prose(page), re.MULTILINE):
        text = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        text = re.sub(r"[^\w\s-]", "", text.replace("`", "")).strip().lower()
        found |= {re.sub(r"[-\s]+", "-", text), re.sub(r"\s", "-", text)}
    return found
