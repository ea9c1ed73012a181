"""List the Python and shell blocks of README and the documentation that no test runs, each with the reason.

python tests/docs/list_not_run.py
"""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.docs.pages import RUNNABLE, STORIES, Block, blocks  # noqa: E402


def blocks_not_run() -> list[Block]:
    return [block for page in STORIES for block in blocks(page) if block.language in RUNNABLE and block.not_run]


if __name__ == "__main__":
    every = [block for page in STORIES for block in blocks(page) if block.language in RUNNABLE]
    marked = blocks_not_run()
    lines = [f"{block.place}: not run: {block.not_run}" for block in marked]
    lines.append(f"{len(marked)} of {len(every)} Python and shell blocks are not run by tests/docs/test_snippets.py")
    sys.stdout.write("\n".join(lines) + "\n")
