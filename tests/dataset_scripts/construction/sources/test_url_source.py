"""A table of URLs through the whole pipeline: what was not fetched is accounted for, and persons keep their URLs."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_scripts.construction.run.config import load_build_config
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.synthetic_persons import PersonSampler


pytestmark = pytest.mark.slow


def drawn(index: int) -> bytes:
    buffer = io.BytesIO()
    PersonSampler(0, "train").draw(index, 0, (384, 128))[0].save(buffer, "JPEG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.path.startswith("/person"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(drawn(int(self.path.removeprefix("/person"))))
        elif self.path == "/private":
            self.send_response(302)
            self.send_header("Location", "http://10.0.0.1/camera.jpg")
            self.end_headers()
        else:
            self.send_error(404)


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.paths = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_table_of_urls_becomes_persons_with_their_urls(tmp_path, server, fetch_python):
    port = server.server_address[1]
    base = f"http://127.0.0.1:{port}"
    urls = [f"{base}/person{index}" for index in range(5)]
    # Four that must not become persons, one of which must not even be asked for.
    urls += [f"{base}/missing", f"{base}/private", f"{base}/person0", f"{base}/person77"]
    pq.write_table(pa.table({"id": list(range(len(urls))), "url": urls}), tmp_path / "table.parquet")
    (tmp_path / "opt_out.txt").write_text(f"{base}/person77\n")
    (tmp_path / "run.yaml").write_text(f"""
run: {{output: {tmp_path / "run"}, opt_out: {tmp_path / "opt_out.txt"}}}
sources: {{crawl: {{kind: urls, path: {tmp_path / "table.parquet"}}}}}
fetch: {{python: {fetch_python}, rows_per_tar: 4, processes: 1, allowed_addresses: ["127.0.0.1:{port}"]}}
detector: {{kind: whole_image}}
pose: {{kind: movenet}}
criteria: {{min_keypoints: 0, min_hips: 0, min_head: 0}}
""")
    report = build_webperson(load_build_config(tmp_path / "run.yaml"), progress=False)

    counts = {block.block: block for block in report.counts}
    assert (counts["fetch"].seen, counts["fetch"].kept, counts["fetch"].dropped) == (
        9,
        5,
        {"HTTP error": 1, "address refused": 1, "duplicate URL": 1, "opted out": 1},
    )
    assert counts["read"].seen == counts["read"].kept == 5
    tables = [pq.read_table(file) for file in sorted(Path(tmp_path, "run", "work", "persons").glob("*.parquet"))]
    assert pa.concat_tables(tables)["url"].to_pylist() == urls[:5]
    assert server.paths.count("/person0") == 1 and "/person77" not in server.paths
    rejects = [pq.read_table(file) for file in sorted(Path(tmp_path, "run", "work", "rejects").glob("*.parquet"))]
    assert sorted(pa.concat_tables(rejects)["url"].to_pylist()) == sorted(urls[5:])
    asked = len(server.paths)
    assert build_webperson(load_build_config(tmp_path / "run.yaml"), progress=False) == report
    assert len(server.paths) == asked  # nothing is fetched twice
