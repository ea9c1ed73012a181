"""`gadms` in this process, as a user meets it."""

from typer.testing import CliRunner, Result

from gadms_cli.app import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """What a refused command says: exit code 2, one line of error and no traceback."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.output
    return errors[0]
