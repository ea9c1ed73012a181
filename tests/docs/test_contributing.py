"""Names and paths in CONTRIBUTING.md and in the documentation exist."""

import io
import re
import tokenize
from functools import cache

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, prose
from tests.test_layout import FLOORS


CONTRIBUTING = ROOT / "CONTRIBUTING.md"
HELD = [CONTRIBUTING, ROOT / "docs" / "glossary.md"]
FOLDERS = ("benchmarks", "dataset_scripts", "docs", "examples", "gadms_cli", "modeling_gadms", "tests")
_ROOT_FILE = r"(?:[A-Z]+\.md|constraints[\w-]*\.txt|setup\.cfg|\w+\.toml|\.ci/run)"
_PATH = re.compile(rf"(?<![\w/.-])(?:(?:{'|'.join(FOLDERS)})/[\w./*-]*|{_ROOT_FILE}(?![\w/]))")
_PROGRAMS = ("accelerate", "gadms", "make", "python", "<!--")
RUN_FOLDER = {"run.json", "metrics.json"}
"""Files that runs write, not the repository."""


@cache
def identifiers() -> set[str]:
    """Every name and every word of a short string in the code of the repository."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
                if token.type == tokenize.NAME:
                    found.add(token.string)
                elif token.type == tokenize.STRING and len(token.string) < 40:
                    found.update(re.findall(r"\w+", token.string))
    return found


def code_spans(page) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def paths_in(text: str) -> list[str]:
    """Paths of the repository, and the files of modules that are run as `python -m`."""
    modules = re.findall(rf"-m ((?:{'|'.join(FOLDERS)})\.[\w.]+)", text)
    return [path.rstrip(".") for path in _PATH.findall(text)] + [f"{name.replace('.', '/')}.py" for name in modules]


def exists(path: str) -> bool:
    return any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()


@pytest.mark.parametrize("page", HELD, ids=lambda page: page.name)
def test_names_in_code_are_identifiers_of_the_packages(page):
    unknown = []
    for span in code_spans(page):
        if span.startswith(_PROGRAMS) or _PATH.search(span) or span in RUN_FOLDER:
            continue
        unknown += [name for name in re.findall(r"[A-Za-z_]\w{2,}", span) if name not in identifiers()]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page):
    texts = code_spans(page) + [block.code for block in blocks(page) if block.language in ("bash", "python", "yaml")]
    missing = {path for text in texts for path in paths_in(text) if not exists(path)}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page):
    """Of `gadms`, also in blocks that are not run."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"(?:^|`)gadms ([^`\n]*)", text, re.MULTILINE):
        words = [word for word in line.split(" #")[0].split() if word != "|"]
        assert (command := find_command(words)), f"there is no `gadms {line}`"
        options = set(re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", " " + re.sub(r'"[^"]*"', "", line.split(" #")[0])))
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert options <= known | {"--help", "--install-completion"}, line


def find_command(words):
    import typer

    from gadms_cli.app import app

    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name.startswith("-") or "|" in name:  # `gadms --help`, `gadms index|search`
            return command
        command = command.commands.get(name)
        if command is None:
            return None
    return command


def test_the_table_of_floors_is_the_one_that_the_layout_test_enforces():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", CONTRIBUTING.read_text(encoding="utf-8"), re.MULTILINE)
    table = {}
    for floor, rooms in rows:
        table.update({room: int(floor) for room in re.findall(r"`(\w[\w/]*)`", rooms)})
    assert table == dict(FLOORS)


def test_what_is_not_there_is_found():
    assert paths_in("see `modeling_gadms/media/nowhere.py`.") == ["modeling_gadms/media/nowhere.py"]
    assert paths_in("python -m benchmarks.nowhere.run --all") == ["benchmarks/nowhere/run.py"]
    assert not exists("modeling_gadms/media/nowhere.py") and exists("modeling_gadms/*_gadms.py")
    assert "gradient_attention_scores" in identifiers() and "nowhere_to_be_" + "found" not in identifiers()
    assert find_command(["gallery", "nonsense"]) is None
