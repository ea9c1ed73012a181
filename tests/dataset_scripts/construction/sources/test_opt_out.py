"""Block `opt-out`: what the list names is rejected, and what cannot be compared is counted."""

import pickle

import pytest

from dataset_scripts.construction.sources.opt_out import NO_ADDRESS, OPTED_OUT, DropOptedOut


@pytest.fixture
def block(tmp_path) -> DropOptedOut:
    path = tmp_path / "opt_out.txt"
    path.write_text("example.com  # all of it\nhttps://other.org/one.jpg\nhttps://third.net/people/*\n")
    block = pickle.loads(pickle.dumps(DropOptedOut(path)))
    block.prepare()
    return block


@pytest.mark.parametrize(
    "url, entry",
    [
        ("https://example.com/a.jpg", "example.com"),
        ("http://cdn.EXAMPLE.com:8080/a.jpg#x", "example.com"),
        ("http://other.org/one.jpg", "https://other.org/one.jpg"),
        ("https://third.net/people/a/b.jpg?x", "https://third.net/people/*"),
    ],
)
def test_what_the_list_names_is_rejected_by_its_entry(block, url, entry):
    outcome = block({"url": [url]})
    assert list(outcome.verdicts) == [(False, OPTED_OUT, entry)]
    assert list(outcome.notes) == [None]


@pytest.mark.parametrize(
    "url", ["https://notexample.com/a.jpg", "https://other.org/two.jpg", "https://third.net/", None]
)
def test_everything_else_passes(block, url):
    outcome = block({"url": [url]})
    assert (list(outcome.verdicts), list(outcome.notes)) == ([True], [None])


@pytest.mark.parametrize(
    "url", ["example.com/a.jpg", "//example.com/a.jpg", "ftp://example.com/a.jpg", "http://[", "\n"]
)
def test_what_is_no_web_address_passes_and_is_counted(block, url):
    outcome = block({"url": [url]})
    assert (list(outcome.verdicts), list(outcome.notes)) == ([True], [NO_ADDRESS])


def test_each_row_has_its_own_verdict(block):
    outcome = block({"url": [None, "https://example.com/", "x", "https://free.org/"]})
    assert list(outcome.verdicts) == [True, (False, OPTED_OUT, "example.com"), True, True]
    assert list(outcome.notes) == [None, None, NO_ADDRESS, None]


def test_a_list_that_cannot_be_read_is_an_error_when_preparing(tmp_path):
    path = tmp_path / "opt_out.txt"
    path.write_text("not a domain\n")
    block = DropOptedOut(path)
    with pytest.raises(ValueError, match="line 1"):
        block.prepare()
