"""The HTTP server: its answers, its authentication and limits, and its handling of invalid requests."""

import asyncio
import base64
import io
import logging
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
import torch
import uvicorn
from PIL import Image
from starlette.responses import PlainTextResponse

from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, Query
from modeling_gadms.indexing import jobs
from modeling_gadms.indexing.jobs import IndexJobs
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.serving import protocol
from modeling_gadms.serving.app import create_app
from modeling_gadms.serving.limits import LimitsMiddleware, ServingLimits
from modeling_gadms.serving.query_batching import QueryBatcher
from tests.waiting import PATIENCE_SECONDS, wait_for


pytestmark = pytest.mark.slow


TOKEN = "a token of this test"
COLOURS = {"red": (200, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 200), "grey": (120, 120, 120)}


def picture(colour: tuple[int, int, int]) -> Image.Image:
    rng = np.random.default_rng(sum(colour))
    return Image.fromarray((rng.integers(0, 55, (64, 32, 3)) + np.array(colour)).clip(0, 255).astype(np.uint8))


def file_of(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def video_of(path: Path, frames: int = 10) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(frames):
        writer.write(np.full((120, 160, 3), 90, dtype=np.uint8))
    writer.release()
    return path.read_bytes()


@pytest.fixture
def gallery(tmp_path, model, processor) -> PersonGallery:
    made = PersonGallery.create(tmp_path / "gallery", model, processor, columns={"price": "float"})
    made.add(
        PersonRecord(picture(colour), f"{name}.png", camera=f"gate-{number % 2}", columns={"price": float(number)})
        for number, (name, colour) in enumerate(COLOURS.items())
    )
    return made


class Client(requests.Session):
    """A session with the server's address and token."""

    def __init__(self, address: str, app):
        super().__init__()
        self.address, self.app = address, app
        host, port = address.removeprefix("http://").split(":")
        self.pair = host, int(port)
        self.headers["Authorization"] = f"Bearer {TOKEN}"

    def request(self, method, path, *arguments, **options):
        options.setdefault("timeout", 300)
        return super().request(method, f"{self.address}{path}", *arguments, **options)


@contextmanager
def serving(app, **options) -> Iterator[Client]:
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=10, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Client(f"http://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        thread.join(300)
        assert not thread.is_alive()


class Finder:
    """Stands in for the detector."""

    def __call__(self, images):
        return [[PersonBox(10, 10, 40, 90, 0.9)] for _ in images]


@pytest.fixture
def client(gallery, processor) -> Iterator[Client]:
    limits = ServingLimits(body_bytes=100_000, upload_bytes=300_000, body_seconds=5, in_flight=8, top_k=100, frames=50)
    with serving(create_app(gallery, processor, token=TOKEN, limits=limits, detector=Finder)) as session:
        yield session
        # It still answers after the test's requests.
        assert session.post("/search", json={"text": "a person"}).status_code == 200


def rows(results) -> list[dict]:
    return [result.to_dict() for result in results]


# ---------------------------------------------------------------------------------------------------------------------
# What it answers.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_search_answers_as_the_gallery_does(client, gallery):
    image = file_of(picture(COLOURS["red"]))
    liked = gallery.search("a person")[0].id
    for body, query, options in (
        ({"text": "a man in a red coat"}, "a man in a red coat", {}),
        ({"text": "a person", "top_k": 2}, "a person", {"top_k": 2}),
        ({"text": "a person", "where": "price >= 2"}, "a person", {"where": "price >= 2"}),
        ({"text": "a man", "without": ["a hat"]}, Query("a man", without=["a hat"]), {}),
        ({"image": base64.b64encode(image).decode()}, picture(COLOURS["red"]), {}),
        ({"like": liked}, Query(like=liked), {}),
    ):
        answer = client.post("/search", json=body)
        assert answer.status_code == 200, answer.text
        expected = rows(gallery.search(query, **options))
        assert [row["id"] for row in answer.json()["results"]] == [row["id"] for row in expected]
        for row, known in zip(answer.json()["results"], expected, strict=True):
            assert row | {"score": 0} == known | {"score": 0}
            assert row["score"] == pytest.approx(known["score"], abs=1e-5)


def test_remarks_tell_what_the_model_does_not_understand(client):
    body = {"text": "a man without a hat", "without": ["a bag " * 30]}
    remarks = client.post("/search", json=body).json()["remarks"]
    assert "does not understand 'without'" in remarks[0]
    assert "tokens and the model reads 24" in remarks[1]
    assert client.post("/search", json={"text": "a man"}).json()["remarks"] == []


def test_thumbnails_are_the_gallerys(client, gallery):
    found = gallery.search("a person")[0]
    answer = client.get(f"/persons/{found.id}/thumbnail")
    assert (answer.headers["content-type"], answer.content) == ("image/jpeg", found.thumbnail)
    assert client.get(f"/persons/{'0' * 24}/thumbnail").status_code == 404
    assert client.get("/persons/nobody/thumbnail").status_code == 422


def finished(client: Client, job: dict) -> dict:
    def now() -> dict:
        return client.get(f"/index/{job['id']}").json()

    wait_for(lambda: now()["state"] not in ("waiting", "running"), told=now)
    return now()


def test_a_video_that_is_sent_is_indexed_and_found(client, gallery, tmp_path):
    content = video_of(tmp_path / "v.avi")
    options = {"name": "../gate 3.avi", "camera": "gate-3", "per_second": 5, "start": "2026-11-25T08:00:00Z"}
    answer = client.post("/index", params=options, data=content)
    assert answer.status_code == 202, answer.text
    job = finished(client, answer.json())
    assert (job["state"], job["report"]["seen"], job["report"]["persons"]) == ("done", 5, 1)
    assert job["source"].endswith("/gate 3.avi")
    assert str(tmp_path) not in job["source"] and "/tmp" not in job["source"]
    (row,) = client.post("/search", json={"text": "a person", "where": "camera = 'gate-3'"}).json()["results"]
    assert (row["source"], row["track"], row["time"][:16]) == (job["source"], 0, "2026-11-25T08:00")
    assert [known["id"] for known in client.get("/index").json()] == [job["id"]]
    again = finished(client, client.post("/index", params=options, data=content).json())
    assert again["report"]["already_there"] == 1


def test_pictures_and_archives_that_are_sent_are_indexed(client, gallery):
    job = client.post("/index", params={"name": "p.png"}, data=file_of(picture((1, 2, 3)))).json()
    assert finished(client, job)["report"]["persons"] == 1
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("../../a.png", "b.png"):
            content = file_of(picture((9, 9, 9)))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    job = client.post("/index", params={"name": "s.tar"}, data=buffer.getvalue()).json()
    assert finished(client, job)["report"]["persons"] == 2
    assert len(gallery) == len(COLOURS) + 3


def test_two_files_of_one_name_stay_two_and_leave_nothing_behind(gallery, processor, tmp_path):
    with serving(create_app(gallery, processor, token=TOKEN)) as session:
        over = [
            finished(session, session.post("/index", params={"name": "p.png"}, data=file_of(picture(colour))).json())
            for colour in ((1, 2, 3), (200, 2, 3))
        ]
        assert [job["report"]["persons"] for job in over] == [1, 1]
        assert over[0]["source"] != over[1]["source"]
        uploads = tmp_path / "gallery-uploads"
        wait_for(lambda: not list(uploads.glob("upload-*")))


def test_health_needs_no_token_and_metrics_count(client):
    assert requests.get(f"{client.address}/healthz", timeout=PATIENCE_SECONDS).json() == {
        "status": "ok",
        "persons": len(COLOURS),
        "family": "GA-DMS",
    }
    client.post("/search", json={"text": "a person"})
    client.post("/search", json={"text": " "})
    text = client.get("/metrics").text
    assert 'gadms_requests_total{route="/search",status="200"} 1.0' in text
    assert 'gadms_requests_total{route="/search",status="422"} 1.0' in text
    assert f"gadms_gallery_persons {float(len(COLOURS))}" in text
    assert "gadms_query_batch_count 2.0" in text


def test_paths_of_strangers_are_no_labels(client, gallery):
    person = gallery.search("a", 1)[0].id
    for path in ("/nowhere-1", "/nowhere-2", f"/persons/{person}/thumbnail", "/persons/nobody/thumbnail"):
        client.get(path)
    told = client.get("/metrics").text
    assert 'gadms_requests_total{route="unknown",status="404"} 2.0' in told
    assert 'gadms_requests_total{route="/persons/{person_id}/thumbnail",status="200"} 1.0' in told
    assert "nowhere" not in told and person not in told


def test_it_describes_itself(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/search",
        "/index",
        "/index/{job_id}",
        "/persons/{person_id}/thumbnail",
        "/healthz",
        "/metrics",
    }


def test_queries_of_several_users_are_encoded_together(gallery, processor, monkeypatch):
    entered, released, sizes, submitted = threading.Event(), threading.Event(), [], []
    encode, submit = PersonGallery.encode, QueryBatcher.submit

    def held(self, queries):
        sizes.append(len(queries))
        entered.set()
        assert released.wait(300)
        return encode(self, queries)

    def counted(self, query):
        future = submit(self, query)
        submitted.append(query)
        return future

    monkeypatch.setattr(PersonGallery, "encode", held)
    monkeypatch.setattr(QueryBatcher, "submit", counted)
    texts = [f"a person {number}" for number in range(9)]
    with serving(create_app(gallery, processor)) as session, ThreadPoolExecutor(9) as pool:

        def search(text: str) -> list[dict]:
            return session.post("/search", json={"text": text}).json()["results"]

        answers = [pool.submit(search, texts[0])]
        assert entered.wait(300)
        answers += [pool.submit(search, text) for text in texts[1:]]
        wait_for(lambda: len(submitted) == len(texts))
        released.set()
        found = [answer.result(300) for answer in answers]
    assert sizes == [1, 8]
    monkeypatch.undo()
    for text, result in zip(texts, found, strict=True):
        assert [row["id"] for row in result] == [row.id for row in gallery.search(text)]


# ---------------------------------------------------------------------------------------------------------------------
# What it refuses.
# ---------------------------------------------------------------------------------------------------------------------
def test_strangers_are_refused_and_logged(client, caplog):
    paths = ("/search", "/index", "/metrics", "/docs", "/openapi.json", "/healthz/../metrics")
    headers = (None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é".encode())
    for path in paths:
        for header in headers:
            given = {} if header is None else {"Authorization": header}
            answer = requests.post(f"{client.address}{path}", headers=given, timeout=PATIENCE_SECONDS)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (path, header)
    assert caplog.text.count("401 A token is needed") == len(paths) * len(headers)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "The query is empty"),
        ({"text": "  "}, "is empty"),
        ({"text": "x" * 2_001}, "2000"),
        ({"text": "a", "top_k": 0}, "top_k"),
        ({"text": "a", "top_k": 101}, "at most 100"),
        ({"text": "a", "tpo_k": 3}, "tpo_k"),
        ({"text": "a", "without": ["b"] * 9}, "without"),
        ({"like": "nobody"}, "like"),
        ({"like": "0" * 24}, "0" * 24),
        ({"image": "!!!"}, "base64"),
        ({"image": base64.b64encode(b"Dear Sir or Madam").decode()}, "not an image"),
        ({"image": base64.b64encode(file_of(Image.new("1", (9_500, 9_500)))).decode()}, "too large"),
        ({"text": "a", "where": "camera = 'a'; DROP TABLE persons"}, "where"),
        ({"text": "a", "where": "1 = 1 UNION SELECT * FROM persons"}, "where"),
        ({"text": "a", "where": "vector IS NOT NULL"}, "vector"),
        ({"text": "a", "where": "sleep(10) = 1"}, "sleep"),
        ({"text": "a", "where": "price > (SELECT 1)"}, "where"),
    ],
)
def test_bad_searches_say_what_is_wrong(client, body, said):
    answer = client.post("/search", json=body)
    assert answer.status_code == 422, answer.text
    if said != "where":
        assert said in answer.text


@pytest.mark.parametrize("content", [b"{", b"[1, 2", b'"text"', b"\xff\xfe", b"[" * 50_000])
def test_what_is_not_json_is_refused(client, content):
    answer = client.post("/search", data=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


def test_a_body_that_is_too_large_is_refused_announced_or_not(client):
    assert client.post("/search", data=b"x" * 100_001).status_code == 413
    assert client.post("/search", data=(b"x" * 1_000 for _ in range(200))).status_code == 413
    assert client.post("/index", params={"name": "v.avi"}, data=b"x" * 300_001).status_code == 413
    answer = client.post("/index", params={"name": "v.avi"}, data=(b"x" * 1_000 for _ in range(400)))
    assert answer.status_code == 413


def test_a_body_that_does_not_come_is_given_up(client):
    with socket.create_connection(client.pair, timeout=PATIENCE_SECONDS) as connection:
        head = f"POST /search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"te')
        assert b" 408 " in connection.recv(1_000)


@pytest.mark.parametrize("length", ["-1", "abc", "99999999999999999999999"])
def test_a_length_that_is_none_is_refused(client, length):
    with socket.create_connection(client.pair, timeout=PATIENCE_SECONDS) as connection:
        head = f"POST /search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1_000).split()[1] in (b"400", b"413")


def test_a_length_that_is_none_is_refused_whatever_the_server_lets_through():
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/search", "headers": [(b"content-length", b"abc")]}
    asyncio.run(LimitsMiddleware(None, ServingLimits())(scope, None, send))
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(
    "name", ["a.py", "a.tar.gz", "a.zip", "../../etc/passwd", "", "a.mp4\x00.sh", "x" * 300 + ".mp4"]
)
def test_files_of_other_kinds_are_not_taken(client, name):
    assert client.post("/index", params={"name": name}, data=b"x").status_code in (415, 422)


@pytest.mark.parametrize("name", ["v.avi", "p.png", "s.tar"])
def test_files_that_are_not_what_their_names_say_are_refused_at_once(client, gallery, tmp_path, name):
    assert client.post("/index", params={"name": name}).status_code == 422  # nothing was sent
    answer = client.post("/index", params={"name": name}, data=b"Dear Sir or Madam")
    assert answer.status_code == 422
    assert answer.json()["detail"].removeprefix("The archive ").startswith(name) and "/" not in answer.json()["detail"]
    assert client.get("/index").json() == []
    assert not list(tmp_path.glob("gallery-uploads/upload-*"))
    assert len(gallery) == len(COLOURS)


def test_a_picture_that_unpacks_to_any_size_is_not_unpacked(client):
    bomb = file_of(Image.new("1", (9_500, 9_500)))
    assert len(bomb) < 100_000
    answer = client.post("/index", params={"name": "p.png"}, data=bomb)
    assert (answer.status_code, answer.json()["detail"]) == (422, "p.png has no image that can be read: 1 too large")


def test_a_video_that_is_too_long_fails(client, tmp_path):
    answer = client.post("/index", params={"name": "v.avi"}, data=video_of(tmp_path / "v.avi", 60))
    job = finished(client, answer.json())
    assert (job["state"], "60 frames; the maximum is 50" in job["error"]) == ("failed", True)
    answer = client.post("/index", params={"name": "v.avi", "every": 2}, data=(tmp_path / "v.avi").read_bytes())
    assert finished(client, answer.json())["state"] == "done"


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"per_second": -1}, {"start": "yesterday"}, {"crops_per_track": 101}]
)
def test_options_that_cannot_be_are_refused(client, options):
    answer = client.post("/index", params={"name": "v.avi", **options}, data=b"x")
    assert answer.status_code == 422
    assert next(iter(options)) in answer.text


def test_unknown_jobs_and_paths_are_not_found(client):
    for method, path in (
        ("GET", "/index/nobody"),
        ("DELETE", "/index/nobody"),
        ("GET", "/etc/passwd"),
        ("GET", "/../x"),
    ):
        assert client.request(method, path).status_code == 404


def test_more_requests_than_it_serves_at_a_time_are_told_to_come_again(client, gallery, monkeypatch):
    released = threading.Event()
    nearest = PersonGallery.nearest

    def held(self, *arguments, **options):
        assert released.wait(300)
        return nearest(self, *arguments, **options)

    monkeypatch.setattr(PersonGallery, "nearest", held)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(client.post, "/search", json={"text": "a person"}) for _ in range(12)]
        wait_for(lambda: sum(answer.done() for answer in answers) == 4)
        refused = [answer.result() for answer in answers if answer.done()]
        released.set()
        codes = sorted(answer.result(300).status_code for answer in answers)
    assert codes == [200] * 8 + [503] * 4
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "1")}


def test_a_search_that_takes_too_long_is_given_up(gallery, processor, monkeypatch):
    monkeypatch.setattr(PersonGallery, "nearest", lambda *_, **__: time.sleep(2))
    with serving(create_app(gallery, processor, limits=ServingLimits(search_seconds=0.2))) as session:
        answer = session.post("/search", json={"text": "a person"})
        assert (answer.status_code, answer.json()["detail"]) == (504, "No answer within 0.2 seconds")


def test_an_error_of_the_program_is_logged_and_not_told(gallery, processor, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("secret path /root")

    monkeypatch.setattr(PersonGallery, "nearest", broken)
    with caplog.at_level(logging.ERROR), serving(create_app(gallery, processor)) as session:
        # The server closes a connection after an error.
        answer = session.post("/search", json={"text": "a person"}, headers={"Connection": "close"})
        assert (answer.status_code, answer.json()) == (
            500,
            {"detail": "Internal server error; see the log of the server"},
        )
        assert 'route="/search",status="500"} 1.0' in session.get("/metrics").text
    assert "secret path /root" in caplog.text


def test_answers_of_middleware_are_counted_too(gallery, processor):
    with serving(create_app(gallery, processor, limits=ServingLimits(in_flight=0))) as session:
        assert session.post("/search", json={"text": "a"}).status_code == 503
        # The gate lets the metrics through as little: they are read where they are kept.
        metrics = [each.kwargs["metrics"] for each in session.app.user_middleware if "metrics" in each.kwargs]
    assert metrics[0].registry.get_sample_value("gadms_requests_total", {"route": "unknown", "status": "503"}) == 1.0


def test_a_gallery_that_cannot_be_read_is_not_healthy(gallery, processor, monkeypatch):
    def gone(self):
        raise OSError("the disk is gone")

    with serving(create_app(gallery, processor)) as session:
        monkeypatch.setattr(PersonGallery, "__len__", gone)
        assert session.get("/healthz").status_code == 503


def test_a_server_whose_indexing_has_ended_is_not_healthy_and_takes_nothing(gallery, processor, monkeypatch):
    monkeypatch.setattr(IndexJobs, "_run", lambda self: None)
    with serving(create_app(gallery, processor)) as session:
        wait_for(lambda: session.get("/healthz").status_code == 503)
        assert "restart the server" in session.get("/healthz").json()["detail"]
        assert session.post("/index", params={"name": "p.png"}, data=file_of(picture((1, 2, 3)))).status_code == 503


def test_a_full_queue_is_told_before_the_file_is_sent(gallery, processor, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_WAITING", 0)
    with serving(create_app(gallery, processor)) as session:
        with socket.create_connection(session.pair, timeout=PATIENCE_SECONDS) as connection:
            head = "POST /index?name=v.avi HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
            connection.sendall(head.encode())
            answer = connection.recv(10_000)
    assert b" 429 " in answer.partition(b"\r\n")[0] and b"retry-after: 30" in answer


def test_uploads_go_on_after_their_folder_was_removed(gallery, processor, tmp_path):
    with serving(create_app(gallery, processor, uploads=tmp_path / "u")) as session:
        shutil.rmtree(tmp_path / "u")  # by somebody who cleans up
        job = session.post("/index", params={"name": "p.png"}, data=file_of(picture((1, 2, 3)))).json()
        assert finished(session, job)["state"] == "done"
        assert session.get("/healthz").status_code == 200


def test_a_request_whose_head_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)

    async def app(scope, receive, send) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0.6)  # longer than a head may take: the answer may
            await PlainTextResponse("told")(scope, receive, send)

    with serving(app, http=protocol.HeadTimeoutProtocol) as session:
        assert session.get("/").text == "told"
        for sent in (b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX: "):
            with socket.create_connection(session.pair, timeout=PATIENCE_SECONDS) as connection:
                connection.sendall(sent)
                answer = b""
                while part := connection.recv(10_000):  # until the server closes it
                    answer += part
            assert answer.count(b"told") == sent.count(b"\r\n\r\n")


def test_a_token_may_have_any_letter_and_opens_the_server_under_any_name(gallery, processor):
    with serving(create_app(gallery, processor, token="clé")) as session:
        headers = {"Authorization": "Bearer clé".encode(), "Host": "search.example.org"}
        assert session.post("/search", json={"text": "a"}, headers=headers).status_code == 200
        assert session.post("/search", json={"text": "a"}, headers={"Authorization": "Bearer cle"}).status_code == 401
    app = create_app(gallery, processor, token="clé", allowed_hosts=["search.example.org"])
    with serving(app) as session:
        assert session.post("/search", json={"text": "a"}, headers=headers).status_code == 200
        assert session.post("/search", json={"text": "a"}, headers=headers | {"Host": "other"}).status_code == 421


def test_texts_of_strangers_come_back_as_data(client, gallery):
    gallery.add([PersonRecord(picture((5, 5, 5)), "<script>alert(1)</script>.png")])
    answer = client.post("/search", json={"text": "<script>alert(1)</script>"})
    assert answer.headers["content-type"] == "application/json"
    assert any(row["source"] == "<script>alert(1)</script>.png" for row in answer.json()["results"])
    assert torch.isfinite(torch.tensor([row["score"] for row in answer.json()["results"]])).all()
