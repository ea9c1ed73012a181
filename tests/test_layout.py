"""The layout: which room imports which, how many files a folder holds, and what each room hands out.

A room is a folder of Python files. `FLOORS` is the table that CONTRIBUTING.md shows: a room imports from lower floors
only, never from its own floor or a higher one.
"""

import ast
import importlib
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_gadms", "dataset_scripts", "gadms_cli")
FLOORS: Mapping[str, int] = {
    "modeling_gadms/metrics": 0,
    "modeling_gadms/metrics/person_retrieval": 0,
    "modeling_gadms/media": 1,
    "modeling_gadms": 2,  # the flat files, which ship with the weights
    "modeling_gadms/encoders": 3,
    "modeling_gadms/conversion": 4,
    "modeling_gadms/explain": 4,
    "modeling_gadms/gallery": 4,
    "modeling_gadms/training": 4,
    "modeling_gadms/evaluation": 5,
    "modeling_gadms/indexing": 5,
    "modeling_gadms/publishing": 6,
    "modeling_gadms/serving": 6,
    "modeling_gadms/web": 7,  # the page shares what the server refuses
    "dataset_scripts/releases": 7,
    "dataset_scripts/drawn": 7,
    "dataset_scripts/drawn/persons": 7,
    "dataset_scripts/inspection": 7,
    "dataset_scripts/construction": 7,  # the ground of the pipeline: blocks, shards, report
    "dataset_scripts/drawn/garments": 8,
    "dataset_scripts/construction/sources": 8,
    "dataset_scripts/construction/persons": 8,
    "dataset_scripts/construction/captions/chat": 8,
    "dataset_scripts": 9,  # the names that `load_dataset` takes
    "dataset_scripts/construction/captions": 9,
    "dataset_scripts/construction/template_mining": 10,
    "dataset_scripts/publishing": 10,
    "dataset_scripts/construction/run": 11,
    "gadms_cli": 12,
}
MOST_FILES = 16
Arrow = tuple[str, str]
"""A module that imports, and the module imported, both with dots."""


def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str, paths: Mapping[str, Path]) -> str:
    return paths[module].parent.relative_to(ROOT).as_posix()


def imports_of(module: str, path: Path, known: Iterable[str]) -> Iterator[Arrow]:
    """Arrows to modules of the packages, also those inside functions and for type checkers."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((module, alias.name) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name in known or base in known:
                    yield module, name if name in known else base


def all_arrows() -> list[Arrow]:
    paths = modules()
    return [arrow for module, path in paths.items() for arrow in imports_of(module, path, paths)]


def upward(arrows: Iterable[Arrow], rooms: Mapping[str, str]) -> list[str]:
    """The arrows between rooms that do not lead to a lower floor."""
    between = [(a, b) for a, b in arrows if rooms[a] != rooms[b]]
    return [f"{a} -> {b}" for a, b in between if FLOORS[rooms[b]] >= FLOORS[rooms[a]]]


def circle(arrows: Iterable[Arrow]) -> list[str]:
    """The modules of one circle of imports, or nothing."""
    graph: dict[str, set[str]] = {}
    for a, b in arrows:
        graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_every_room_has_a_floor():
    paths = modules()
    assert {room_of(module, paths) for module in paths} == set(FLOORS)


def test_rooms_import_from_lower_floors_only():
    paths = modules()
    assert upward(all_arrows(), {module: room_of(module, paths) for module in paths}) == []


def test_no_circle_of_imports():
    assert circle(all_arrows()) == []


def test_an_arrow_that_runs_up_and_a_circle_are_found():
    rooms = {"m": "modeling_gadms/media", "g": "modeling_gadms/gallery", "e": "modeling_gadms/explain"}
    assert upward([("g", "m"), ("m", "g"), ("g", "e")], rooms) == ["m -> g", "g -> e"]
    assert set(circle([("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")])) == {"a", "b", "c"}
    relative, absolute = "from ..gallery import filter", "import modeling_gadms.media.video"
    paths = modules()
    for text, target in ((relative, "modeling_gadms.gallery.filter"), (absolute, "modeling_gadms.media.video")):
        assert target in [b for _, b in _imports_in(text, "modeling_gadms.media.images", paths)]


def _imports_in(text: str, module: str, known: Mapping[str, Path]) -> list[Arrow]:
    class Written:
        name = "images.py"

        def read_text(self, encoding: str) -> str:
            return text

    return list(imports_of(module, Written(), known))  # type: ignore[arg-type]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_itself_relatively(package):
    """`dataset_scripts` and the command import the packages below by name."""
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if module.startswith(package) and isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] != package, f"{module} imports {node.module}"


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_a_folder_holds_no_more_files_than_one_can_overlook(room):
    files = [path for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
    files = [path for path in files if not path.name.endswith("_gadms.py")]
    assert len(files) <= MOST_FILES


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_a_room_says_what_it_is_for_and_hands_out_its_names(room):
    module = importlib.import_module(room.replace("/", "."))
    first_line = (module.__doc__ or "").splitlines()[0]
    assert first_line.endswith((".", "`."))
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
