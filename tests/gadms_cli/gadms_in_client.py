"""`gadms` in a client of a test Hub: see `tests/hub_client.py`."""

from tests.command_line import run


def gadms(*arguments: object) -> dict[str, object]:
    result = run(*arguments)
    return {"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}
