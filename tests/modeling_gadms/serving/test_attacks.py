"""Attacks on `gadms serve` without a token, as other machines, web pages and files make them.

Each line of `docs/threat-model.md` names one of these tests, or one elsewhere. They share one server, which answers
after each of them as before.
"""

import gzip
import io
import json
import re
import socket
import tarfile
import time
from collections.abc import Iterator

import pytest
import requests
import torch
from PIL import Image

from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.serving_process import running_server
from tests.waiting import PATIENCE_SECONDS, wait_for


pytestmark = pytest.mark.slow

CROSS_SITE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "empty"}
QUERY = {"text": "a person"}
ROUTES = ("/healthz", "/metrics", "/docs", "/openapi.json", "/index", "/nowhere")


def png(image: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (image or Image.new("RGB", (16, 32), "blue")).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(kind: bytes, size: int, link: str = "") -> bytes:
    """An archive of one member, whose head says what it likes, and of no content."""
    member = tarfile.TarInfo("a.png")
    member.type, member.size, member.linkname = kind, size, link
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)


@pytest.fixture(scope="module")
def address(tokenizer, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = GADMSConfig(
        text_config=tower | special | {"vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config=tower | {"image_size": (32, 16), "patch_size": 8},
        projection_dim=8,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=1,
    )
    torch.manual_seed(0)
    GADMSModel(config).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    model = GADMSModel.from_pretrained(folder / "model").eval()
    made = PersonGallery.create(folder / "gallery", model, processor, columns={"price": "float"})
    made.add(PersonRecord(Image.new("RGB", (16, 32), colour), f"{colour}.png") for colour in ("red", "green"))
    with running_server(folder / "gallery", "--max-upload-mb", "8") as (process, address):
        yield address
        assert process.poll() is None
    assert sorted(path.name for path in folder.iterdir()) == ["gallery", "gallery-uploads", "model"]


@pytest.fixture
def send(address) -> Iterator:
    """A function that sends a request; the server must answer after the test, with the persons of before."""

    def request(method: str, path: str, **options) -> requests.Response:
        return requests.request(method, f"{address}{path}", timeout=PATIENCE_SECONDS, **options)

    persons = request("GET", "/healthz").json()["persons"]
    yield request
    assert request("GET", "/healthz").json() == {"status": "ok", "persons": persons, "family": "GA-DMS"}
    assert request("POST", "/search", json=QUERY).status_code == 200
    assert not re.search(r'status="5\d\d"', request("GET", "/metrics").text)


# ---------------------------------------------------------------------------------------------------------------------
# Web pages.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers",
    [
        CROSS_SITE,
        CROSS_SITE | {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},  # another port is a stranger
        CROSS_SITE | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},  # a form that is sent
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
    ],
)
def test_a_page_of_another_site_writes_nothing(send, headers):
    headers |= {"Content-Type": "text/plain"}
    assert send("POST", "/index?name=p.png", data=png(), headers=headers).status_code == 403
    assert send("POST", "/search", data=json.dumps(QUERY), headers=headers).status_code == 403
    assert send("DELETE", "/index/x", headers=headers).status_code == 403
    assert send("GET", "/index").json() == []


def test_a_page_of_this_server_and_a_link_to_it_are_let_through(send, address):
    for headers in ({"Origin": address}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert send("POST", "/search", json=QUERY, headers=headers).status_code == 200
    link = CROSS_SITE | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert send("GET", "/docs", headers=link).status_code == 200
    assert send("GET", "/docs", headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert send("GET", "/index", headers=CROSS_SITE).status_code == 403
    answer = send("OPTIONS", "/search", headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "localhost@evil.example", "10.0.0.1", "[", ""],
)
def test_a_name_that_is_not_the_servers_reads_nothing(send, host):
    """DNS rebinding: a page of evil.example, whose name now leads to 127.0.0.1, is of the same origin."""
    headers = {"Host": host, "Sec-Fetch-Site": "same-origin", "Origin": f"http://{host}"}
    answer = send("POST", "/search", json=QUERY, headers=headers)
    assert answer.status_code == 421 and "--allowed-host" in answer.json()["detail"]
    for path in ROUTES:
        assert send("GET", path, headers=headers).status_code == 421


def test_names_of_loopback_are_the_servers(send, address):
    port = address.rpartition(":")[2]
    for host in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert send("GET", "/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "\xff"]
)
def test_a_search_is_json_by_its_type(send, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    assert send("POST", "/search", data=json.dumps(QUERY).encode(), headers=headers).status_code == 415


# ---------------------------------------------------------------------------------------------------------------------
# Bodies.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"text": "a"',
        b"null",
        b"NaN",
        b"[]",
        b'"\\ud800"',
        b'{"text": "\\ud800"}',
        b'{"text": "a", "\\udfff": 1}',
        b'{"text": "a", "where": "\\udc80"}',
        b'{"text": "a", "without": ["\\ud83d"]}',
        b'{"like": "\\ud800"}',
        b'{"image": "\\ud800"}',
        b'{"text": "a", "top_k": NaN}',
        b'{"text": "a", "top_k": Infinity}',
        b'{"text": "a", "top_k": 1e999}',
        b'{"text": "a", "top_k": ' + b"9" * 5_000 + b"}",
        b'{"text": NaN}',
        b"\xff\xfe\x00",
        b'{"text": "\xff"}',
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"--x\r\nContent-Disposition: form-data; name=text\r\n\r\na\r\n--x--\r\n",
        b'{"text": "a", "where": "time > \'0001-01-01T00:00:00+14:00\'"}',
        b'{"text": "a", "where": "price > 1e999 AND price < -1e999 AND time = \'a\'"}',
        b'{"text": "a", "where": "\\u0000"}',
        b'{"image": ""}',
        b'{"image": "AAAA"}',
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_a_body_that_is_none_is_refused_in_json(send, body):
    answer = send("POST", "/search", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]
    json.loads(answer.content.decode("utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "query",
    [
        {"name": "v.avi", "start": "0001-01-01T00:00:00+14:00"},
        {"name": "v.avi", "start": "9999-12-31T23:59:59-14:00"},
        {"name": "v.avi", "every": 2, "per_second": 1},
        {"name": "v.avi", "per_second": "nan"},
        {"name": "v.avi", "camera": "x" * 300},
        {"name": "p.png", "per_second": 1},
        {"name": "p.png", "start": "2026-11-25"},
    ],
)
def test_options_that_cannot_be_are_refused_at_once(send, query):
    assert send("POST", "/index", params=query, data=png()).status_code == 422
    assert send("GET", "/index").json() == []


def test_heads_are_those_of_get_and_have_no_body(send):
    for path in ROUTES:
        head, get = send("HEAD", path), send("GET", path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    assert send("HEAD", "/search").status_code == 405
    assert 'gadms_requests_total{route="/healthz",status="200"}' in send("GET", "/metrics").text


def test_the_page_of_the_api_needs_no_other_server(send):
    answer = send("GET", "/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"https?:|<script|src=|@import", answer.text)
    described = send("GET", "/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            assert f"<code>{method.upper()} {path}</code>" in answer.text
            for parameter in about.get("parameters", []):
                assert f"<code>{parameter['name']}</code>" in answer.text
    assert "<code>without</code>" in answer.text and "list of string at most 2000" in answer.text


# ---------------------------------------------------------------------------------------------------------------------
# Files.
# ---------------------------------------------------------------------------------------------------------------------
FILES = {
    "list that names itself": ("v.mp4", b"ffconcat version 1.0\nfile v.mp4\n"),
    "list of a file of the server": ("v.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    "playlist": ("v.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
    "session description": ("v.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 9 RTP/AVP 26\n"),
    "dash manifest": ("v.mp4", b'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/</BaseURL></MPD>'),
    "letter": ("v.mkv", b"Dear Sir or Madam"),
    "nothing of a video": ("v.mp4", bytes(100_000)),
    "svg": ("p.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="200"/>'),
    "postscript": ("p.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 200\n%%EndComments\n"),
    "picture that unpacks to 90 megapixels": ("p.png", png(Image.new("1", (9_500, 9_500)))),
    "archive that unpacks to 300 times its size": ("s.tar", gzip.compress(bytes(5_000_000))),
    "archive of nothing": ("s.tar", bytes(1_000_000)),
    "archive of a file of 100 GB": ("s.tar", tar_of(tarfile.REGTYPE, 100 * 10**9)),
    "archive of a header of 8 GB": ("s.tar", tar_of(tarfile.XHDTYPE, 8 * 10**9)),
    "archive of a link": ("s.tar", tar_of(tarfile.SYMTYPE, 0, "/etc/passwd")),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_refused_at_once(send, kind):
    name, content = FILES[kind]
    started = time.monotonic()
    answer = send("POST", "/index", params={"name": name}, data=content)
    assert answer.status_code == 422, answer.text
    assert time.monotonic() - started < 60
    assert answer.json()["detail"] and "/tmp" not in answer.text
    assert send("GET", "/index").json() == []


def test_one_upload_takes_no_more_than_it_may(send, address):
    assert send("POST", "/index?name=v.avi", data=bytes(8_000_001)).status_code == 413
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"POST /index?name=v.avi HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
    wait_for(lambda: 'route="/index",status="422"' in send("GET", "/metrics").text)
    assert send("GET", "/index").json() == []
