"""Bare names of data sets: what they resolve to, and what reaches the builder."""

import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import datasets.inspect
import datasets.load
import pytest

from dataset_scripts.registration import register


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]
BUILDER = """
from dataclasses import dataclass

import datasets

@dataclass
class NumbersConfig(datasets.BuilderConfig):
    version: str = "1.2.3"
    {field}

class Numbers(datasets.GeneratorBasedBuilder):
    BUILDER_CONFIG_CLASS = NumbersConfig
    BUILDER_CONFIGS = [NumbersConfig(name="small"), NumbersConfig(name="large")]
    DEFAULT_CONFIG_NAME = "small"

    def _info(self):
        return datasets.DatasetInfo(features=datasets.Features({{"number": datasets.Value("int64")}}))

    def _split_generators(self, dl_manager):
        return [datasets.SplitGenerator(name="train", gen_kwargs={{}})]

    def _generate_examples(self):
        for number in range(3):
            yield number, {{"number": number}}
"""


@pytest.fixture(autouse=True)
def own_hook(monkeypatch: pytest.MonkeyPatch):
    """Each test starts without registered names and leaves those of other tests alone."""
    original = datasets.load.dataset_module_factory
    while hasattr(original, "__wrapped__"):
        original = original.__wrapped__
    monkeypatch.setattr(datasets.load, "dataset_module_factory", original)
    monkeypatch.setattr(datasets.inspect, "dataset_module_factory", original)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that writes a builder's module and registers it as `numbers`."""

    def write(field: str = "pass") -> str:
        module = f"numbers_of_{tmp_path.name}"  # a module is imported once in a process
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(BUILDER).format(field=field))
        monkeypatch.syspath_prepend(tmp_path)
        register("numbers", module)
        return module

    return write


def test_a_registered_name_loads_in_memory_and_as_a_stream(numbers):
    numbers()
    assert datasets.load_dataset("numbers", split="train")["number"][:] == [0, 1, 2]
    assert [row["number"] for row in datasets.load_dataset("numbers", split="train", streaming=True)] == [0, 1, 2]


def test_a_registered_name_is_inspected_like_any_other(numbers):
    numbers()
    assert datasets.get_dataset_config_names("numbers") == ["small", "large"]
    assert datasets.get_dataset_split_names("numbers", "large") == ["train"]


def test_the_cache_has_the_registered_name_the_configuration_and_its_version(numbers, caches):
    numbers()
    assert Path(datasets.load_dataset_builder("numbers", "large").cache_dir) == caches / "numbers/large/1.2.3"


def test_data_dir_reaches_the_builder_as_it_was_given(numbers):
    numbers()
    assert datasets.load_dataset_builder("numbers", data_dir="some/folder").config.data_dir == "some/folder"


def test_a_revision_reaches_a_builder_that_has_such_a_field(numbers):
    numbers("revision: str | None = None")
    assert datasets.load_dataset_builder("numbers", revision="v2").config.revision == "v2"
    assert datasets.load_dataset_builder("numbers").config.revision is None


def test_a_revision_is_refused_by_a_builder_without_such_a_field(numbers):
    numbers()
    with pytest.raises(ValueError, match=r"numbers .*no revisions, got 'v2'"):
        datasets.load_dataset_builder("numbers", revision="v2")


def test_data_files_are_refused(numbers):
    numbers()
    with pytest.raises(ValueError, match=r"use `data_dir` instead of data_files='x.csv'"):
        datasets.load_dataset_builder("numbers", data_files="x.csv")


def test_nothing_of_the_working_directory_is_read(numbers, tmp_path, monkeypatch):
    numbers()
    decoys = tmp_path / "decoys"
    (decoys / "numbers").mkdir(parents=True)
    for name in ("train.csv", "numbers/train.csv", "numbers.csv"):
        (decoys / name).write_text("number\n77\n")
    monkeypatch.chdir(decoys)
    builder = datasets.load_dataset_builder("numbers")
    assert builder.config.data_files is None
    assert datasets.load_dataset("numbers", split="train")["number"][:] == [0, 1, 2]


def test_a_path_to_a_folder_of_that_name_means_the_folder(numbers, tmp_path, monkeypatch):
    numbers()
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "train.csv").write_text("number\n77\n")
    monkeypatch.chdir(tmp_path)
    assert datasets.load_dataset("./numbers", split="train")["number"][:] == [77]


def test_other_names_go_the_way_they_always_went(numbers, tmp_path):
    numbers()
    (tmp_path / "some.csv").write_text("number\n77\n")
    loaded = datasets.load_dataset("csv", data_files=str(tmp_path / "some.csv"), split="train")
    assert loaded["number"][:] == [77]


def test_registering_again_changes_nothing(numbers):
    module = numbers()
    hook = datasets.load.dataset_module_factory
    register("numbers", module)
    assert datasets.load.dataset_module_factory is hook is datasets.inspect.dataset_module_factory


def test_a_second_name_is_added_to_the_first(numbers):
    module = numbers()
    register("more_numbers", module)
    assert datasets.load_dataset_builder("more_numbers").dataset_name == "more_numbers"
    assert datasets.load_dataset_builder("numbers").dataset_name == "numbers"


def test_a_name_is_not_taken_from_another_module(numbers):
    module = numbers()
    with pytest.raises(ValueError, match=f"'numbers' is registered for {module} and cannot be registered for other"):
        register("numbers", "other")


def test_a_name_with_a_slash_is_refused():
    with pytest.raises(ValueError, match="names with a slash"):
        register("me/numbers", "module")


def no_function(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(datasets.load, "dataset_module_factory")


def another_signature(patch: pytest.MonkeyPatch) -> None:
    def renamed(path, version=None, folder=None):
        raise AssertionError

    patch.setattr(datasets.load, "dataset_module_factory", renamed)
    patch.setattr(datasets.inspect, "dataset_module_factory", renamed)


def another_function_for_inspection(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets.inspect, "dataset_module_factory", lambda path: None)


def another_result(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets.load, "DatasetModule", dict)


def no_import_of_builders(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(datasets.load, "import_main_class")


@pytest.mark.parametrize(
    "change", [no_function, another_signature, another_function_for_inspection, another_result, no_import_of_builders]
)
def test_an_incompatible_version_of_datasets_is_an_error_with_the_way_around_it(change, monkeypatch):
    change(monkeypatch)
    with pytest.raises(ImportError) as caught:
        register("numbers", "some.module")
    message = str(caught.value)
    assert datasets.__version__ in message
    assert "4.7.0 and 5.2.0" in message
    assert "the builder class in some.module: call its `download_and_prepare()`" in message


def test_with_an_incompatible_version_the_package_warns_once_and_only_registered_names_fail(tmp_path):
    code = f"""
        import warnings
        import datasets.inspect, datasets.load

        def renamed(path, version=None, folder=None):
            raise AssertionError

        real = datasets.load.dataset_module_factory
        datasets.load.dataset_module_factory = datasets.inspect.dataset_module_factory = renamed
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import dataset_scripts
            import dataset_scripts.construction.run.pipeline, dataset_scripts.publishing.dataset
            from dataset_scripts import load_splits, parquet_files
        (warning,) = [str(one.message) for one in caught if "resolves names" in str(one.message)]
        assert "load_dataset('webperson') does not work" in warning, warning
        for load in (lambda name: load_splits(name), lambda name: parquet_files(name, "train")):
            try:
                load("cuhk_pedes")
            except ImportError as error:
                assert "load_dataset('cuhk_pedes') does not work. Install a tested version" in str(error)
            else:
                raise AssertionError
        datasets.Dataset.from_dict({{"n": [1]}}).save_to_disk({str(tmp_path / "saved")!r})
        assert load_splits({str(tmp_path / "saved")!r})["train"]["n"][:] == [1]
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_only_the_registration():
    code = "import sys, dataset_scripts; print(*sorted(name for name in sys.modules if name.startswith('{}')))"
    for package, imported in (("dataset_scripts", "dataset_scripts dataset_scripts.registration"), ("torch", "")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(package)], check=True, capture_output=True, text=True, cwd=ROOT
        )
        assert done.stdout.strip() == imported


def test_the_builder_is_not_imported_before_it_is_asked_for():
    code = "import sys; from dataset_scripts.registration import register; register('w', 'dataset_scripts.webperson')"
    check = "; sys.exit('dataset_scripts.webperson' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code + check], check=False).returncode == 0
