"""Every row of a URL table ends as an image in its tar or as a failure with its reason; nothing private is reached.

Everything runs against servers on the loopback, which the guard refuses unless a test exempts their address.
"""

import hashlib
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from dataset_scripts.construction.shards import RunFolderError
from dataset_scripts.construction.sources.fetch import fetch_images
from dataset_scripts.construction.sources.fetch_process import Downloader, FetchFailedError
from dataset_scripts.construction.sources.fetch_settings import FetchProblem, FetchReport, FetchSettings
from dataset_scripts.construction.sources.opt_out_list import OptOutList
from dataset_scripts.construction.sources.url_table import UrlRow, UrlTable, rows_by_tar
from modeling_gadms.media import guarded_fetch as guard


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[4]
TIMEOUT = 6.0
MAX_BYTES = 100_000


def picture(seed: int, file_format: str = "JPEG", size: tuple[int, int] = (100, 200)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (seed % 256, 80, seed // 256)).save(buffer, file_format)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers as the servers of the web do, the unfriendly ones too, by the first part of the path."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(self)
        kind = self.path.split("/")[1].split("?")[0]
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        try:
            getattr(self, f"answer_{kind}")(**query)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Type": "image/jpeg", "Content_Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def drip(self, piece: bytes, seconds: float) -> None:
        for _ in range(100):
            self.wfile.write(piece)
            time.sleep(seconds)

    def answer_picture(self, seed: str = "0", delay: str = "0") -> None:
        time.sleep(float(delay))
        self.send(picture(int(seed)))

    def answer_png(self) -> None:
        self.send(picture(7, "PNG"))

    def answer_small(self) -> None:
        self.send(picture(7, size=(89, 200)))

    def answer_status(self, code: str) -> None:
        self.send(b"", int(code))

    def answer_html(self) -> None:
        self.send(b"<html><body>Not here any more</body></html>")

    def answer_svg(self) -> None:
        self.send(b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="200"/>')

    def answer_eps(self) -> None:
        self.send(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 200\n%%EndComments\n")

    def answer_gzip(self) -> None:
        self.send(b"\x1f\x8b\x08" + bytes(1000), Content_Encoding="gzip")

    def answer_slowbody(self) -> None:
        self.send(b"\xff\xd8\xff", Content_Length="1000")
        self.drip(b"\0", 0.2)

    def answer_slowheader(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        self.drip(b"X: y\r\n", 0.2)

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(10_000))

    def answer_announced(self) -> None:
        self.send(b"\xff\xd8\xff", Content_Length=str(MAX_BYTES + 1))

    def answer_short(self) -> None:
        self.send(picture(3), Content_Length=str(len(picture(3)) + 1))

    def answer_robots(self, value: str) -> None:
        self.send(picture(9), X_Robots_Tag=value)

    def answer_to(self, url: str, delay: str = "0") -> None:
        time.sleep(float(delay))
        self.send(b"", 302, Location=url)

    def answer_loop(self) -> None:
        self.send(b"", 301, Location=self.path)

    def answer_endlessredirect(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/picture?seed=77")
        self.end_headers()
        while True:
            self.wfile.write(bytes(10_000))


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Of the default 5, a sixth client at a time waits a second for its connection.
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Handler] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def pair(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def url(self, path: str) -> str:
        return f"http://{self.pair}/{path}"

    def times_asked(self) -> Counter[str]:
        return Counter(request.path for request in self.requests)


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def private_server():
    """A server that the settings do not exempt."""
    with Server() as running:
        yield running
        running.shutdown()


@pytest.fixture
def settings(fetch_python, server) -> FetchSettings:
    return FetchSettings(
        python=fetch_python, id_column=None, processes=1, threads=16, timeout_seconds=TIMEOUT, max_bytes=MAX_BYTES,
        max_redirects=3, allowed_addresses=(server.pair,),
    )  # fmt: skip


def write_table(path: Path, urls: list[str | None], **columns) -> Path:
    pa.parquet.write_table(pa.table({"url": pa.array(urls, pa.string())} | columns), path)
    return path


def images_of(folder: Path) -> dict[str, tuple[bytes, dict]]:
    """Content and metadata by key, of all tars, each of which holds a picture and its JSON, in order of keys."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        keys = [name.removesuffix(".json") for name in members if name.endswith(".json")]
        assert list(members) == [f"{key}{suffix}" for key in sorted(keys) for suffix in (".jpg", ".json")]
        found |= {key: (members[f"{key}.jpg"], json.loads(members[f"{key}.json"])) for key in keys}
    return found


def failures_of(folder: Path) -> list[dict]:
    paths = sorted(folder.glob("*.failed.parquet"))
    return [row for path in paths for row in pa.parquet.read_table(path).to_pylist()]


# --- One run over everything that can happen to a URL ---------------------------------------------------------------


@dataclass
class Outcome:
    urls: dict[str, str | None]
    report: FetchReport
    folder: Path
    asked: Counter

    def failure(self, name: str) -> tuple[str, str]:
        row = list(self.urls).index(name)
        [failure] = [failure for failure in failures_of(self.folder) if failure["row"] == row]
        assert failure["key"] == f"{row:010d}"
        assert failure["url"] == (self.urls[name] or "")
        return failure["reason"], failure["detail"]

    def image(self, name: str) -> tuple[bytes, dict]:
        return images_of(self.folder)[f"{list(self.urls).index(name):010d}"]


@pytest.fixture(scope="module")
def outcome(fetch_python, server, private_server, tmp_path_factory) -> Outcome:
    folder = tmp_path_factory.mktemp("fetch")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{unused.getsockname()[1]}"
    urls = {
        "jpeg": server.url("picture?seed=1"),
        "png": server.url("png"),
        "accents": server.url("picture/ä b.jpg?seed=2#x"),
        "duplicate": server.url("picture?seed=1#again"),
        "credentials": f"http://user:secret@{server.pair}/picture/credentials?seed=5",
        "missing": server.url("status?code=404"),
        "broken": server.url("status?code=503"),
        "busy": server.url("status?code=429"),
        "empty": None,
        "relative": "/picture?seed=1",
        "file": "file:///etc/passwd",
        "slow body": server.url("slowbody"),
        "slow header": server.url("slowheader"),
        "slow picture": server.url("picture/slow?seed=4&delay=0.3"),
        "endless": server.url("endless"),
        "announced": server.url("announced"),
        "short": server.url("short"),
        "html": server.url("html"),
        "svg": server.url("svg"),
        "eps": server.url("eps"),
        "gzip": server.url("gzip"),
        "small": server.url("small"),
        "noai": server.url("robots?value=noai"),
        "noindex of us": server.url("robots?value=img2dataset:+noindex"),
        "noai of another": server.url("robots?value=otherbot:+noai"),
        "private": private_server.url("picture"),
        "ten": "http://10.0.0.1/picture",
        "short form": f"http://127.1:{private_server.server_port}/picture",
        "name": f"http://localhost:{private_server.server_port}/picture",
        "to relative": server.url("to?url=/picture%3Fseed=6"),
        "to private": server.url(f"to?url={private_server.url('picture')}"),
        "to name": server.url(f"to?url=http://localhost:{private_server.server_port}/picture"),
        "to ten": server.url("to?url=http://10.0.0.1/"),
        "to metadata": server.url("to?url=http://169.254.169.254/latest/meta-data/"),
        "to ipv6": server.url(f"to?url=http://[::1]:{private_server.server_port}/"),
        "to mapped": server.url(f"to?url=http://[::ffff:127.0.0.1]:{private_server.server_port}/"),
        "to file": server.url("to?url=file:///etc/passwd"),
        "to ftp": server.url("to?url=ftp://127.0.0.1/a.jpg"),
        "to nonsense": server.url("to?url=http://[oops/"),
        "to opted out": server.url(f"to?url={server.url('picture/theirs')}"),
        "loop": server.url("loop"),
        "endless redirect": server.url("endlessredirect"),
        "opted out": server.url("picture/theirs?seed=3"),
        "opted out domain": f"http://cdn.opted-out.example:{server.server_port}/picture",
        "closed": f"http://{closed}/picture",
    }
    (folder / "optout.txt").write_text(f"opted-out.example\n{server.url('picture/theirs')}*\n")
    table = write_table(folder / "table.parquet", list(urls.values()), id=[100 + row for row in range(len(urls))])
    fetch_settings = FetchSettings(
        python=fetch_python, rows_per_tar=30, processes=1, threads=16, timeout_seconds=TIMEOUT, max_bytes=MAX_BYTES,
        max_redirects=3, allowed_addresses=(server.pair, closed),
    )  # fmt: skip
    # What the environment says of proxies is not for this downloader: this one would record every request.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            patch.setenv(name, f"http://{private_server.pair}")
        report = fetch_images(table, folder / "tars", fetch_settings, OptOutList.load(folder / "optout.txt"))
    return Outcome(urls, report, folder / "tars", server.times_asked())


@pytest.mark.parametrize(
    ("name", "content"),
    [("jpeg", picture(1)), ("png", picture(7, "PNG")), ("accents", picture(2)), ("slow picture", picture(4)),
     ("credentials", picture(5)), ("noai of another", picture(9)), ("to relative", picture(6)),
     ("endless redirect", picture(77))],
)  # fmt: skip
def test_an_image_is_kept_as_the_server_sent_it(outcome, name, content):
    assert outcome.image(name)[0] == content


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("duplicate", "duplicate URL", "an earlier row"),
        ("missing", "HTTP error", "HTTP 404"),
        ("broken", "HTTP error", "HTTP 503"),
        ("busy", "HTTP error", "HTTP 429"),
        ("empty", "not a URL", "it is empty"),
        ("relative", "not a URL", "it is relative"),
        ("file", "not a URL", "'file'"),
        ("slow body", "timed out", f"{TIMEOUT:g} s"),
        ("slow header", "timed out", f"{TIMEOUT:g} s"),
        ("endless", "too large", "100000"),
        ("announced", "too large", "100001"),
        ("short", "connection failed", f"ended after {len(picture(3))} of {len(picture(3)) + 1} bytes"),
        ("html", "not an image", "<html>"),
        ("svg", "not an image", "<svg"),
        ("eps", "not an image", "%!PS"),
        ("gzip", "not an image", "starts with"),
        ("small", "too small", "89x200"),
        ("noai", "opted out by header", "noai"),
        ("noindex of us", "opted out by header", "img2dataset: noindex"),
        ("private", "address refused", "127.0.0.1"),
        ("ten", "address refused", "10.0.0.1"),
        ("short form", "address refused", "127.0.0.1"),
        ("name", "address refused", "localhost"),
        ("to private", "address refused", "127.0.0.1"),
        ("to name", "address refused", "localhost"),
        ("to ten", "address refused", "10.0.0.1"),
        ("to metadata", "address refused", "169.254.169.254"),
        ("to ipv6", "address refused", "::1"),
        ("to mapped", "address refused", "127.0.0.1"),
        ("to file", "address refused", "'file'"),
        ("to ftp", "address refused", "'ftp'"),
        ("to nonsense", "connection failed", "cannot be requested"),
        ("to opted out", "opted out", "picture/theirs"),
        ("loop", "too many redirects", "more than 3"),
        ("opted out", "opted out", "picture/theirs"),
        ("opted out domain", "opted out", "by the entry opted-out.example"),
        ("closed", "connection failed", "refused"),
    ],
)
def test_a_failure_is_kept_with_its_reason(outcome, name, reason, detail):
    found_reason, found_detail = outcome.failure(name)
    assert found_reason == reason
    assert detail in found_detail


def test_every_case_is_named_in_one_of_the_two_tests_above(outcome):
    assert outcome.report.seen == len(outcome.urls)
    assert outcome.report.fetched == len(images_of(outcome.folder)) == 8
    assert len(failures_of(outcome.folder)) == 37


def test_no_request_reached_a_server_that_is_not_exempted(outcome, private_server):
    assert private_server.requests == []


def test_a_url_is_asked_for_again_only_where_that_may_help(outcome):
    assert outcome.asked["/status?code=404"] == outcome.asked["/html"] == outcome.asked["/robots?value=noai"] == 1
    assert outcome.asked["/endless"] == outcome.asked["/announced"] == 1
    assert outcome.asked["/status?code=503"] == outcome.asked["/status?code=429"] == 2
    assert outcome.asked["/short"] == outcome.asked["/slowbody"] == 2


def test_duplicates_and_opted_out_urls_are_not_asked_for(outcome):
    assert outcome.asked["/picture?seed=1"] == 1
    assert outcome.asked["/picture/theirs?seed=3"] == 0


def test_a_request_says_who_asks_and_carries_no_credentials(outcome, server):
    [request] = [request for request in server.requests if request.path == "/picture/credentials?seed=5"]
    assert "img2dataset" in request.headers["User-Agent"]
    assert request.headers["Host"] == server.pair
    assert "Authorization" not in request.headers


def test_an_image_keeps_where_it_is_from(outcome):
    content, meta = outcome.image("png")
    assert meta == {
        "key": "0000000001", "row": 1, "id": 101, "url": outcome.urls["png"], "fetched_url": outcome.urls["png"],
        "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "format": "PNG", "width": 100,
        "height": 200,
    }  # fmt: skip


def test_an_image_keeps_where_a_redirect_led(outcome, server):
    _, meta = outcome.image("to relative")
    assert meta["url"] == outcome.urls["to relative"]
    assert meta["fetched_url"] == server.url("picture?seed=6")


def test_counts_add_up_for_the_table_and_for_each_tar(outcome):
    markers = [json.loads(path.read_bytes()) for path in sorted(outcome.folder.glob("0*.done.json"))]
    assert [marker["seen"] for marker in markers] == [30, 15]
    for number, marker in enumerate(markers):
        rows = range(30 * number, 30 * number + marker["seen"])
        failures = [failure for failure in failures_of(outcome.folder) if failure["row"] in rows]
        assert marker["failed"] == Counter(failure["reason"] for failure in failures)
        assert marker["fetched"] == sum(meta["row"] in rows for _, meta in images_of(outcome.folder).values())
        assert marker["seen"] == marker["fetched"] + len(failures)
    assert outcome.report.failed == Counter(failure["reason"] for failure in failures_of(outcome.folder))


def test_nothing_but_the_results_is_left_in_the_folder(outcome):
    names = {path.name for path in outcome.folder.iterdir()} - {"work"}
    assert names == {"fetch.json"} | {
        f"0000{tar}{suffix}" for tar in (0, 1) for suffix in (".tar", ".failed.parquet", ".done.json")
    }


# --- Killed and continued --------------------------------------------------------------------------------------------

RUN = """
import json, sys
from dataset_scripts.construction.sources.fetch import fetch_images
from dataset_scripts.construction.sources.fetch_settings import FetchSettings
fetch_images(sys.argv[1], sys.argv[2], FetchSettings(**json.loads(sys.argv[3])))
"""


def start_and_wait_for_tars(table: Path, folder: Path, fields: dict, tars: int) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, str(table), str(folder), json.dumps(fields)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while len(list(folder.glob("0*.done.json"))) < tars:
        assert process.poll() is None and time.monotonic() < give_up, "it ended before it could be killed"
        time.sleep(0.02)
    return process


def test_a_killed_run_is_continued_and_gives_the_same_bytes(tmp_path, settings, server):
    paths = [f"/picture/killed?seed={seed}&delay={0.1 if seed % 2 else 0.05}" for seed in range(24)]
    table = write_table(tmp_path / "table.parquet", [server.url(path[1:]) for path in paths])
    fields = {
        "python": settings.python, "id_column": None, "rows_per_tar": 4, "processes": 1, "threads": 2,
        "max_bytes": MAX_BYTES, "max_redirects": 3, "allowed_addresses": [server.pair],
    }  # fmt: skip
    folder = tmp_path / "killed"
    process = start_and_wait_for_tars(table, folder, fields, tars=2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # As a run that is killed while it writes a marker leaves it.
    (folder / ".part-0123abcd-00009.done.json").write_text("{")
    finished = {int(path.name[:5]) for path in folder.glob("0*.done.json")}
    assert 2 <= len(finished) < 6
    before = server.times_asked()

    report = fetch_images(table, folder, replace(settings, rows_per_tar=4))
    assert report == FetchReport(24, 24)
    asked = server.times_asked()
    for tar in range(6):
        for path in paths[4 * tar : 4 * tar + 4]:
            assert asked[path] - before[path] == (0 if tar in finished else 1)
    assert fetch_images(table, tmp_path / "whole", replace(settings, rows_per_tar=4, threads=3)) == report
    for path in (tmp_path / "whole").glob("0*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert not [path.name for path in folder.glob(".*")]


def command_of(process: psutil.Process) -> str:
    """Command line of a process; empty for one of an earlier test that has ended and was not waited for."""
    try:
        return " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return ""


@pytest.mark.parametrize("end", ["its parent ends", "it is killed"])
def test_no_process_outlives_the_one_that_fetches(tmp_path, settings, server, end):
    path = f"picture/{end.replace(' ', '-')}?delay=0.2&seed="
    with Downloader(replace(settings, threads=1), tmp_path) as downloader:
        downloader.order(0, [UrlRow(row, "", None, request=server.url(f"{path}{row}")) for row in range(1000)])
        while not any(f"/{path}" in request.path for request in server.requests):
            time.sleep(0.02)
        [script] = [child for child in psutil.Process().children() if "guarded" in command_of(child)]
        started = [script, *script.children(recursive=True)]
        assert len(started) >= 2
        if end == "it is killed":
            script.kill()
        # Leaving closes the input of the process, as the death of its parent does.
        start = time.monotonic()
    assert time.monotonic() - start < 60  # all that was ordered takes 200 s
    assert psutil.wait_procs(started, timeout=60)[1] == []


def test_a_worker_that_is_killed_ends_the_run_with_an_error(tmp_path, settings, server):
    table = write_table(tmp_path / "table.parquet", [server.url("picture/worker?delay=0.5")])

    def kill_worker() -> None:
        while not any(request.path.startswith("/picture/worker") for request in server.requests):
            time.sleep(0.02)
        workers = [child for child in psutil.Process().children(recursive=True) if "spawn_main" in command_of(child)]
        for worker in workers:
            worker.kill()

    threading.Thread(target=kill_worker, daemon=True).start()
    with pytest.raises(FetchFailedError, match="run the same call again to resume"):
        fetch_images(table, tmp_path / "tars", settings)
    assert not list((tmp_path / "tars").glob("0*.done.json"))


def test_an_environment_without_img2dataset_is_an_error_that_says_so(tmp_path, settings):
    table = write_table(tmp_path / "table.parquet", ["http://192.0.2.1.example/a.jpg"])
    with pytest.raises(FetchFailedError, match="No module named 'img2dataset'"):
        fetch_images(table, tmp_path / "tars", replace(settings, python=sys.executable))


# --- Folders, tables and settings: no request is made ----------------------------------------------------------------


@pytest.fixture
def quiet_settings() -> FetchSettings:
    """For tables of which no row is asked for: any file does for an interpreter."""
    return FetchSettings(python=sys.executable, id_column=None, rows_per_tar=2)


def test_a_missing_environment_is_an_error_that_says_how_to_make_it(tmp_path):
    table = write_table(tmp_path / "table.parquet", ["x"])
    with pytest.raises(FileNotFoundError, match="no-such/python: .*make fetch-env"):
        fetch_images(table, tmp_path / "tars", FetchSettings(python="no-such/python", id_column=None))


def test_a_table_without_rows_to_ask_for_needs_no_process(tmp_path, quiet_settings):
    table = write_table(tmp_path / "table.parquet", ["", "x", "http://10.0.0.1/"])
    report = fetch_images(table, tmp_path / "tars", quiet_settings)
    assert report == FetchReport(3, 0, {FetchProblem.NOT_A_URL: 2, FetchProblem.ADDRESS_REFUSED: 1})
    assert sorted(path.name for path in (tmp_path / "tars").glob("*.tar")) == ["00000.tar", "00001.tar"]


def test_an_empty_table_gives_an_empty_report(tmp_path, quiet_settings):
    table = write_table(tmp_path / "table.parquet", [])
    assert fetch_images(table, tmp_path / "tars", quiet_settings) == FetchReport(0, 0)


def test_another_call_into_the_same_folder_names_what_differs(tmp_path, quiet_settings):
    table = write_table(tmp_path / "table.parquet", ["x"])
    (tmp_path / "optout.txt").write_text("example.com")
    fetch_images(table, tmp_path / "tars", quiet_settings)
    with pytest.raises(RunFolderError, match="started with another max_bytes, opt_out "):
        opt_out = OptOutList.load(tmp_path / "optout.txt")
        fetch_images(table, tmp_path / "tars", replace(quiet_settings, max_bytes=5, threads=2), opt_out)
    with pytest.raises(RunFolderError, match="started with another rows, table "):
        fetch_images(write_table(tmp_path / "table.parquet", ["x", "y"]), tmp_path / "tars", quiet_settings)


def test_a_finished_tar_that_was_lost_is_made_again(tmp_path, quiet_settings):
    table = write_table(tmp_path / "table.parquet", ["x", "y", "z"])
    report = fetch_images(table, tmp_path / "tars", quiet_settings)
    (tmp_path / "tars" / "00001.tar").unlink()
    assert fetch_images(table, tmp_path / "tars", quiet_settings) == report
    assert (tmp_path / "tars" / "00001.tar").exists()


def test_a_folder_in_use_is_refused(tmp_path, quiet_settings):
    from dataset_scripts.construction.shards import lock_folder

    table = write_table(tmp_path / "table.parquet", ["x"])
    with lock_folder(tmp_path / "tars"), pytest.raises(RunFolderError, match="another run"):
        fetch_images(table, tmp_path / "tars", quiet_settings)


def test_a_report_that_does_not_add_up_is_refused():
    with pytest.raises(ValueError, match="7 rows were seen, but 4 images and 2 failures are 6"):
        FetchReport(7, 4, {FetchProblem.TIMED_OUT: 2})


def test_reports_add():
    one = FetchReport(5, 3, {FetchProblem.TIMED_OUT: 2})
    other = FetchReport(2, 0, {FetchProblem.TIMED_OUT: 1, FetchProblem.NOT_A_URL: 1})
    assert one + other == FetchReport(7, 3, {FetchProblem.NOT_A_URL: 1, FetchProblem.TIMED_OUT: 3})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows_per_tar": 0}, "rows_per_tar must be a whole number of at least 1, not 0"),
        ({"threads": 1.5}, "threads must be .* not 1.5"),
        ({"retries": -1}, "retries must be .* at least 0, not -1"),
        ({"processes": True}, "processes must be .* not True"),
        ({"timeout_seconds": 0}, "timeout_seconds must be positive"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be positive and finite"),
        ({"user_agent_token": "a\r\nX: y"}, "user_agent_token"),
        ({"disallowed_header_directives": "noai"}, "must be a list"),
        ({"allowed_addresses": ["localhost:80"]}, "'localhost:80'"),
        ({"allowed_addresses": ["10.0.0.1"]}, "'10.0.0.1'"),
        ({"allowed_addresses": ["10.0.0.1:99999"]}, "'10.0.0.1:99999'"),
    ],
)
def test_a_wrong_setting_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        FetchSettings(**fields)


def test_settings_take_the_lists_of_yaml():
    made = FetchSettings(disallowed_header_directives=[" NoAI"], allowed_addresses=["[FD00:0::5]:080", "10.0.0.5:80"])
    assert made.disallowed_header_directives == ("noai",)
    assert made.allowed_addresses == ("[fd00::5]:80", "10.0.0.5:80")


def table_rows(path: Path, **options) -> list[tuple]:
    return list(UrlTable.open(path, **({"url_column": "url", "id_column": None} | options)))


def test_a_folder_is_read_in_the_order_of_names_and_rows_are_numbered_through(tmp_path):
    write_table(tmp_path / "b.parquet", ["three"], id=["c"])
    write_table(tmp_path / "a.parquet", ["one", None], id=["a", "b"])
    (tmp_path / "readme.txt").write_text("not a table")
    assert table_rows(tmp_path, id_column="id") == [(0, "one", "a"), (1, "", "b"), (2, "three", "c")]
    assert UrlTable.open(tmp_path, "url", None).rows == 3


def test_a_csv_gives_the_rows_of_the_same_parquet(tmp_path):
    urls = [f"http://example.com/{index},\n\"'x" for index in range(40_000)]
    parquet = write_table(tmp_path / "table.parquet", urls, id=list(map(str, range(len(urls)))))
    pa.csv.write_csv(pa.parquet.read_table(parquet), tmp_path / "table.csv")
    rows = table_rows(tmp_path / "table.csv", id_column="id")
    assert rows == table_rows(parquet, id_column="id")
    assert UrlTable.open(tmp_path / "table.csv", "url", "id").rows == len(urls)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path, kind):
    path = tmp_path / f"table.{kind}"
    table = pa.table({"link": ["x"], "text": ["y"]})
    pa.parquet.write_table(table, path) if kind == "parquet" else pa.csv.write_csv(table, path)
    with pytest.raises(ValueError, match=r"no column 'url' \(url_column\); its columns are link, text"):
        table_rows(path)
    with pytest.raises(ValueError, match=r"no column 'id' \(id_column\).*or id_column to null"):
        table_rows(path, url_column="link", id_column="id")


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_a_file_that_is_no_table_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        table_rows(tmp_path / name)


def test_no_file_and_an_empty_folder_are_errors(tmp_path):
    for path in (tmp_path, tmp_path / "no.parquet"):
        with pytest.raises(FileNotFoundError, match="is not a table of URLs"):
            table_rows(path)


def test_a_table_that_is_changed_has_another_digest(tmp_path):
    digests = set()
    for urls in (["http://a.example/1"], ["http://a.example/2"]):
        digests.add(UrlTable.open(write_table(tmp_path / "t.parquet", urls), "url", None).digest)
        (tmp_path / "t.csv").write_text("url\n" + urls[0] + "\nx" * 100_000)
        digests.add(UrlTable.open(tmp_path / "t.csv", "url", None).digest)
    assert len(digests) == 4


def test_duplicates_are_found_across_tars_as_a_set_finds_them(tmp_path):
    order = [(index * index) % 997 for index in range(3000)]
    path = write_table(tmp_path / "table.parquet", [f"http://example.com/{number}" for number in order])
    rows = [row for tar in rows_by_tar(UrlTable.open(path, "url", None), 7, None, ()) for row in tar]
    seen: set[int] = set()
    for row, number in zip(rows, order, strict=True):
        assert (row.problem is FetchProblem.DUPLICATE) == (number in seen)
        assert bool(row.request) == (number not in seen)
        seen.add(number)


# --- The guard, in this process --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.9", "169.254.169.254", "172.16.0.1",
     "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
     "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::8.8.8.8",
     "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1",
     "64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:0:7f00:1::1", "2001:db8::1", "2002:7f00:1::1",
     "2002:808:808::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1",
     "4000::1"],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(address):
    assert "not a public address" in guard.refusal(address, 80)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "192.169.0.1", "223.255.255.255", "2606:4700::1111",
     "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)  # fmt: skip
def test_a_public_address_is_let_through(address):
    assert guard.refusal(address, 80) is None


def test_an_exempted_pair_is_let_through_and_no_other_port_of_it():
    allowed = ("10.0.0.5:80", "[::1]:8080")
    assert guard.refusal("10.0.0.5", 80, allowed) is None
    assert guard.refusal("10.0.0.5", 81, allowed)
    assert guard.refusal("::1", 8080, allowed) is None
    assert guard.refusal("10.0.0.6", 80, allowed)


@pytest.fixture
def resolver(monkeypatch):
    """A function that sets, look-up by look-up, the addresses which the next ones answer; returns what was dialled."""
    dialled: list[tuple] = []

    def connect(self, address) -> None:
        dialled.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    def answer(*answers: list[str]) -> list[tuple]:
        left = list(answers)

        def getaddrinfo(host, port, **_):
            found = left.pop(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(guard.DeadlineSocket, "connect", connect)
        return dialled

    return answer


def guarded_fetch(url: str, timeout: float = 60.0, tls: ssl.SSLContext | None = None, **policy) -> bytes:
    made = guard.Policy(**({"max_bytes": MAX_BYTES, "max_redirects": 3} | policy))
    return guard.fetch(url, timeout, "img2dataset", made, tls or guard.tls_context())[0]


def test_a_name_is_looked_up_once_and_only_the_judged_address_is_dialled(resolver):
    dialled = resolver(["8.8.8.8"], ["127.0.0.1"])
    with pytest.raises(guard.FetchError, match="connection failed"):
        guarded_fetch("http://rebinding.example/a.jpg")
    assert dialled == [("8.8.8.8", 80)]


def test_of_several_addresses_only_public_ones_are_dialled(resolver):
    dialled = resolver(["10.0.0.1", "8.8.8.8", "127.0.0.1", "1.1.1.1"])
    with pytest.raises(guard.FetchError, match="connection failed"):
        guarded_fetch("https://mixed.example/a.jpg")
    assert dialled == [("8.8.8.8", 443), ("1.1.1.1", 443)]


def test_a_name_with_private_addresses_only_is_refused(resolver):
    dialled = resolver(["10.0.0.1", "127.0.0.1"])
    with pytest.raises(guard.FetchError, match="address refused.*inside.example"):
        guarded_fetch("http://inside.example/a.jpg")
    assert dialled == []


def test_a_name_that_does_not_resolve_is_no_such_host(monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(guard.FetchError, match="no such host.*nowhere.example: Name or service not known"):
        guarded_fetch("http://nowhere.example/a.jpg")


def test_certificates_are_verified():
    context = guard.tls_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.fixture
def tls_server():
    """An https server without a certificate, so that no key lies in the tests, and the context that speaks to it."""

    def without_certificate(context: ssl.SSLContext) -> ssl.SSLContext:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH:@SECLEVEL=0")
        return context

    with Server() as running:
        # Wrapped connection by connection, in its thread: a handshake must not hold up the server.
        context = without_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        running.finish_request = lambda request, address: Handler(
            context.wrap_socket(request, server_side=True), address, running
        )
        yield running, without_certificate(guard.tls_context())
        running.shutdown()


def test_https_is_fetched_through_the_guard(tls_server):
    server, context = tls_server
    url = f"https://{server.pair}/picture?seed=8"
    assert guarded_fetch(url, tls=context, allowed_addresses=(server.pair,)) == picture(8)
    with pytest.raises(guard.FetchError, match="address refused"):
        guarded_fetch(url, tls=context)
    assert len(server.requests) == 1


@pytest.mark.parametrize("path", ["slowbody", "slowheader"])
def test_a_slow_https_server_is_left_at_the_deadline(tls_server, path):
    server, context = tls_server
    start = time.monotonic()
    with pytest.raises(guard.FetchError, match="timed out"):
        guarded_fetch(f"https://{server.pair}/{path}", 0.5, context, allowed_addresses=(server.pair,))
    assert 0.4 < time.monotonic() - start < 15  # the server takes 20 s


def test_an_https_server_that_never_shakes_hands_is_left_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pair = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(guard.FetchError, match="timed out"):
            guarded_fetch(f"https://{pair}/", 0.3, allowed_addresses=(pair,))


def test_the_deadline_covers_all_redirects_together(server):
    url = server.url(f"to?delay=1&url={server.url('picture?delay=1')}")
    assert guarded_fetch(url, 60.0, allowed_addresses=(server.pair,))
    with pytest.raises(guard.FetchError, match="timed out"):
        guarded_fetch(url, 1.5, allowed_addresses=(server.pair,))  # longer than either answer takes


def test_a_body_of_exactly_the_limit_is_read(server):
    size = len(picture(1))
    assert guarded_fetch(server.url("picture?seed=1"), max_bytes=size, allowed_addresses=(server.pair,)) == picture(1)
    with pytest.raises(guard.FetchError, match="too large"):
        guarded_fetch(server.url("picture?seed=1"), max_bytes=size - 1, allowed_addresses=(server.pair,))


def test_redirects_are_followed_to_the_limit_and_not_beyond(server):
    url = server.url("picture?seed=1")
    for _ in range(2):
        url = server.url(f"to?url={quote(url, safe='')}")
    assert guarded_fetch(url, max_redirects=2, allowed_addresses=(server.pair,)) == picture(1)
    with pytest.raises(guard.FetchError, match="too many redirects"):
        guarded_fetch(url, max_redirects=1, allowed_addresses=(server.pair,))
