"""Tables in any encoding and with any fault: every row is read or is a bad row, and none is lost."""

import csv
import io
import json
import random
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_gadms.indexing.tables import BadRow, Table


IMAGE_COLUMNS = ("image", "url", "image_path")


def table(path, content: bytes | str, encoding: str | None = None) -> Table:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Table(path, IMAGE_COLUMNS, encoding)


def test_cells_are_texts_as_they_are_written(tmp_path):
    read = table(tmp_path / "t.csv", 'image_path, sku ,title\na.png,007,"a ""red"", new coat"\n\nb.png,3.0,\n')
    assert (read.columns, read.length) == (["image_path", "sku", "title"], 2)
    expected = [
        {"image_path": "a.png", "sku": "007", "title": 'a "red", new coat'},
        {"image_path": "b.png", "sku": "3.0", "title": ""},
    ]
    assert list(read) == list(read) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding, suffix):
    text = "image_path;brand\na.png;Blåbær\n" if suffix == "csv" else '{"image_path": "a.png", "brand": "Blåbær"}\n'
    assert list(table(tmp_path / f"t.{suffix}", text.encode(encoding))) == [{"image_path": "a.png", "brand": "Blåbær"}]


def test_another_encoding_is_declared(tmp_path):
    content = "image_path,brand\na.png,Blåbær\n"
    assert list(table(tmp_path / "t.csv", content.encode("latin-1"), "latin-1"))[0]["brand"] == "Blåbær"
    undeclared = list(table(tmp_path / "t.csv", content.encode("latin-1")))[0]["brand"]
    assert undeclared.encode("utf-8", "surrogateescape") == "Blåbær".encode("latin-1")  # nothing is lost
    assert list(table(tmp_path / "t.csv", content.encode("utf-16-le"), "utf-16-le"))[0]["brand"] == "Blåbær"
    with pytest.raises(ValueError, match="in another encoding"):
        table(tmp_path / "t.csv", content.encode("utf-16-le"))
    with pytest.raises(ValueError, match="Unknown encoding 'latin-99'"):
        table(tmp_path / "t.csv", content, "latin-99")
    with pytest.raises(ValueError, match=r"t\.csv cannot be read: 'utf-16-le' codec"):
        table(tmp_path / "t.csv", b"\x00\xd8a\x00", "utf-16-le")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    text = delimiter.join(["title", "image_path"]) + "\n" + delimiter.join(['"a, b; c"', "a.png"]) + "\n"
    assert list(table(tmp_path / "t.csv", text)) == [{"title": "a, b; c", "image_path": "a.png"}]
    assert list(table(tmp_path / "t.csv", f"sep={delimiter}\r\n{text}"))[0]["image_path"] == "a.png"


def test_a_cell_may_have_any_size_and_line_breaks(tmp_path):
    cell = "line\r\n" * 500_000  # three megabytes
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["title", "url"], [cell, "http://a"], ["b", "http://b"]])
    assert [row["title"] for row in table(tmp_path / "t.csv", file.getvalue())] == [cell, "b"]


def test_a_row_that_cannot_be_read_costs_no_other(tmp_path):
    rows = [
        "image_path,title",
        "a.png,x",
        "b.png",
        'c.png,"y"z',
        "d.png,y,z",
        'e.png,"never closed',
        "f.png,x",
        'g.png,"x"',
    ]
    read = table(tmp_path / "t.csv", "\n".join(rows))
    assert read.length == 7
    assert [row.reason if isinstance(row, BadRow) else row["image_path"] for row in read] == [
        "a.png",
        "another number of cells than the header",
        "its quotes are wrong",
        "another number of cells than the header",
        "its quotes are wrong",
        "f.png",
        "g.png",
    ]


def test_json_lines_keep_their_types_and_other_lines_are_bad_rows(tmp_path):
    lines = [
        '{"url": "http://a", "sku": "007", "n": 9007199254740993}',
        "",
        "{",
        "[1]",
        '{"url": "http://b", "n": NaN}',
    ]
    read = table(tmp_path / "t.jsonl", "\n".join(lines))
    first, second, third, last = read
    assert first == {"url": "http://a", "sku": "007", "n": 9007199254740993}
    assert (second.reason, third) == ("not JSON", BadRow("not a JSON object", "list"))
    assert last["url"] == "http://b"
    assert read.length == 4


def test_parquet_values_that_python_does_not_have_are_bad_rows(tmp_path):
    times = pa.array([0, 2**60, 1], pa.int64()).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"url": ["a", "b", "c"], "time": times}), tmp_path / "t.parquet")
    first, second, third = Table(tmp_path / "t.parquet", IMAGE_COLUMNS)
    assert (first["time"], third["url"]) == (datetime(1970, 1, 1), "c")
    assert second.reason == "a value that Python has no equivalent of"
    with pytest.raises(ValueError, match="encoding"):
        Table(tmp_path / "t.parquet", IMAGE_COLUMNS, "latin-1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "picture,price\n", "no column 'image', 'url' or 'image_path'; its columns are picture, price"),
        ("t.csv", "", r"its columns are \(none\)"),
        ("t.csv", "url,price,price\n", "several columns of the name 'price'"),
        ("t.jsonl", '{"picture": 1}\n', "its columns are picture"),
        ("t.parquet", "PAR1 no", "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_of_images_is_refused(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path / name, content)


# ---------------------------------------------------------------------------------------------------------------------
# Spoiled tables.
# ---------------------------------------------------------------------------------------------------------------------
PIECES = [
    b'"',
    b'""',
    b",",
    b";",
    b"\n",
    b"\r",
    b"\r\n",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"{",
    b"}",
    b"\\",
    b"\xe9",
]


def spoiled(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(damaged) + 1)
        kind = chance.randrange(3)
        if kind == 0:
            damaged[place:place] = chance.choice(PIECES)
        elif kind == 1:
            del damaged[place : place + chance.randint(1, 9)]
        else:
            damaged[place : place + 4] = chance.randbytes(4)
    return bytes(damaged)


@pytest.mark.parametrize(
    "rounds", [400, pytest.param(150_000, marks=[pytest.mark.torture, pytest.mark.timeout(1200)])]
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_spoiled_table_is_refused_or_none_of_its_rows_is_lost(tmp_path, suffix, rounds):
    """A row is read as it is if neither it nor its neighbours are harmed."""
    chance = random.Random(0)
    path = tmp_path / f"t.{suffix}"
    rows = [{"url": f"http://host/{number}", "title": f'a "coat" {number}\nof wool, {number}'} for number in range(12)]
    header, texts = b"", []
    if suffix == "csv":
        header = b'"url","title"\r\n'
        texts = [f'"{row["url"]}","{row["title"].replace(chr(34), chr(34) * 2)}"\r\n' for row in rows]
    elif suffix == "jsonl":
        texts = [json.dumps(row) + "\n" for row in rows]
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
        content = path.read_bytes()
    texts = [text.encode() for text in texts]
    whole = b"".join([header, *texts])
    for _ in range(rounds):
        damaged = spoiled(whole or content, chance)
        path.write_bytes(damaged)
        try:
            read = Table(path, IMAGE_COLUMNS)
            found = list(read)
        except ValueError as error:
            assert path.name in str(error)
            continue
        assert len(found) == read.length
        if damaged.startswith(header or b"{") and suffix != "parquet":
            for number in range(1, len(texts) - 1):
                if (
                    b"".join(texts[number - 1 : number + 2]) in damaged
                ):  # so are its neighbours, which it may be joined to
                    assert rows[number] in found, damaged
