"""MkDocs hooks: pages included from files outside `docs/`, and an API page for each room of the packages.

Included pages keep one source: the links of the file are rewritten to fit the site. A link to a file of the repository
that is not part of the site becomes plain text.
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).parents[2]

INCLUDED = {
    "results.md": "benchmarks/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "limits.md": "README.md",
}
"""Page of the site -> file of the repository."""
SECTIONS = {"limits.md": "Limits"}
"""Page -> the only section of its file that it shows."""
PACKAGES = ("modeling_gadms", "dataset_scripts")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the section `API reference` of the navigation."""
    section = next(item for item in config.nav if "API reference" in item)
    section["API reference"] = [
        {package: [{_label(room): _page_of(room)} for room in rooms() if room.split(".")[0] == package]}
        for package in PACKAGES
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, source in INCLUDED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = section(text, SECTIONS[page]) if page in SECTIONS else text
        files.append(File.generated(config, page, content=with_links(text, source, page)))
    for room in rooms():
        files.append(File.generated(config, _page_of(room), content=reference(room)))
    return files


def rooms() -> list[str]:
    """Dotted names of the packages' folders that contain modules, parents first."""
    found = []
    for package in PACKAGES:
        folders = sorted({path.parent for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"})
        found += [folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders]
    return found


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links of the pages in `docs/` that lead out of it."""
    generated = page.file.src_uri in INCLUDED or page.file.src_uri.startswith("reference/")
    return markdown if generated else with_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def section(text: str, title: str) -> str:
    """A section of a page, as a page of its own."""
    return re.search(rf"^#(# {title}\n.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]


def with_links(text: str, source: str, page: str) -> str:
    """The text of a file of the repository, with links that work on a page of the site.

    Args:
        text (`str`): Markdown.
        source (`str`): the file, relative to the root of the repository.
        page (`str`): the page, relative to `docs/`.
    """
    pages = {path: name for name, path in INCLUDED.items() if name not in SECTIONS}

    def rewritten(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        if target.startswith(("http://", "https://", "#", "mailto:")):
            return match[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if path in pages:
            path = pages[path]
        elif path.startswith("docs/"):
            path = path.removeprefix("docs/")
        else:
            return label
        relative = posixpath.relpath(path, posixpath.dirname(page) or ".")
        return f"{image}[{label}]({relative}{'#' + anchor if anchor else ''})"

    return _LINK.sub(rewritten, text)


def reference(room: str) -> str:
    """The API page of a room: its purpose, its public names and then its modules."""
    folder = ROOT / room.replace(".", "/")
    purpose = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    lines = [f"# `{room}`", "", purpose, ""]
    stub = folder / "__init__.pyi"
    if stub.is_file():
        lines += ["Public names, imported from the room itself:", ""]
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                lines += [f"- {link(f'{room}.{node.module}.{each.name}', each.name)}" for each in node.names]
        lines.append("")
    for module in sorted(path.stem for path in folder.glob("*.py") if path.name != "__init__.py"):
        lines += [f"::: {room}.{module}", ""]
    return "\n".join(lines)


def link(target: str, shown: str) -> str:
    """A reference that is plain code if the site has no such object."""
    return f'<autoref optional identifier="{target}">`{shown}`</autoref>'


def _label(room: str) -> str:
    return room.partition(".")[2] or room


def _page_of(room: str) -> str:
    return f"reference/{room}.md"
