"""Docstrings in Hugging Face's form become Markdown."""

import importlib.util

import pytest

from tests.docs.pages import ROOT


pytest.importorskip("griffe")
_spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "hooks" / "docstrings.py")
docstrings = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docstrings)


def markdown(text: str) -> str:
    return docstrings.to_markdown(text, {"Query": "package.Query", "package.Query": "package.Query"}.get)


def test_references_are_links_or_code():
    assert markdown("A [`Query`] of [`~package.Query`].").count('identifier="package.Query">`Query`<') == 2
    assert (
        markdown("Of [`~transformers.Trainer`], `code` and [text](page.md).")
        == "Of `Trainer`, `code` and [text](page.md)."
    )


def test_parameters_become_a_list():
    text = """Search.

    Args:
        top_k (`int`, *optional*, defaults to `10`):
            Number of results.
            At least 1.
        body_seconds (`float`), upload_seconds (`float`): limits.
        limits (`dict[str, int]`)

    Returns:
        `list`: results.
    """
    assert markdown(text) == (
        "Search.\n\n\n**Parameters:**\n\n"
        "- **`top_k`** (`int`, *optional*, defaults to `10`) – Number of results.\n  At least 1.\n"
        "- **`body_seconds`** (`float`), **`upload_seconds`** (`float`) – limits.\n"
        "- **`limits`** (`dict[str, int]`)\n\n\n"
        "**Returns:**\n\n`list`: results.\n"
    ).replace("\n\n\n", "\n\n")


def test_examples_become_code():
    assert "```pycon\n>>> 1 + 1\n2\n```" in markdown("Add.\n\n>>> 1 + 1\n2\n\nThe end.")
