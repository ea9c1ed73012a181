"""Models of open_clip: `open_clip_checks.py` in a process that has it, and what is said where it is absent."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.open_clip_model import is_open_clip
from tests.hub_client import MINE
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[3]
LIBRARIES = ROOT / ".venv-open-clip"
"""open_clip and what it needs, beside this environment (`make open-clip-env`). It cannot be in it: open_clip imports
torchvision, and transformers prefers its image processors wherever torchvision is installed."""


@pytest.mark.slow
def test_embeddings_are_those_of_open_clip(tmp_path, hub):
    if not (LIBRARIES / "open_clip").is_dir() and importlib.util.find_spec("open_clip") is None:
        pytest.skip("open_clip is not installed: make open-clip-env")
    paths = [str(path) for path in (LIBRARIES, ROOT) if path.exists()]
    checks = Path(__file__).with_name("open_clip_checks.py")
    options = ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'checks'}"]
    if LIBRARIES.exists():
        options += ["-p", "tests.modeling_gadms.encoders.torchvision_without_cuda"]
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *options,
            "-p",
            "no:cacheprovider",
            f"--basetemp={tmp_path / 'in'}",
            checks,
        ],
        cwd=ROOT,
        env={**os.environ, **hub.environment(tmp_path / "home", MINE), "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert "skipped" not in finished.stdout.splitlines()[-1]
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]


def test_names_tell_where_a_model_comes_from(tmp_path):
    assert all(is_open_clip(name) for name in ("hf-hub:me/model", "open-clip:ViT-B-16/openai", "local-dir:model"))
    assert not any(is_open_clip(name) for name in ("me/model", tmp_path, "openai/clip-vit-base-patch16"))
    (tmp_path / "open_clip_config.json").touch()
    assert is_open_clip(tmp_path) and is_open_clip(str(tmp_path))
    (tmp_path / "config.json").touch()  # a repository with both is one of transformers
    assert not is_open_clip(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed")
def test_without_open_clip_the_error_says_how_to_get_it():
    with pytest.raises(ImportError, match=r"models of open_clip need open_clip, .*gadms\[open-clip\]"):
        load_model_and_processor("hf-hub:timm/PE-Core-B-16")
