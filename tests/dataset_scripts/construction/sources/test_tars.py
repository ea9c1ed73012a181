"""WebDataset tars of strangers: what is no image is refused and counted, and nothing is written anywhere."""

import gzip
import io
import json
import os
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_scripts.construction.blocks import ROW_SCHEMA
from dataset_scripts.construction.sources import tars
from dataset_scripts.construction.sources.items import SourceNote, SourceProblem
from dataset_scripts.construction.sources.planning import SourceSettings, plan_shards, read_shard


FAILED_COLUMNS = ("key", "row", "url", "reason", "detail")


def member(name: str, content: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def url(key: str, value: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(f"{key}.json", json.dumps({"url": value}).encode())


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def raw_header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """A header that `tarfile` would not write."""
    size_field = b"%011o\0" % size if 0 <= size < 8**11 else _base256(size)
    fields = (name, b"0000644\0", b"0000000\0", b"0000000\0", size_field, b"00000000000\0", b" " * 8, kind)
    lengths = (100, 8, 8, 8, 12, 12, 8, 1)
    block = b"".join(field.ljust(length, b"\0") for field, length in zip(fields, lengths, strict=True))
    block = (block.ljust(257, b"\0") + b"ustar\x0000").ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _base256(size: int) -> bytes:
    return (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")


def old_sparse(size: int, real: int) -> bytes:
    """A header of GNU's old format: `size` bytes in the archive that unfold to `real`."""
    block = bytearray(raw_header(b"s.jpg", size, b"S"))
    block[257:265] = b"ustar  \0"
    block[386:410] = b"%011o\0%011o\0" % (0, 4)
    block[483:495] = b"%011o\0" % real
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


END = bytes(1024)
GOOD = raw_header(b"good.jpg", 4) + padded(b"good")


def read(path: Path, images_per_shard: int = 100) -> list[dict]:
    plan = plan_shards([SourceSettings("tars", str(path), name="set")], images_per_shard)
    return [row for shard in plan.shards for row in read_shard(shard).to_pylist()]


def images(rows: list[dict]) -> dict[str, bytes]:
    return {row["source"].partition("/")[2]: row["image"] for row in rows if not row["reason"]}


def reasons(rows: list[dict]) -> list[str]:
    """Of the rows without an image. Every row is either an image or a reason."""
    assert all((row["image"] is None) == bool(row["reason"]) == bool(row["rejected_by"]) for row in rows)
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert [row["position"] for row in rows] == sorted({row["position"] for row in rows})
    return [row["reason"] for row in rows if row["reason"]]


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    """No test's reading may leave anything in the working folder or above it."""
    work = tmp_path / "outer" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    yield
    assert [path.name for path in (tmp_path / "outer").rglob("*")] == ["work"]


@pytest.fixture
def tar(tmp_path) -> Path:
    return tmp_path / "a.tar"


# ---------------------------------------------------------------------------------------------------------------------
# Sound archives.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_sample_is_what_has_one_key(tar):
    write_tar(
        tar,
        member("x/0.jpg", b"first"),
        url("x/0", "http://a/0"),
        member("x/0.txt", b"a caption"),
        member("x/1.meta.json", b'{"url": "http://a/1"}'),
        member("x/1.v2.PNG", b"second"),
    )
    rows = read(tar)
    assert reasons(rows) == []
    assert images(rows) == {"a.tar/x/0.jpg": b"first", "a.tar/x/1.v2.PNG": b"second"}
    assert [row["url"] for row in rows] == ["http://a/0", "http://a/1"]
    assert rows[0]["trail"] == [{"block": "read", "note": None}]


def test_samples_come_by_name_however_they_lie(tar):
    members = [member(f"{number}.jpg", str(number).encode()) for number in range(6)]
    in_order = read(write_tar(tar, *members))
    random.Random(0).shuffle(members)
    assert read(write_tar(tar, *members)) == in_order


def test_ids_come_from_the_name_and_not_from_the_place_or_the_url(tar, tmp_path):
    write_tar(tar, member("0.jpg"), url("0", "http://a/same"), member("1.jpg"), url("1", "http://a/same"))
    rows = read(tar)
    assert len({row["row_id"] for row in rows}) == 2
    other = tmp_path / "elsewhere"
    other.mkdir()
    tar.rename(other / "a.tar")
    assert [row["row_id"] for row in read(other / "a.tar")] == [row["row_id"] for row in rows]


@pytest.mark.parametrize("images_per_shard", [1, 100])
def test_each_tar_of_a_folder_is_a_shard(tmp_path, images_per_shard):
    for name in ("b", "a"):
        write_tar(tmp_path / f"{name}.tar", member("0.jpg", name.encode()), member("1.jpg"), member("2.txt"))
    (tmp_path / "c.tar.gz").touch()
    rows = read(tmp_path, images_per_shard)
    assert [(row["shard"], row["source"]) for row in rows] == [
        (shard, f"set/{name}.tar/{member}") for shard, name in enumerate("ab") for member in ("0.jpg", "1.jpg", "2")
    ]
    assert reasons(rows) == [SourceProblem.NO_IMAGE] * 2


def test_an_archive_without_members_has_no_rows_but_its_columns(tar):
    write_tar(tar)
    plan = plan_shards([SourceSettings("tars", str(tar))], 5)
    table = read_shard(plan.shards[0])
    assert (table.num_rows, table.schema.names[: len(ROW_SCHEMA)]) == (0, ROW_SCHEMA.names)


def test_the_digest_changes_with_a_tar_and_with_what_lies_beside_it(tar):
    def digest() -> str:
        return plan_shards([SourceSettings("tars", str(tar), name="n")], 5).digest

    write_tar(tar, member("0.jpg"))
    before = digest()
    (tar.parent / "a.failed.parquet").touch()
    beside = digest()
    write_tar(tar, *(member(f"{number}.jpg", bytes(20_000)) for number in range(2)))
    assert len({before, beside, digest()}) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Members that are refused.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["../evil.jpg", "x/../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg", "..", "x/.."]
)
def test_a_path_that_climbs_out_is_refused(tar, name):
    rows = read(write_tar(tar, member(name, b"evil"), member("good.jpg", b"good")))
    assert reasons(rows) == [SourceProblem.CLIMBS_OUT]
    assert images(rows) == {"a.tar/good.jpg": b"good"}


def test_a_name_with_nul_is_refused(tar):
    path = member("placeholder", b"evil", pax_headers={"path": "a\0b.jpg"})
    assert reasons(read(write_tar(tar, path))) == [SourceProblem.CLIMBS_OUT]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret.jpg", "good.jpg"])
def test_a_link_is_refused_wherever_it_leads(tar, kind, target):
    link = member("link.jpg", type=kind, linkname=target)
    rows = read(write_tar(tar, member("good.jpg", b"good"), link))
    assert reasons(rows) == [SourceProblem.LINK]
    assert images(rows) == {"a.tar/good.jpg": b"good"}
    assert target in rows[1]["detail"]


def test_a_member_behind_a_link_to_a_folder_is_only_a_name(tar, tmp_path):
    rows = read(
        write_tar(tar, member("d", type=tarfile.SYMTYPE, linkname=str(tmp_path)), member("d/evil.jpg", b"evil"))
    )
    assert reasons(rows) == [SourceProblem.LINK]
    assert not (tmp_path / "evil.jpg").exists()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_and_a_pipe_are_refused(tar, kind):
    rows = read(write_tar(tar, member("zero.jpg", type=kind, devmajor=1, devminor=5)))
    assert reasons(rows) == [SourceProblem.NOT_A_FILE]


def test_many_members_with_long_names_are_read(tar):
    # All their headers together are far above the limit for one member.
    rows = read(write_tar(tar, *(member(f"{'d/' * 400}{number}.jpg", b"x") for number in range(60))))
    assert (reasons(rows), len(images(rows))) == ([], 60)


def test_folders_are_no_items(tar):
    rows = read(write_tar(tar, member("x.jpg", type=tarfile.DIRTYPE), member("x.jpg/0.jpg", b"good")))
    assert (reasons(rows), images(rows)) == ([], {"a.tar/x.jpg/0.jpg": b"good"})


def sparse_headers() -> dict[str, bytes]:
    """A member of 512 bytes that unfolds to 60 MiB, in the three ways that PAX knows, and GNU's old one."""
    real = 60 * 2**20
    versions = {
        "0.0": {"GNU.sparse.size": real, "GNU.sparse.numblocks": 1, "GNU.sparse.offset": 0, "GNU.sparse.numbytes": 4},
        "0.1": {"GNU.sparse.size": real, "GNU.sparse.numblocks": 1, "GNU.sparse.map": "0,4"},
        "1.0": {"GNU.sparse.major": 1, "GNU.sparse.minor": 0, "GNU.sparse.realsize": real, "GNU.sparse.name": "s.jpg"},
    }
    made = {}
    for version, headers in versions.items():
        content = padded(b"1\n0\n4\n") + b"data" if version == "1.0" else b"data"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            info, _ = member("s.jpg", content, pax_headers={key: str(value) for key, value in headers.items()})
            archive.addfile(info, io.BytesIO(content))
        made[version] = buffer.getvalue()[: -(-buffer.tell() // 512) * 512].rstrip(b"\0")
        made[version] = padded(made[version])
    return made | {"old": old_sparse(4, real) + padded(b"data")}


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "old"])
def test_a_sparse_member_that_would_unfold_is_refused(tar, version):
    tar.write_bytes(sparse_headers()[version] + GOOD + END)
    with tarfile.open(tar) as archive:  # as another reader understands it
        assert archive.next().size == 60 * 2**20
    rows = read(tar)
    assert reasons(rows) == [SourceProblem.NOT_A_FILE]
    assert images(rows) == {"a.tar/good.jpg": b"good"}


def test_the_second_image_of_a_key_is_refused(tar):
    rows = read(
        write_tar(tar, member("0.jpg", b"a"), member("0.png", b"b"), member("0.jpg", b"c"), url("0", "http://a"))
    )
    assert reasons(rows) == [SourceProblem.DUPLICATE_KEY] * 2
    assert images(rows) == {"a.tar/0.jpg": b"a"}


def test_a_sample_without_an_image_counts_once(tar):
    rows = read(write_tar(tar, member("0.txt"), url("0", "http://a"), member("1.jpg"), member("2.html", b"<html>")))
    assert reasons(rows) == [SourceProblem.NO_IMAGE] * 2
    assert rows[0]["url"] == "http://a"


def test_a_member_made_to_look_like_another_row_has_its_own_id(tar):
    members = [
        member("a.jpg", type=tarfile.SYMTYPE, linkname="x"),  # its row will be named "a.jpg (refused 0)"
        member("a.jpg (refused 0).d/0.txt"),
        member("k (refused 1).txt"),
        member("k", type=tarfile.SYMTYPE, linkname="x"),
    ]
    rows = read(write_tar(tar, *members))
    assert len(reasons(rows)) == 4
    assert len({row["source"] for row in rows}) == 3


def test_a_member_that_is_too_large_is_refused_unread(tar, monkeypatch):
    monkeypatch.setattr(tars, "MAX_FILE_BYTES", 1000)
    rows = read(write_tar(tar, member("0.jpg", bytes(1000)), member("1.jpg", bytes(1001)), url("1", "http://a")))
    assert reasons(rows) == [SourceProblem.TOO_LARGE]
    assert (rows[1]["source"], rows[1]["detail"], rows[1]["url"]) == ("set/a.tar/1.jpg", "1,001 bytes", "http://a")


# ---------------------------------------------------------------------------------------------------------------------
# Metadata and names.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b'"http://a"',
        b'{"url": 5}',
        b'{"url": ["http://a"]}',
        b'{"url": "\\ud800"}',
        b"[" * 100_000,
        b"\xff\xfe{",
        b'{"url": ' + b"9" * 5000 + b"}",
        b'{"url": "http://a"}' + b" " * 2**20,
    ],
)
def test_metadata_that_cannot_be_used_costs_the_url_and_is_counted(tar, content):
    (row,) = read(write_tar(tar, member("0.jpg", b"image"), member("0.json", content)))
    assert (row["image"], row["url"], row["reason"]) == (b"image", None, None)
    assert row["trail"] == [{"block": "read", "note": SourceNote.UNREADABLE_METADATA}]


@pytest.mark.parametrize("content", [b"{}", b'{"url": null}', b'{"caption": "http://a"}'])
def test_metadata_without_a_url_is_nothing_to_count(tar, content):
    (row,) = read(write_tar(tar, member("0.json", content), member("0.jpg", b"image")))
    assert (row["url"], row["trail"]) == (None, [{"block": "read", "note": None}])


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_any_bytes_become_text_that_stays_distinct(tar, format):
    names = ["new\nline.jpg", "café.jpg", os.fsdecode(b"latin\xe9.jpg"), "tab\t.jpg", "long" * 100 + ".jpg", "人.jpg"]
    rows = read(write_tar(tar, *(member(name, os.fsencode(name)) for name in names), format=format))
    assert reasons(rows) == []
    assert {row["image"] for row in rows} == {os.fsencode(name) for name in names}
    assert len({row["source"] for row in rows}) == len(names)
    assert all(len(row["source"].encode().splitlines()) == 1 for row in rows)


def test_a_refused_name_of_any_bytes_does_not_break_the_table(tar):
    rows = read(write_tar(tar, member(os.fsdecode(b"../\xe9\n.jpg")), member("l.jpg", type=b"2", linkname="\udcff")))
    assert sorted(reasons(rows)) == [SourceProblem.LINK, SourceProblem.CLIMBS_OUT]


def test_names_do_not_depend_on_the_encoding_of_the_machine(tar, monkeypatch):
    write_tar(tar, member("café.jpg"), format=tarfile.USTAR_FORMAT)
    monkeypatch.setattr(tarfile.TarFile, "encoding", "ascii")  # what `tarfile` takes by default where LC_ALL=C
    assert [row["source"] for row in read(tar)] == ["set/a.tar/café.jpg"]


# ---------------------------------------------------------------------------------------------------------------------
# Damaged archives.
# ---------------------------------------------------------------------------------------------------------------------
def three(tar: Path) -> bytes:
    write_tar(tar, *(member(f"{number}.jpg", bytes([65 + number]) * 700) for number in range(3)))
    return tar.read_bytes()[: 3 * 1536 + 1024]


@pytest.mark.parametrize(
    "cut, whole",
    [
        (3 * 1536, 3),  # the blocks at the end are missing
        (2 * 1536 + 600, 2),  # in a member
        (2 * 1536 + 100, 2),  # in a header
        (2 * 1536, 2),  # between two members
        (100, 0),
        (0, 0),
    ],
)
def test_an_archive_cut_short_keeps_what_is_whole_and_is_counted(tar, cut, whole):
    tar.write_bytes(three(tar)[:cut])
    rows = read(tar)
    assert reasons(rows) == [SourceProblem.DAMAGED_ARCHIVE]
    assert images(rows) == {f"a.tar/{number}.jpg": bytes([65 + number]) * 700 for number in range(whole)}
    damaged = next(row for row in rows if row["reason"])
    assert damaged["detail"].startswith(f"after {whole} samples: ")


def test_an_archive_with_one_block_of_zeros_at_the_end_is_whole(tar):
    tar.write_bytes(three(tar)[:-512])
    assert reasons(read(tar)) == []


@pytest.mark.parametrize("garbage", [b"garbage", b"\0" * 8 + b"x"])
def test_garbage_in_the_middle_ends_the_archive_and_is_counted(tar, garbage):
    content = three(tar)
    tar.write_bytes(content[:1536] + garbage.ljust(512, b"\1") + content[1536:])
    rows = read(tar)
    assert (reasons(rows), len(images(rows))) == ([SourceProblem.DAMAGED_ARCHIVE], 1)


def test_archives_that_are_only_joined_do_not_lose_the_second_in_silence(tar):
    first = three(tar)
    tar.write_bytes(first + bytes(10_240) + GOOD + END)
    rows = read(tar)
    assert (reasons(rows), len(images(rows))) == ([SourceProblem.DAMAGED_ARCHIVE], 3)
    assert "after the end" in rows[-1]["detail"]


@pytest.mark.parametrize(
    "content",
    # Named, as a gzip file holds the time of its making: two processes would collect two tests.
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>" * 200, id="HTML"),
        pytest.param(gzip.compress(GOOD + END), id="gzip"),
        pytest.param(bytes(range(256)) * 8, id="bytes"),
    ],
)
def test_what_is_no_tar_is_a_damaged_archive(tar, content):
    tar.write_bytes(content)
    assert reasons(read(tar)) == [SourceProblem.DAMAGED_ARCHIVE]


def test_an_archive_that_is_gone_or_a_folder_is_unreadable(tmp_path):
    (tmp_path / "a.tar").mkdir()
    write_tar(tmp_path / "b.tar", member("0.jpg"))
    plan = plan_shards([SourceSettings("tars", str(tmp_path))], 1)
    (tmp_path / "b.tar").unlink()
    rows = [row for shard in plan.shards for row in read_shard(shard).to_pylist()]
    assert reasons(rows) == [SourceProblem.UNREADABLE] * 2
    assert [row["detail"] for row in rows] == ["Is a directory", "No such file or directory"]


HOSTILE_HEADERS = {
    "a name of 8 GiB": raw_header(b"././@LongLink", 2**33, b"L"),
    "a name beyond all memory": raw_header(b"././@LongLink", 2**80, b"L"),
    "a PAX header beyond all memory": raw_header(b"p", 2**62, b"x"),
    "a PAX header of negative size": raw_header(b"p", -1024, b"x"),
    "a global header above the limit": raw_header(b"g", 2**15, b"g") + bytes(2**15),
    "a member of negative size": raw_header(b"n.jpg", -1024),
    "a member of slightly negative size": raw_header(b"n.jpg", -1),
    "a sparse member that leads back to itself": old_sparse(-512, 4),
    "a member beyond the end": raw_header(b"m.jpg", 2**40),
    "a member beyond 64 bits": raw_header(b"m.jpg", 2**80),
    "PAX headers without end": (raw_header(b"p", 9, b"x") + padded(b"9 a=bcde\n")) * 3000,
    "links to long names without end": (raw_header(b"././@LongLink", 4, b"L") + padded(b"name")) * 3000,
    "digits that would take quadratic time": raw_header(b"p", 10**6, b"x") + padded(b"1" * 10**6),
    "a PAX size that is negative": raw_header(b"p", 16, b"x") + padded(b"16 size=-131072\n") + GOOD,
    "a sparse map without end": raw_header(b"p", 52, b"x")
    + padded(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n8 a=bc\n")
    + raw_header(b"s.jpg", 10**6)
    + padded(b"999999999\n" + b"1\n" * 500_000),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("header", HOSTILE_HEADERS)
def test_a_hostile_header_is_counted_in_little_time_and_memory(tar, header):
    tar.write_bytes(GOOD + HOSTILE_HEADERS[header] + raw_header(b"next.jpg", 4) + padded(b"next") + END)
    allocated = []
    original = tars._TarBytes.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tars._TarBytes, "read", lambda file, size=-1: allocated.append(size) or original(file, size))
        rows = read(tar)
    granted = [size for size in allocated if 0 <= size <= tars.MAX_HEADER_BYTES]
    assert sum(granted) < 5 * tars.MAX_HEADER_BYTES
    assert images(rows)["a.tar/good.jpg"] == b"good"
    assert 1 <= len(reasons(rows)) <= 3
    assert set(reasons(rows)) <= {
        SourceProblem.DAMAGED_ARCHIVE,
        SourceProblem.TOO_LARGE,
        SourceProblem.DUPLICATE_KEY,
        SourceProblem.NO_IMAGE,
    }
    assert SourceProblem.DAMAGED_ARCHIVE in reasons(rows)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_spoiled_archive_gives_rows_and_no_error(tar, format):
    spoil = random.Random(0)
    write_tar(
        tar, *(member(f"{'d/' * 60}é{n}.jpg", bytes(600)) for n in range(3)), url("x", "http://a"), format=format
    )
    sound = tar.read_bytes()
    for _ in range(60):
        content = bytearray(sound[: spoil.randrange(1, len(sound))] if spoil.random() < 0.2 else sound)
        for _ in range(spoil.choice([1, 2, 5])):
            block = spoil.randrange(len(content)) // 512 * 512
            place = block + spoil.choice([spoil.randrange(512), 124 + spoil.randrange(12), 156])
            content[min(place, len(content) - 1)] = spoil.randrange(256)
            if content[block + 257 : block + 262] == b"ustar":  # with a sum that is right, so that damage gets through
                content[block + 148 : block + 156] = b" " * 8
                content[block + 148 : block + 156] = b"%06o\0 " % sum(content[block : block + 512])
        tar.write_bytes(content)
        reasons(read(tar))


# ---------------------------------------------------------------------------------------------------------------------
# Fetched tars.
# ---------------------------------------------------------------------------------------------------------------------
def write_failed(tar: Path, *rows: tuple) -> None:
    columns = [dict(zip(FAILED_COLUMNS, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(columns), tar.with_name(f"{tar.stem}.failed.parquet"))


def test_rows_that_were_not_fetched_stand_among_those_that_were(tar):
    write_tar(tar, member("0000.jpg", b"a"), url("0000", "http://a/0"), member("0002.jpg", b"b"))
    write_failed(
        tar, ("0001", 1, "http://a/1", "timeout", None), ("0003", 3, "http://a/0", "duplicate URL", "of row 0")
    )
    rows = read(tar)
    assert reasons(rows) == ["timeout", "duplicate URL"]
    assert [row["rejected_by"] for row in rows] == [None, "fetch", None, "fetch"]
    assert [[step["block"] for step in row["trail"]] for row in rows] == [["fetch", "read"], ["fetch"]] * 2
    assert [row["url"] for row in rows] == ["http://a/0", "http://a/1", None, "http://a/0"]
    assert rows[3]["detail"] == "of row 0"


def test_an_account_of_fetching_that_cannot_be_read_is_counted(tar):
    write_tar(tar, member("0.jpg", b"a"))
    failed = tar.with_name("a.failed.parquet")
    for spoil in (
        lambda: failed.write_bytes(b"no Parquet"),
        lambda: pq.write_table(pa.table({"key": ["1"]}), failed),
        lambda: write_failed(tar, ("1", 1, "http://a", None, None), ("2", 2, "http://a", "timeout", None)),
        lambda: pq.write_table(pa.table({name: [[1]] for name in FAILED_COLUMNS}), failed),
    ):
        spoil()
        rows = read(tar)
        assert (reasons(rows), len(rows)) == ([SourceProblem.UNREADABLE], 2)
