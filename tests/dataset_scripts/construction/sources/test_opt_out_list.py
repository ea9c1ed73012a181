"""What an opt-out list forbids, however the address is spelled, and what it leaves alone."""

import time

import pytest

from dataset_scripts.construction.sources.opt_out_list import OptOutList, WebAddress


@pytest.fixture
def opted_out(tmp_path):
    """A function that loads a list of the given lines."""

    def load(*lines: str) -> OptOutList:
        path = tmp_path / "optout.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
        return OptOutList.load(path)

    return load


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.jpg",
        "https://example.com",
        "http://cdn.pictures.example.com/a.jpg",
        "http://www.example.com/a.jpg",
        "HTTP://EXAMPLE.COM/a.jpg",
        "http://example.com./a.jpg",
        "http://example.com:8080/a.jpg",
        "http://user:secret@example.com/a.jpg",
        "  http://example.com/a.jpg\n",
    ],
)
def test_a_domain_covers_itself_and_its_subdomains_however_spelled(opted_out, url):
    assert opted_out("example.com").matches(url) == "example.com"


@pytest.mark.parametrize(
    "url",
    [
        "http://notexample.com/a.jpg",
        "http://example.com.evil.org/a.jpg",
        "http://other.org/example.com/a.jpg",
        "http://example.com@other.org/a.jpg",
        "http://com/a.jpg",
        "ftp://example.com/a.jpg",
        "example.com/a.jpg",
        "",
    ],
)
def test_a_domain_covers_nothing_else(opted_out, url):
    assert opted_out("example.com").matches(url) is None


def test_www_is_a_subdomain_like_any_other(opted_out):
    entries = opted_out("www.example.com")
    assert entries.matches("http://www.example.com/a.jpg") == "www.example.com"
    assert entries.matches("http://example.com/a.jpg") is None


@pytest.mark.parametrize("entry", ["Example.COM.", "example.com:8080", "user@example.com"])
def test_entries_are_normalised_as_urls_are(opted_out, entry):
    assert opted_out(entry).matches("http://example.com/a.jpg") == entry


@pytest.mark.parametrize("entry", ["BÜcher.example", "xn--bcher-kva.example", "XN--BCHER-KVA.example"])
@pytest.mark.parametrize("host", ["bücher.example", "xn--bcher-kva.example", "www.Bücher.example"])
def test_a_domain_and_its_punycode_are_one(opted_out, entry, host):
    assert opted_out(entry).matches(f"http://{host}/a.jpg") == entry


def test_sharp_s_is_not_ss(opted_out):
    # IDNA 2003, which Python's own codec implements, confuses two domains with two owners.
    entries = opted_out("straße.example")
    assert entries.matches("http://xn--strae-oqa.example/") == "straße.example"
    assert entries.matches("http://strasse.example/") is None


@pytest.mark.parametrize(
    ("url", "is_match"),
    [
        ("http://example.com/a%20b.jpg", True),
        ("https://example.com/a%20b.jpg", True),
        ("http://example.com:80/a b.jpg", True),
        ("http://example.com/x/../a%20b.jpg#top", True),
        ("http://example.com/%61%20b.jpg", True),
        ("http://example.com/a%20b.jpg?size=2", False),
        ("http://example.com/A%20b.jpg", False),
        ("http://example.com:8080/a%20b.jpg", False),
        ("http://sub.example.com/a%20b.jpg", False),
    ],
)
def test_a_url_covers_its_spellings_and_nothing_else(opted_out, url, is_match):
    entry = "http://Example.com/a%20b.jpg"
    assert opted_out(entry).matches(url) == (entry if is_match else None)


@pytest.mark.parametrize(
    ("url", "is_match"),
    [
        ("https://example.com/people/a.jpg", True),
        ("http://example.com/people/deep/er/a.jpg?x=1", True),
        ("http://example.com/other/../people/a.jpg", True),
        ("http://example.com/people/", True),
        ("http://example.com/people", False),
        ("http://example.com/people/../a.jpg", False),
        ("http://www.example.com/people/a.jpg", False),
    ],
)
def test_a_prefix_covers_what_is_below_it(opted_out, url, is_match):
    entry = "https://example.com/people/*"
    assert opted_out(entry).matches(url) == (entry if is_match else None)


def test_a_prefix_may_end_within_a_name_or_a_query(opted_out):
    entries = opted_out("http://a.example/img_*", "http://b.example/show?id=7*", "http://c.example/show?*")
    assert entries.matches("http://a.example/img_1.jpg")
    assert entries.matches("http://b.example/show?id=71")
    assert not entries.matches("http://b.example/show?id=8")
    assert entries.matches("http://c.example/show?id=8")
    assert not entries.matches("http://c.example/show")


def test_prefixes_of_several_lengths_on_one_host_are_all_found(opted_out):
    entries = opted_out(*(f"http://example.com/{'x' * length}y*" for length in range(20)))
    for length in range(20):
        assert entries.matches(f"http://example.com/{'x' * length}y.jpg") == f"http://example.com/{'x' * length}y*"


def test_comments_empty_lines_and_a_byte_order_mark_are_passed_over(opted_out):
    entries = opted_out("\ufeffa.example", "", "# b.example", "c.example  # asked on 1 May", "http://d.example/#x")
    assert (len(entries.domains), len(entries.urls), len(entries.prefixes)) == (2, 1, 0)
    assert entries.matches("http://a.example/") == "a.example"
    assert entries.matches("http://b.example/") is None
    assert entries.matches("http://c.example/") == "c.example"
    assert entries.matches("http://d.example/") == "http://d.example/#x"


@pytest.mark.parametrize(
    "entry",
    [
        "example",
        "exa mple.com",
        "example.com/path",
        "*.example.com",
        "ftp://example.com/a",
        "http://",
        "http://example.com:99999/",
        "http://exam*",
        "http://example.com/*/a",
        "http://example.com/a*b*",
        "http://example.com/a%2*",
        "http://example.com/a/..*",
        "-example.com",
        "example.com:port",
        "xn--a\u0301\u0301\u200d.example",
    ],
)
def test_a_malformed_entry_is_an_error_with_file_and_line(opted_out, entry):
    with pytest.raises(ValueError, match=r"optout\.txt, line 3: .*is invalid"):
        opted_out("# list", "good.example", entry)


def test_the_digest_is_of_the_entries_not_of_the_text(opted_out):
    first = opted_out("a.example", "http://b.example/x*").digest
    assert opted_out("# comment", "http://B.example/x*", "A.example.", "a.example").digest == first
    assert opted_out("a.example").digest != first
    assert opted_out("a.example", "http://b.example/x").digest != first


def test_a_long_list_is_as_fast_as_a_short_one(opted_out):
    def seconds(entries: OptOutList) -> float:
        addresses = [WebAddress.parse(f"http://h{index}.other.example/people/{index}.jpg") for index in range(5000)]
        start = time.process_time()
        assert not any(map(entries.matches, addresses))
        return time.process_time() - start

    few = opted_out("h1.example", "http://h1.example/x/*")
    many = opted_out(*(f"h{index}.example\nhttp://g{index}.example/x/*" for index in range(15_000)))
    assert (len(many.domains), len(many.prefixes)) == (15_000, 15_000)
    # A scan would take thousands of times as long.
    assert seconds(many) < 20 * seconds(few) + 0.1


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://Example.com:443/A?B#c", "https://example.com/A?B"),
        ("http://example.com/ä b", "http://example.com/%C3%A4%20b"),
        ("http://example.com/100%/%7euser/%2f", "http://example.com/100%25/~user/%2F"),
        ("http://example.com/a//b/./c/..", "http://example.com/a//b/"),
        ("http://example.com/../../a", "http://example.com/a"),
        ("http://example.com//../a", "http://example.com/a"),
        ("http://[2001:DB8::1]:8080/a", "http://[2001:db8::1]:8080/a"),
        ("http://my_host.example/a", "http://my_host.example/a"),
        ("http://user:secret@example.com/a", "http://example.com/a"),
    ],
)
def test_a_url_has_one_spelling(url, normal):
    address = WebAddress.parse(url)
    assert str(address) == normal
    assert WebAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "url",
    ["", "a.jpg", "//example.com/a", "ftp://example.com/a", "data:image/png;base64,AA", "http:///a", "http://a b.com/",
     "http://exa\x00mple.com/", "http://[::1/", "http://example.com:99999/", "http://" + "a" * 64 + ".com/",
     "http://a..example/", "javascript:alert(1)", "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_absolute_web_address_is_refused(url):
    with pytest.raises(ValueError):
        WebAddress.parse(url)
