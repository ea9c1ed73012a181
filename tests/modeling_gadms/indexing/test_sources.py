"""Images from archives, tables, `datasets` objects and URLs; unreadable ones are counted by reason."""

import csv
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_gadms.indexing import sources
from modeling_gadms.indexing.sources import ArchiveReader, RowReader, open_source
from modeling_gadms.media.folders import SERVER_FOLDER
from modeling_gadms.media.images import IMAGE_SUFFIXES
from modeling_gadms.media.names import content_digest
from modeling_gadms.media.video import REPEATED_KEY, FrameReader


COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10)]


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


def colours(frames) -> list[tuple[int, int, int]]:
    return [frame.image.getpixel((3, 3)) for frame in frames]


def write_archive(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Archives.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_an_archive_gives_its_pictures_with_what_their_json_says(tmp_path, ending):
    members = {
        "a/0001.png": png(COLOURS[0]),
        "a/0001.json": json.dumps({"camera": "gate-1", "price": 3}).encode(),
        "a/0001.txt": b"a person",
        "b/0001.json": json.dumps({"camera": "gate-2"}).encode(),  # another key, and before its picture
        "b/0001.png": png(COLOURS[1]),
        "0002.png": png(COLOURS[2]),
    }
    path = write_archive(tmp_path / f"s.{ending}", members, "w:gz" if ending == "tar.gz" else "w")
    reader = open_source(path)
    frames = list(reader)
    assert colours(frames) == COLOURS[:3]
    assert [frame.fields for frame in frames] == [{"camera": "gate-1", "price": 3}, {"camera": "gate-2"}, {}]
    assert [frame.source for frame in frames] == [
        f"{path}/{name}" for name in ("a/0001.png", "b/0001.png", "0002.png")
    ]
    assert (reader.seen, reader.skipped.total(), reader.is_video) == (3, 0, False)


def test_a_pattern_gives_archives_in_their_order_and_each_reading_counts_anew(tmp_path):
    for number in (1, 0):
        write_archive(tmp_path / f"s{number}.tar", {"x.png": png(COLOURS[number])})
    reader = open_source(tmp_path / "s*.tar")
    assert colours(reader) == colours(reader) == COLOURS[:2]
    assert reader.seen == 2


def test_members_that_cannot_be_used_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_IMAGE_BYTES", 300)
    members = {
        "1.png": png(COLOURS[0]),
        "2.png": b"",
        "3.png": b"Dear Sir or Madam",
        "4.png": b"x" * 301,
        "5.png": png(COLOURS[1]),
        "5.json": b"{",
        "6.png": png(COLOURS[1]),
        "6.json": b"[1]",
        "7.png": png(COLOURS[2]),
    }
    reader = ArchiveReader([write_archive(tmp_path / "s.tar", members)])
    assert colours(reader) == [COLOURS[0], COLOURS[2]]
    assert dict(reader.skipped) == {
        "empty file": 1,
        "not an image": 1,
        "more than 50,000,000 bytes": 1,
        "its .json is damaged": 2,
    }
    assert reader.seen == 7


def test_nothing_of_an_archive_reaches_the_disk(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    path = write_archive(inside / "s.tar", {"../../outside.png": png(COLOURS[0]), "/tmp/outside.png": png(COLOURS[1])})
    before = sorted(tmp_path.rglob("*"))
    assert len(list(open_source(path))) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_is_unpacked_only_if_its_name_says_that_it_is_packed(tmp_path):
    path = write_archive(tmp_path / "s.tar", {"a.png": png(COLOURS[0])}, "w:gz")
    with pytest.raises(ValueError, match=r"if it is compressed, unpack it, or name it \.tar\.gz"):
        list(open_source(path))
    assert colours(open_source(path.rename(tmp_path / "s.tgz"))) == COLOURS[:1]


def test_a_damaged_archive_is_named(tmp_path):
    path = write_archive(tmp_path / "s.tar", {f"{number}.png": png(COLOURS[0]) for number in range(4)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"s\.tar cannot be read"):
        list(open_source(path))
    (tmp_path / "t.tar").write_text("Dear Sir or Madam")
    with pytest.raises(ValueError, match=r"t\.tar cannot be read"):
        list(open_source(tmp_path / "t.tar"))


# ---------------------------------------------------------------------------------------------------------------------
# Tables and data sets.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_csv_of_files_beside_it(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, colour in enumerate(COLOURS[:2]):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(colour))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image_path", "price", "brand"])
        rows.writerows([["pictures/0.png", 2.5, "Acme"], ["pictures/1.png", 4.0, ""], ["pictures/2.png", 1.0, "Acme"]])
    reader = open_source(tmp_path / "t.csv")
    frames = list(reader)
    assert colours(frames) == COLOURS[:2]
    assert frames[0].fields == {"image_path": "pictures/0.png", "price": "2.5", "brand": "Acme"}
    assert frames[0].source == f"{tmp_path}/pictures/0.png"
    assert (reader.expected, reader.seen, dict(reader.skipped)) == (3, 3, {"missing": 1})


def test_a_parquet_file_as_datasets_stores_pictures(tmp_path):
    images = [
        {"bytes": png(COLOURS[0]), "path": "a.png"},
        {"bytes": None, "path": None},
        {"bytes": b"no", "path": None},
    ]
    pq.write_table(pa.table({"image": images, "camera": ["a", "b", "c"]}), tmp_path / "t.parquet")
    reader = open_source(tmp_path / "t.parquet")
    frames = list(reader)
    assert colours(frames) == COLOURS[:1]
    assert frames[0].fields == {"camera": "a"}
    assert dict(reader.skipped) == {"the row has no image": 1, "not an image": 1}
    assert reader.examples == {"the row has no image": ["row 2"], "not an image": ["row 3"]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_datasets_object(streaming):
    dataset = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(colour), "path": None} for colour in COLOURS] + [{"bytes": b"no", "path": None}]}
        | {"person_id": list(range(5))},
        features=datasets.Features({"image": datasets.Image(), "person_id": datasets.Value("int64")}),
    )
    reader = RowReader.of_dataset(dataset.to_iterable_dataset() if streaming else dataset, "persons/test")
    frames = list(reader)
    assert colours(frames) == COLOURS
    assert [frame.fields["person_id"] for frame in frames] == [0, 1, 2, 3]
    assert frames[2].source == f"persons/test/{content_digest(png(COLOURS[2]))}"
    assert (reader.expected, reader.seen, dict(reader.skipped)) == (None if streaming else 5, 5, {"not an image": 1})


def test_tables_and_data_sets_that_say_nothing_of_pictures_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("picture,price\na.png,1\n")
    with pytest.raises(ValueError, match="has no column 'image', 'url' or 'image_path'.* picture, price"):
        open_source(tmp_path / "t.csv")
    (tmp_path / "u.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"u\.parquet cannot be read"):
        open_source(tmp_path / "u.parquet")
    with pytest.raises(ValueError, match="The data set x has no column 'image': rename one of picture"):
        RowReader.of_dataset(datasets.Dataset.from_dict({"picture": [1]}), "x")


def test_what_is_not_there_or_cannot_be_thinned_out_is_refused(tmp_path):
    for name in ("gone.csv", "gone.tar", "gone*.tar", "gone.mp4", "gone"):
        with pytest.raises(FileNotFoundError, match="gone"):
            open_source(tmp_path / name)
    (tmp_path / "t.csv").write_text("url\n")
    with pytest.raises(ValueError, match="cannot be sampled"):
        open_source(tmp_path / "t.csv", every=2)
    with pytest.raises(ValueError, match="cannot be sampled"):
        open_source(tmp_path / "t.csv", per_second=2)


def test_a_folder_is_a_folder_whatever_its_name(tmp_path):
    (tmp_path / "photos.tar").mkdir()
    (tmp_path / "photos.tar" / "a.png").write_bytes(png(COLOURS[0]))
    reader = open_source(tmp_path / "photos.tar")
    assert isinstance(reader, FrameReader)
    assert colours(reader) == COLOURS[:1]


# ---------------------------------------------------------------------------------------------------------------------
# URLs, from a server on loopback.
# ---------------------------------------------------------------------------------------------------------------------
class Inside(BaseHTTPRequestHandler):
    """A server that is not to be reached."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name in ("moved", "away"):
            self.send_response(302)
            self.send_header("Location", "/1" if name == "moved" else self.moved_to)
            self.end_headers()
            return
        if name == "silent":
            self.server.released.wait(120)
            return
        if name == "drip":
            self.send_response(200)
            self.end_headers()
            while not self.server.released.wait(0.05):
                self.wfile.write(b"x")
            return
        known = name.isdigit() or name == "letter"
        self.send_response(200 if known else 404)
        self.end_headers()
        if known:
            self.wfile.write(b"Dear Sir or Madam" if name == "letter" else png(COLOURS[int(name)]))

    def log_message(self, *arguments) -> None:
        pass


CLOSED = "127.0.0.1:9"


def allowed(address: str) -> tuple[str, str]:
    return address.removeprefix("http://"), CLOSED


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.released = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()
    server.shutdown()


def test_a_table_of_urls_in_its_order_and_what_was_not_fetched_by_reason(tmp_path, address, monkeypatch):
    monkeypatch.setattr(sources, "FETCH_SECONDS", 3.0)
    names = ["2", "gone", "0", "moved", "letter", "silent", "3"]
    urls = [f"{address}/{name}" for name in names] + ["file:///etc/hostname", f"http://{CLOSED}/closed"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"url": url, "price": 1.5}) + "\n" for url in urls))
    reader = open_source(tmp_path / "t.jsonl", allowed_addresses=allowed(address))
    frames = list(reader)
    assert colours(frames) == [COLOURS[2], COLOURS[0], COLOURS[1], COLOURS[3]]
    assert [frame.source for frame in frames] == [f"{address}/{name}" for name in ("2", "0", "moved", "3")]
    assert frames[0].fields == {"url": f"{address}/2", "price": 1.5}
    assert dict(reader.skipped) == {
        "not fetched: HTTP 404": 1,
        "not an image": 1,
        "not fetched: timed out": 1,
        "not fetched: address refused": 1,
        "not fetched: connection failed": 1,
    }
    assert reader.seen == reader.expected == 9


def test_more_than_a_picture_may_have_is_not_fetched_to_its_end(tmp_path, address, monkeypatch):
    monkeypatch.setattr(sources, "MAX_IMAGE_BYTES", 20)
    (tmp_path / "t.csv").write_text(f"url\n{address}/1\n{address}/letter\n")
    reader = open_source(tmp_path / "t.csv", allowed_addresses=allowed(address))
    assert not list(reader)
    assert dict(reader.skipped) == {"more than 20 bytes": 1, "not an image": 1}


def test_private_addresses_are_not_reached_and_slow_bytes_end_at_the_limit(tmp_path, address, monkeypatch):
    """Not by their number, not by a name, not by the redirect of a server that may be reached."""
    monkeypatch.setattr(sources, "FETCH_SECONDS", 1.0)
    port = address.rpartition(":")[2]
    urls = [f"http://{host}:{port}/1" for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0")]
    (tmp_path / "t.csv").write_text("\n".join(["url", *urls]))
    reader = open_source(tmp_path / "t.csv")
    assert not list(reader)
    assert dict(reader.skipped) == {"not fetched: address refused": len(urls)}
    with ThreadingHTTPServer(("127.0.0.1", 0), Inside) as inside:
        threading.Thread(target=inside.serve_forever, daemon=True).start()
        Pictures.moved_to = f"http://127.0.0.1:{inside.server_port}/1"
        (tmp_path / "u.csv").write_text(f"url\n{address}/away\n{address}/drip\n")
        reader = open_source(tmp_path / "u.csv", allowed_addresses=allowed(address))
        assert not list(reader)
        inside.shutdown()
    assert dict(reader.skipped) == {"not fetched: address refused": 1, "not fetched: timed out": 1}
    assert not Inside.asked


def test_reading_that_is_given_up_leaves_no_thread_behind(tmp_path, address):
    (tmp_path / "t.csv").write_text("url\n" + f"{address}/1\n" * 60)
    frames = iter(open_source(tmp_path / "t.csv", allowed_addresses=allowed(address)))
    next(frames)
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


# ---------------------------------------------------------------------------------------------------------------------
# Identity, and what is passed over.
# ---------------------------------------------------------------------------------------------------------------------
def test_members_of_an_archive_with_dots_in_their_names_and_all_others_are_accounted_for(tmp_path):
    members = {
        "Screenshot 2026-11-25 at 8.00.00.png": png(COLOURS[0]),
        "Screenshot 2026-11-25 at 8.00.00.json": b'{"camera": "own"}',
        "Screenshot 2026-11-25 at 8.00.05.png": png(COLOURS[1]),
        "0001.json": b'{"camera": "of the key"}',  # as WebDataset has it
        "0001.left.png": png(COLOURS[2]),
        "0002.json": b'{"camera": "nobody"}',
        "0003.txt": b"a person",
        "@eaDir/4.png": png(COLOURS[3]),
        "__MACOSX/._0001.png": b"resource fork",
        os.fsdecode(b"caf\xe9.png"): png(COLOURS[3]),
    }
    path = write_archive(tmp_path / "s.tar", members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0001.left.png"
        archive.addfile(link)
    reader = open_source(path)
    frames = list(reader)
    assert colours(frames) == COLOURS
    assert [frame.fields.get("camera") for frame in frames] == ["own", None, "of the key", None]
    assert frames[0].source == f"{path}/Screenshot 2026-11-25 at 8.00.00.png"
    assert frames[3].source == rf"{path}/caf\xe9.png"
    assert reader.passed_over.counts == {
        ".json": 1,
        ".txt": 1,
        SERVER_FOLDER: 2,
        "link or special file in an archive": 1,
    }
    used_fields = 2
    assert reader.seen + reader.passed_over.counts.total() + used_fields == len(members) + 1


def test_more_images_of_one_key_than_may_wait_are_all_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MAX_GROUP", 3)
    path = write_archive(tmp_path / "s.tar", {f"frame.{number:04}.png": png((number, 0, 0)) for number in range(8)})
    assert colours(open_source(path)) == [(number, 0, 0) for number in range(8)]


def identities(reader) -> dict[tuple[int, int, int], str]:
    return {frame.image.getpixel((3, 3)): frame.key or frame.source for frame in reader}


def test_a_source_is_the_same_by_every_path_and_by_the_name_that_it_is_given(tmp_path, monkeypatch):
    folder = tmp_path / "mon" / "p"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png(COLOURS[0]))
    write_archive(folder / "s.tar", {"x.png": png(COLOURS[1])})
    (folder / "t.csv").write_text("image_path\na.png\n")
    monkeypatch.chdir(tmp_path)
    for name, expected in (("", "a.png"), ("a.png", "a.png"), ("s.tar", "s.tar/x.png"), ("t.csv", "a.png")):
        spellings = [f"mon/p/{name}", f"mon/../mon/p/{name}", folder / name]
        found = {frame.source for spelling in spellings for frame in open_source(spelling)}
        assert found == {f"{folder}/{expected}"}
    given = {"": "cam/a.png", "a.png": "cam", "s.tar": "cam/x.png"}
    assert {name: next(iter(open_source(f"mon/p/{name}", name="cam"))).source for name in given} == given


def test_rows_are_identified_by_key_path_url_or_content_and_never_by_number(tmp_path):
    (tmp_path / "0.png").write_bytes(png(COLOURS[0]))
    (tmp_path / "1.png").write_bytes(png(COLOURS[1]))
    path = tmp_path / "t.csv"
    path.write_text("image_path,sku\n0.png,007\n1.png,008\n")
    before = identities(open_source(path)), identities(open_source(path, key="sku"))
    path.write_text("sku,image_path\n009,2.png\n008,1.png\n007,0.png\n")
    (tmp_path / "2.png").write_bytes(png(COLOURS[2]))
    after = identities(open_source(path)), identities(open_source(path, key="sku"))
    assert [found | earlier for found, earlier in zip(after, before, strict=True)] == list(after)
    assert before[1] == {COLOURS[0]: f"{path}/007", COLOURS[1]: f"{path}/008"}
    stored = [{"image": png(colour)} for colour in COLOURS]
    assert identities(RowReader(stored[::-1], "t")) == identities(RowReader(stored, "t"))


def test_rows_of_one_image_are_told_apart_and_rows_of_one_key_are_counted(tmp_path):
    (tmp_path / "0.png").write_bytes(png(COLOURS[0]))
    (tmp_path / "t.csv").write_text("image_path,sku,size\n0.png,007,S\n0.png,007,M\n0.png,,L\n")
    frames = list(open_source(tmp_path / "t.csv"))
    assert [frame.fields["size"] for frame in frames] == ["S", "M", "L"]
    assert {frame.source for frame in frames} == {f"{tmp_path}/0.png"}
    assert len({frame.key for frame in frames}) == 3
    reader = open_source(tmp_path / "t.csv", key="sku")
    assert [frame.fields["size"] for frame in reader] == ["S"]
    assert reader.examples == {REPEATED_KEY: ["row 2"], "the row has no key": ["row 3"]}
    with pytest.raises(ValueError, match="no column 'ean' for the key: give one of image_path, sku, size"):
        open_source(tmp_path / "t.csv", key="ean")


def test_bad_rows_are_counted_with_their_number(tmp_path):
    (tmp_path / "0.png").write_bytes(png(COLOURS[0]))
    (tmp_path / "t.csv").write_text('image_path,title\n0.png,x,y\n0.png,z\n,"\n')
    reader = open_source(tmp_path / "t.csv")
    assert [frame.row for frame in reader] == [2]
    assert reader.examples == {
        "another number of cells than the header": ["row 1: 3, not 2"],
        "its quotes are wrong": ["row 3: unexpected end of data"],
    }
    assert reader.seen == reader.expected == 3


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("photos.zip", {}, r"photos\.zip cannot be read as a \.zip file: unpack it"),
        ("shop.xlsx", {}, "save it as CSV"),
        ("shop.json", {}, "one object a line"),
        ("a.png", {"key": "sku"}, r"key \(sku\) is for tables"),
        ("a.png", {"encoding": "latin-1"}, r"encoding \(latin-1\) is for tables"),
        ("a.png", {"name": ""}, "name of a source is empty"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path, name, arguments, message):
    (tmp_path / name).write_bytes(png(COLOURS[0]))
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / name, **arguments)
    with pytest.raises(ValueError, match="name of a source is empty"):
        open_source("")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_file_with_the_suffix_of_an_image_is_an_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(png(COLOURS[0]))  # whatever its content
    reader = open_source(path)
    assert (reader.is_video, colours(reader)) == (False, COLOURS[:1])
