"""Run files with a random mistake: each is refused with an error that names the key, or it works."""

import copy
import datetime
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError

from dataset_scripts.construction.run.config import load_build_config
from modeling_gadms import GADMSConfig, GADMSForPreTraining
from modeling_gadms.training.data import CaptionDraw
from modeling_gadms.training.run_config import load_run_config


CONFIGS = Path(__file__).parents[1] / "examples" / "configs"
TRAINING = ("demo", "webperson", "finetune_benchmark", "finetune_cuhk_pedes_lora")
CONSTRUCTION = ("build_vtest", "build_webperson")
# What people write, what programs write, and what nobody would write.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, 2.5, -0.5, 2**31, 10**30, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", "no", "word", "1e-4", "a\nb", "\N{FIRE}", "../x", "a" * 10_000, b"\xff", datetime.date(2026, 11, 30)),
    *(
        [],
        [None],
        [[]],
        [1, 2, 3],
        ["word"],
        ["word", "word"],
        [2, "word"],
        {},
        {"word": 1},
        {"": None},
        {1: 2},
        {"word"},
    ),
)
Path_ = tuple[Any, ...]


def paths(content: Any, above: Path_ = ()) -> Iterator[Path_]:
    """The way to each key, also of nested mappings and lists."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield (*above, key)
        yield from paths(value, (*above, key))


def mutate(content: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], list[str]]:
    """A copy with one mistake, and the names of which an error is to give one."""
    content = copy.deepcopy(content)
    place = rng.choice(list(paths(content)))
    parent: Any = content
    for key in place[:-1]:
        parent = parent[key]
    key, kind = place[-1], rng.choice(("value", "value", "value", "remove", "rename", "add", "move"))
    names = [str(name) for name in place if not isinstance(name, int)][-2:]
    if kind == "value" or isinstance(parent, list):
        parent[key] = value = rng.choice(VALUES)
        names += [f"the key {name!r}" for name in value] if isinstance(value, dict) else []
    elif kind == "remove":
        del parent[key]
    else:
        other = rng.choice((f"{key}s", str(key)[:-1], str(key).upper(), f"{key}.{key}", "word", 7, None, True))
        if kind == "move":  # a key of another section
            other = rng.choice(list(paths(content)))[-1]
        names.append(str(other))
        parent[other] = parent[key] if kind == "add" else parent.pop(key)
    return content, names


def spoil(text: str, rng: random.Random) -> bytes:
    """The text with lines cut, doubled or moved, or with other characters."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                del lines[place]
            case 1:
                lines.insert(rng.randrange(len(lines)), lines[place])
            case 2:
                lines[place] = lines[place][: rng.randrange(len(lines[place]) + 1)]
            case 3:
                lines[place] = (
                    rng.choice((" ", "\t", "- ", "? ", "&a ", "*a ", "!!python/name:os.system ")) + lines[place]
                )
            case 4:
                cut = rng.randrange(len(lines[place]) + 1)
                lines[place] = lines[place][:cut] + rng.choice("{}[]:,#'\"\\\0\x85\ufeff%@`|>") + lines[place][cut:]
    content = "".join(lines).encode()
    return content if rng.random() < 0.8 else content.replace(b"e", b"\xe9", 1)


def override(content: dict[str, Any], rng: random.Random) -> tuple[str, list[str]]:
    """An argument of the command line with one mistake, and the names of which an error is to give one."""
    place = rng.choice([place for place in paths(content) if not any(isinstance(key, int) for key in place)])
    keys = [str(key) for key in place]
    if rng.random() < 0.2:
        keys.insert(rng.randrange(len(keys) + 1), rng.choice(("", "word", " ", "=")))
    names = [*keys[-2:], "unknown key `word`", "unknown key ` `", "override"]
    value = rng.choice(
        ("", "[", "{a: }", "? ", "!!set {}", ".nan", ".inf", "1e999", "~", "0x", "012", "1:30", "*a", "'")
    )
    return ".".join(keys) + rng.choice(("=", "=", "=", "", ": ")) + value, names


def use_run_file(path: Path, overrides: list[str]) -> None:
    """Read a run file, and make of it what needs neither data nor weights."""
    run = load_run_config(path, [*overrides, "training.use_cpu=true", "training.bf16=false"])
    CaptionDraw(run.data.captions_per_image, run.data.short_queries)
    assert all(isinstance(name, str) for name in run.data.columns.captions)
    if not run.model.from_pretrained and not run.model.dual_encoder:
        config = GADMSConfig(**run.model.config)
        sizes = [value for part in (config, config.text_config, config.vision_config)
                 for value in part.to_dict().values() if isinstance(value, int)]  # fmt: skip
        if max(sizes) < 10_000:
            with torch.device("meta"):
                GADMSForPreTraining(config)


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch, tmp_path):
    """What `TrainingArguments` leave in the process is put back."""
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)


KINDS = {"training": (TRAINING, use_run_file), "construction": (CONSTRUCTION, load_build_config)}


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rounds", [200, pytest.param(15_000, marks=pytest.mark.torture)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_file_with_a_mistake_is_refused_by_key_or_works(kind, rounds, tmp_path):
    for number in range(rounds):
        try_mistake(kind, number, tmp_path / "run.yaml")


def try_mistake(kind: str, number: int, path: Path) -> bool:
    """Whether the run file works that a number stands for. An AssertionError tells what is wrong with its refusal."""
    files, use = KINDS[kind]
    rng = random.Random(number)
    text = (CONFIGS / f"{rng.choice(files)}.yaml").read_text(encoding="utf-8")
    names, overrides = [path.name, *{str(place[-1]) for place in paths(yaml.safe_load(text))}], []
    path.write_text(text, encoding="utf-8")
    match rng.choice(("text", "value", "value", "value", "override")):
        case "text":
            path.write_bytes(spoil(text, rng))
        case "value":
            content, names = mutate(yaml.safe_load(text), rng)
            path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        case "override":
            argument, names = override(yaml.safe_load(text), rng)
            overrides = [argument]
    try:
        use(path, overrides)
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        assert any(name in str(error) for name in names), f"{number}: none of {names} is named: {error}"
        return False
    except Exception as error:
        raise AssertionError(f"{number}: {overrides or names}: {type(error).__name__}: {error}") from error
    return True
