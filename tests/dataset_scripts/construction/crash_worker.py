"""Runs the construction pipeline in processes that can be killed.

    python crash_worker.py run CONFIG.YAML [SECTION.KEY=VALUE]...
    python crash_worker.py serve

The first is one run. The second reads the arguments of runs, a JSON list a line, and starts each as a fork of itself
in a session of its own: the libraries are loaded once. It answers with the number of the process, and to an empty line
with the exit code of the last one.
"""

import json
import os
import sys
from pathlib import Path

from dataset_scripts.construction.run.config import load_build_config
from dataset_scripts.construction.run.pipeline import build_webperson


def run(config: str, *overrides: str) -> None:
    build_webperson(load_build_config(config, overrides), progress=False)


def start(arguments: list[str], log: Path) -> int:
    process = os.fork()
    if process == 0:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [__file__, "run", *arguments]
        code = 1
        try:
            run(*arguments)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return process


def serve() -> None:
    process = 0
    for line in sys.stdin:
        if line.strip():
            log, *arguments = json.loads(line)
            process = start(arguments, Path(log))
            answer = process
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run(*sys.argv[2:]) if sys.argv[1] == "run" else serve()
