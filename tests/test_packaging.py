"""The wheel: built, installed into an environment of its own, and used outside of the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_gadms", "dataset_scripts", "gadms_cli")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).exists()]


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """`bin` of an environment with the wheel. Dependencies are borrowed from the environment of the tests, whose
    editable installation of the checkout is not: `.pth` files of a borrowed folder are not read."""
    work = tmp_path_factory.mktemp("wheel")
    for file in tracked_files():
        if file.parts[0] in (*PACKAGES, "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "model_card.md"):
            (work / "source" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, work / "source" / file, follow_symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work, work / "source", cwd=work)
    (wheel,) = work.glob("*.whl")
    venv.create(work / "environment", with_pip=False)
    python = work / "environment" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=work)
    site_packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work).strip())
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def test_all_files_of_the_packages_are_in_the_wheel(installed, tmp_path):
    program = "import modeling_gadms, pathlib; print(pathlib.Path(modeling_gadms.__file__).parents[1])"
    site_packages = Path(run(installed / "python", "-c", program, cwd=tmp_path).strip())
    assert site_packages.is_relative_to(installed.parent)
    files = [file for file in tracked_files() if file.parts[0] in PACKAGES]
    assert [str(file) for file in files if not (site_packages / file).is_file()] == []


def test_the_command_of_the_wheel_runs(installed, tmp_path):
    assert "build-webperson" in run(installed / "gadms", "--help", cwd=tmp_path)
    assert "gadms search" in run(installed / "python", "-m", "gadms_cli", "search", "--help", cwd=tmp_path)


USE = """
import json, pathlib, tempfile
import evaluate
from transformers import AutoConfig
import dataset_scripts, modeling_gadms
from dataset_scripts.construction.captions.templates import SHIPPED
from modeling_gadms.gallery import PersonGallery

folder = pathlib.Path(modeling_gadms.__file__).parent
metric = evaluate.load(str(folder / "metrics" / "person_retrieval"))
AutoConfig.for_model(modeling_gadms.GADMSConfig.model_type)
with tempfile.TemporaryDirectory() as target:
    modeling_gadms.GADMSConfig().save_pretrained(target)
    saved = sorted(path.name for path in pathlib.Path(target).iterdir())
names = {"gallery": PersonGallery.__name__, "metric": metric.name}
print(json.dumps({"templates": SHIPPED.stat().st_size, "saved": saved, **names}))
"""


def test_the_packages_of_the_wheel_find_their_data_files(installed, tmp_path):
    told = json.loads(run(installed / "python", "-c", USE, cwd=tmp_path).splitlines()[-1])
    assert told["templates"] > 10_000 and told["gallery"] == "PersonGallery"
    assert told["metric"] == "person_retrieval"
    assert {"config.json", "configuration_gadms.py"} <= set(told["saved"])
