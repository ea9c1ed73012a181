"""Runs `examples/train.py` as a process of its own, several times over, and kills it with SIGKILL on the way.

    python tests/modeling_gadms/training/resume_worker.py TRAIN.PY CONFIG.YAML FOLDER

The libraries are loaded once; each run is a fork of the process that loaded them.
"""

import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

import modeling_gadms.training.model_setup  # noqa: F401, loaded before the forks
import modeling_gadms.training.trainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(script: str, arguments: list[str], moment: str, step: int) -> None:
    """One run. It dies after the optimizer's step, after the checkpoint or while writing the checkpoint `step`."""

    class Killer(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if moment == "after step" and state.global_step == step:
                die()

        def on_save(self, args, state, control, **kwargs):
            if moment == "after save" and state.global_step == step:
                die()

    class MortalTrainer(modeling_gadms.training.trainer.GADMSTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.add_callback(Killer())

        def _save_rng_state(self, output_dir: str) -> None:
            if moment == "while saving" and self.state.global_step == step:
                die()
            super()._save_rng_state(output_dir)

    modeling_gadms.training.trainer.GADMSTrainer = MortalTrainer
    torch.set_num_threads(1)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def run(arguments: list[str], moment: str = "never", step: int = 0) -> int:
    """Exit code of one run; with `moment` "from outside" this process kills it when checkpoint `step` appears."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(sys.argv[1], arguments, moment, step))
    process.start()
    if moment == "from outside":
        output_dir = next(a.partition("=")[2] for a in arguments if a.startswith("training.output_dir="))
        while process.is_alive() and not (Path(output_dir) / f"checkpoint-{step}").exists():
            time.sleep(0.002)
        process.kill()
    process.join()
    return process.exitcode


def main(config: str, folder: Path) -> None:
    def arguments(name: str) -> list[str]:
        return ["--config", config, f"training.output_dir={folder / name}"]

    deaths = [
        ("from outside", 2),
        ("after step", 7),  # between two checkpoints, in the middle of the second epoch
        ("after save", 10),  # at the end of an epoch
        ("while saving", 12),  # leaves half a checkpoint
    ]
    codes = [run(arguments("whole"))]
    codes += [run([*arguments("killed"), "--resume"], *death) for death in deaths]
    left_behind = sorted(path.name for path in (folder / "killed" / "checkpoint-12").iterdir())
    codes += [run([*arguments("killed"), "--resume"])]
    (folder / "report.json").write_text(json.dumps({"codes": codes, "left_behind": left_behind}))


if __name__ == "__main__":
    main(sys.argv[2], Path(sys.argv[3]))
