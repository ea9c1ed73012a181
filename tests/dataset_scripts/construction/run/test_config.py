"""A run is one YAML file; whatever is wrong in it is named, with its place and what to do."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from dataset_scripts.construction.run import config as config_module
from dataset_scripts.construction.run.config import BuildConfig, RunSettings, load_build_config
from dataset_scripts.construction.run.engines import Resources
from dataset_scripts.publishing.dataset_card import DatasetCardSettings


EXAMPLE = Path(__file__).parents[4] / "examples" / "configs" / "build_webperson.yaml"
SERVER = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
MINIMAL = {"run": {"output": "out"}, "sources": {"crawl": {"kind": "folder", "path": "images"}}}
RECORDS = {**config_module._SECTIONS, **config_module._NAMED_SECTIONS}


@pytest.fixture
def load(tmp_path):
    """A function that loads the minimal file with sections replaced, and overrides."""

    def load(*overrides: str, sections: dict | None = None, **more: object) -> BuildConfig:
        path = tmp_path / "build.yaml"
        path.write_text(yaml.safe_dump(MINIMAL | (sections or {}) | more, sort_keys=False))
        return load_build_config(path, overrides)

    return load


def test_the_example_loads_with_the_papers_thresholds():
    config = load_build_config(EXAMPLE)
    assert config.criteria.min_confidence == 0.85 and config.criteria.min_shorter_side == 90
    assert (config.criteria.min_aspect, config.criteria.max_aspect) == (2, 4)
    assert list(config.captioners) == ["caption1", "caption2"]
    assert config.captioners["caption1"].model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert config.resources["detect"] == Resources(batch_size=64, num_cpus=2, num_gpus=0.7)


@pytest.mark.parametrize("path", sorted(EXAMPLE.parent.glob("build_*.yaml")), ids=lambda path: path.name)
def test_every_example_of_a_run_loads(path):
    assert load_build_config(path).sources


def test_sections_that_are_left_out_have_their_defaults(load):
    config = load()
    for field in dataclasses.fields(BuildConfig):
        if field.name not in MINIMAL:
            assert getattr(config, field.name) == field.default_factory()
    assert config.root == Path("out")


def test_a_section_without_content_has_its_defaults(load):
    assert load(crop=None, captioners=None, resources=None) == load()


def test_a_captioner_may_have_several_servers_or_none(load):
    override = "captioners.caption1.base_url=[http://one/v1, http://two/v1]"
    assert load(override, captioners={"caption1": SERVER}).captioners["caption1"].base_urls == (
        "http://one/v1",
        "http://two/v1",
    )
    # The overrides of the guide.
    changes = ("kind=vllm", "base_url=null", "python=.venv-vllm/bin/python", "max_model_len=8192")
    engine = load_build_config(EXAMPLE, [f"captioners.caption1.{change}" for change in changes]).captioners["caption1"]
    assert (engine.kind, engine.base_urls, engine.max_model_len) == ("vllm", (), 8192)
    with pytest.raises(ValueError, match=r"base_url.*caption1.*\[7\]"):
        load("captioners.caption1.base_url=[7]", captioners={"caption1": SERVER})


def test_a_source_is_named_by_its_key(load):
    assert load().sources["crawl"].name == "crawl"


def test_sources_keep_their_order(load):
    named = {name: {"kind": "folder", "path": name} for name in ("z", "a", "m")}
    assert list(load(sources=named).sources) == ["z", "a", "m"]


def test_overrides_replace_and_add_values(load):
    config = load(
        "run.workers=3",
        "criteria.min_aspect=1.5",
        "sources.crawl.path=/data/crawl",
        "sources.street={kind: video, path: a.mp4, every: 25}",
        "resources.detect.num_gpus=0.5",
        "crop.blur_faces=true",
        "captioners.caption1={kind: openai, model: m, base_url: 'http://h:1/v1'}",
    )
    assert config.run.workers == 3 and config.criteria.min_aspect == 1.5 and config.crop.blur_faces
    assert config.sources["crawl"].path == "/data/crawl" and config.sources["street"].every == 25
    assert config.resources["detect"].num_gpus == 0.5 and config.captioners["caption1"].base_url == "http://h:1/v1"


WRONG_SECTIONS = {
    "an unknown section": ({"detectors": {}}, "unknown key `detectors` in .*did you mean `detector`"),
    "an unknown key": ({"crop": {"pading": 0.1}}, "unknown key `pading` in section `crop` of .*mean `padding`"),
    "an unknown key of a source": (
        {"sources": {"crawl": {"kind": "folder", "path": "a", "evry": 2}}},
        "unknown key `evry` in `crawl` in section `sources`.*mean `every`",
    ),
    "an unknown key of a captioner": (
        {"captioners": {"caption1": SERVER | {"temprature": 1}}},
        "`temprature` in `caption1` in section `captioners`.*mean `temperature`",
    ),
    "a text for a number": ({"crop": {"padding": "wide"}}, "`padding` in section `crop` .*'wide'; it must be float"),
    "a number for a text": ({"run": {"output": 3}}, "`output` in section `run` .* is 3; it must be str"),
    "a truth for a number": ({"run": {"output": "o", "workers": True}}, "`workers` .* is True; it must be int"),
    "a word for a truth": ({"crop": {"blur_faces": "no"}}, "`blur_faces` .* is 'no'; it must be bool"),
    "no number": ({"quality": {"min_contrast": float("nan")}}, "`min_contrast` .* is nan; it must be float"),
    "nothing for a text": ({"run": {"output": None}}, "`output` .* is None; it must be str"),
    "an unknown engine": ({"run": {"output": "o", "engine": "dask"}}, "'dask'; it must be local \\| ray"),
    "an unknown kind of source": ({"sources": {"a": {"kind": "zip", "path": "p"}}}, "`kind` .* is 'zip'; it must be"),
    "a value out of its range": ({"crop": {"padding": 2}}, "section `crop` of .*`padding` .* not 2"),
    "a source out of its range": (
        {"sources": {"a": {"kind": "video", "path": "p", "every": 0}}},
        "`a` in section `sources` of .*`every` must be 1 or more, not 0",
    ),
    "too few workers": ({"run": {"output": "o", "workers": 0}}, "`workers` must be 1 or more, not 0"),
    "an output without a name": ({"run": {"output": " "}}, "section `run` of .*`output` is empty"),
    "a resource out of its range": ({"resources": {"detect": {"num_gpus": -1}}}, "`detect` .*`num_gpus` .* not -1"),
    "no section run": ({"run": None}, "no section `run`: it needs an output folder"),
    "an empty section run": ({"run": {}}, "no section `run`"),
    "no sources": ({"sources": {}}, "no section `sources`: it needs a name, with kind and path"),
    "run without output": ({"run": {"workers": 1}}, "section `run` of .* lacks the key `output`"),
    "a source without a path": ({"sources": {"a": {"kind": "folder"}}}, "`a` in section `sources` of .*key `path`"),
    "a captioner without a model": ({"captioners": {"caption1": {"kind": "openai"}}}, "`caption1` .*key `model`"),
    "a section that is a word": (
        {"crop": "tight"},
        "section `crop` of .* must be a mapping of keys to values, not 'tight'",
    ),
    "a list of sources": ({"sources": ["a"]}, r"section `sources` of .* must map names to settings, not \['a'\]"),
    "a source that is a word": ({"sources": {"a": "images"}}, "`a` in section `sources` .*not 'images'"),
    "a source named twice": (
        {"sources": {"a": {"kind": "folder", "path": "p", "name": "b"}}},
        "`a` in section `sources` .* already has this name: remove `name`",
    ),
    "a captioner of another name": ({"captioners": {"qwen": SERVER}}, "must be caption1, not qwen"),
    "captioners out of order": (
        {"captioners": {"caption2": SERVER, "caption1": SERVER}},
        "must be caption1, caption2, not caption2, caption1",
    ),
    "a missing first captioner": ({"captioners": {"caption2": SERVER}}, "must be caption1, not caption2"),
    "more words asked for than allowed": (
        {"captions": {"max_words": 90}},
        r"captions.max_words \(90, .*must not exceed rules.max_words \(80, ",
    ),
    "a key that is a number": ({"crop": {1: 2}}, "has the key 1, which is not a string"),
    "a source whose name is a number": (
        {"sources": {1: {"kind": "folder", "path": "p"}}},
        "key 1, which is not a string",
    ),
    "a section that is a number": ({7: {}}, "has the key 7, which is not a string"),
    "a key of a source that is a number": ({"sources": {"a": {1: 2}}}, "unknown key `1` in `a` in section `sources`"),
}


@pytest.mark.parametrize("wrong", WRONG_SECTIONS)
def test_what_is_wrong_in_a_file_is_named_with_its_place(load, wrong):
    sections, told = WRONG_SECTIONS[wrong]
    with pytest.raises(ValueError, match=told):
        load(sections=sections)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "must contain the sections run, .*sources.*; it contains None"),
        ("[1, 2]", "must contain the sections"),
        ("run: {output: a", "is not valid YAML"),
        ("run: {output: a}\nsources: {}\nrun: {output: b}\n", "the key `run` is given twice"),
        ("sources:\n  a: {kind: folder, path: p}\n  a: {kind: folder, path: q}\n", "key `a` is given twice.*line 3"),
        (b"run: {output: caf\xe9}", "build.yaml is not text in UTF-8"),
        ("run: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_such_yaml_is_named(tmp_path, content, told):
    path = tmp_path / "build.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=told) as caught:
        load_build_config(path)
    assert str(path) in str(caught.value)


def test_a_key_of_a_merged_mapping_may_be_given_again(tmp_path):
    path = tmp_path / "build.yaml"
    path.write_text(
        "run: {output: o}\nsources: {a: {kind: folder, path: p}}\ncaptioners:\n"
        "  caption1: &first {kind: openai, model: m, base_url: 'http://h/v1'}\n  caption2: {<<: *first, model: n}\n"
    )
    captioners = load_build_config(path).captioners
    assert [captioner.model for captioner in captioners.values()] == ["m", "n"]
    assert captioners["caption2"].base_url == "http://h/v1"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("run.engine", "override `run.engine` must have the form section.key=value, such as run.engine=ray"),
        ("engine=ray", "must have the form section.key=value"),
        ("run..engine=ray", "must have the form section.key=value"),
        ("run.engin=ray", "unknown key `engin` in section `run`.*mean `engine`"),
        ("run.workers=many", "`workers` .* is 'many'; it must be int"),
        ("run.workers=[", "the value of override `run.workers=.` is not valid YAML"),
        ("run.output.name=a", "`output` is 'out', which has no keys"),
        ("run.output=", "`output` .* is None"),
    ],
)
def test_a_wrong_override_is_named(load, override, told):
    with pytest.raises(ValueError, match=told):
        load(override)


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match=r"none\.yaml"):
        load_build_config(tmp_path / "none.yaml")


def test_an_engine_that_is_not_there_is_refused_in_python_too():
    with pytest.raises(ValueError, match="`engine` must be one of local, ray, not 'spark'"):
        RunSettings("out", engine="spark")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_key_of_a_section_is_explained(name):
    record = RECORDS[name]
    explained = set()
    for line in record.__doc__.splitlines():
        if match := re.match(r"\s*([a-z_]+(?:, [a-z_]+)*) \(", line):
            explained |= set(match[1].split(", "))
    assert {field.name for field in dataclasses.fields(record)} <= explained


def test_the_card_may_be_named_and_licensed(load):
    card = load(card={"title": "Street", "license": "cc-by-4.0", "contact": "a@example.org"}).card
    assert card == DatasetCardSettings("cc-by-4.0", "Street", contact="a@example.org")
