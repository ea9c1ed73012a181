"""Random bodies, seeded: whatever is sent to the server, it answers below 500, in JSON, and goes on."""

import json
import random
import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.serving.app import create_app
from modeling_gadms.serving.limits import ServingLimits


SECONDS = [5, pytest.param(600, marks=[pytest.mark.torture, pytest.mark.timeout(900)])]
TEXTS = [
    "", " ", "a man in red", "\x00", "\ud800", "\udfff a", "é", "𝕒" * 30, "a" * 1_999, "a" * 2_001, "'", "\\", "<b>",
    "not without", "camera = 'a'", "price > 1", "price / 0 = 1", "price IS NULL OR NOT camera LIKE '%'", "time > 'x'",
    "time > '0001-01-01T00:00:00+14:00'", "track IN (1, 2)", "1 = 1", "(((", "price > 1e999", "price BETWEEN 9 AND 1",
    "camera = 'a' -- b", "camera IN ()", "source = '" + "x" * 1_900 + "'", "price = " + "9" * 400, "/* */ price > 1",
]  # fmt: skip
VALUES = [None, True, False, 0, -1, 1, 10, 2**31, 2**63, 10**40, 1.5, -0.0, 1e308, float("nan"), float("inf"), [], {}]
FIELDS = ["text", "image", "like", "without", "where", "top_k", "group_tracks"]
ROUTES = [
    "/search",
    "/index",
    "/index?name=p.png",
    "/index?name=v.avi&per_second=1",
    "/index/x",
    "/persons/x/thumbnail",
]
KINDS = ["application/json", "application/json; charset=latin-1", "text/plain", "multipart/form-data; boundary=x", ""]


def value(rng: random.Random, depth: int = 0):
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(TEXTS)
    if kind < 0.9 or depth > 3:
        return rng.choice(VALUES)
    if kind < 0.95:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 10))]
    return {rng.choice(TEXTS + FIELDS): value(rng, depth + 1) for _ in range(rng.randint(0, 4))}


def body(rng: random.Random) -> bytes:
    """A search with some fields that are right and some that are not; sometimes cut, and some of its bytes changed."""
    fields = {"text": "a man"} if rng.random() < 0.5 else {}
    for _ in range(rng.randint(0, 3)):
        name = rng.choice(FIELDS) if rng.random() < 0.9 else rng.choice(TEXTS)
        fields[name] = value(rng)
    content = bytearray(json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(len(content))] if rng.random() < 0.1 else content)


@pytest.fixture
def client(tmp_path, model, processor) -> Iterator[TestClient]:
    from PIL import Image

    gallery = PersonGallery.create(tmp_path / "gallery", model, processor, columns={"price": "float"})
    gallery.add(PersonRecord(Image.new("RGB", (16, 32), colour), f"{colour}.png") for colour in ("red", "green"))
    app = create_app(gallery, processor, limits=ServingLimits(upload_bytes=10_000))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as made:
        yield made


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seconds", SECONDS)
def test_no_body_makes_the_server_fail(client, seconds):
    rng, end, answers = random.Random(0), time.monotonic() + seconds, 0
    while time.monotonic() < end or answers < 20:
        route = "/search" if rng.random() < 0.9 else rng.choice(ROUTES)
        content, kind = body(rng), KINDS[0] if rng.random() < 0.9 else rng.choice(KINDS)
        method = "POST" if rng.random() < 0.95 else rng.choice(["GET", "HEAD", "DELETE", "PUT", "OPTIONS"])
        sent = time.monotonic()
        answer = client.request(method, route, content=content, headers={"content-type": kind} if kind else {})
        assert answer.status_code < 500, (method, route, kind, content, answer.text)
        assert time.monotonic() - sent < 10, (route, content)
        if answer.content and "json" in answer.headers["content-type"]:
            json.loads(answer.content.decode("utf-8"), parse_constant=pytest.fail)
        answers += 1
    assert client.get("/healthz").json() == {"status": "ok", "persons": 2, "family": "GA-DMS"}
    assert client.post("/search", json={"text": "a man"}).status_code == 200
