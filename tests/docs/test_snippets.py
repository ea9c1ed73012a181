"""The Python and shell blocks of README and the guides run, in order, in one folder a page.

A block is excluded by a comment directly above it, such as `<!-- not run: needs a GPU -->`; `list_not_run.py` lists
these. Blocks that call `gadms` alone run in-process, since a new process imports torch for seconds; all other shell
blocks run by bash, with `gadms` on the path.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modeling_gadms.training.run_config import load_run_config
from tests.command_line import run
from tests.docs.pages import ROOT, RUNNABLE, STORIES, Block, blocks


SECONDS = 240
"""Of a shell block: minutes only where other programs run too."""
WITH_BLOCKS = [page for page in STORIES if any(b.language in RUNNABLE and not b.not_run for b in blocks(page))]
MAKES_GALLERY = re.compile(r"gadms index .*--gallery my_gallery")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page, story, request):
    runnable = [block for block in blocks(page) if block.language in RUNNABLE and not block.not_run]
    if not any(MAKES_GALLERY.search(block.code) for block in runnable):
        request.getfixturevalue("my_gallery")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in runnable:
        if block.language == "python":
            exec(compile(block.code, block.place, "exec"), names)
        elif all(command.startswith("gadms ") for command in commands(block)):
            for command in commands(block):
                result = run(*shlex.split(command, comments=True)[1:])
                assert result.exit_code == 0, f"{block.place}: {command}\n{result.output}"
        else:
            in_bash(block, story)


def commands(block: Block) -> list[str]:
    """The commands of a shell block, without comments and continuation lines."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def in_bash(block: Block, folder: Path) -> None:
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, arguments in (("gadms", "-m gadms_cli"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"


def test_markers_stand_directly_above_their_blocks_and_give_a_reason():
    for page in STORIES:
        markers = re.findall(r"<!-- not run.*", page.read_text(encoding="utf-8"))
        read = [block.not_run for block in blocks(page) if block.not_run]
        assert len(markers) == len(read), page
        assert all(len(reason.split()) > 1 for reason in read)


def test_shell_blocks_name_their_language():
    for page in STORIES:
        for block in blocks(page):
            assert block.language, f"{block.place}: write the language behind the fence"


@pytest.mark.parametrize(
    "block",
    [block for page in STORIES for block in blocks(page) if block.language == "yaml" and "training:" in block.code],
    ids=lambda block: block.place,
)
def test_run_files_are_read(block, tmp_path):
    file = tmp_path / "my_run.yaml"
    file.write_text(block.code)
    assert set(yaml.safe_load(block.code)) >= {"model", "data", "training"}
    load_run_config(file, [f"training.output_dir={tmp_path / 'run'}"])
