"""Names of files: resolved, escaped and back; digests of contents."""

import os
import random
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modeling_gadms.media.names import content_digest, escape_name, file_digest, resolved_name, unescape_name


@given(st.binary(max_size=40) | st.text(alphabet="\\x5ce9é", max_size=20).map(os.fsencode))
def test_every_name_of_a_file_is_text_that_gives_it_back(content):
    name = os.fsdecode(content)
    text = escape_name(name)
    text.encode()
    assert unescape_name(text) == name
    if name.isascii() and "\\x" not in name:
        assert text == name


def test_half_of_a_pair_as_json_may_contain_it_is_escaped_too():
    assert escape_name("a\ud83d") == r"a\xed\xa0\xbd"


def test_a_path_is_resolved_to_the_folder_and_on_request_through_the_file(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "real" / "link.png").symlink_to("a.png")
    (tmp_path / "folder").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    for path in ("a.png", "../folder/a.png", tmp_path / "folder" / ".." / "real" / "a.png"):
        assert resolved_name(Path(path)) == resolved_name(Path(path), follow=False) == f"{tmp_path}/real/a.png"
    assert resolved_name(Path("../folder/link.png"), follow=False) == f"{tmp_path}/real/link.png"
    assert resolved_name(Path("link.png")) == f"{tmp_path}/real/a.png"


def test_the_digest_of_a_large_file_tells_sizes_and_most_changes_apart(tmp_path):
    path = tmp_path / "v.mp4"
    content = bytearray(random.Random(0).randbytes(40_000_000))
    digests = set()
    for change in (None, 0, 39_999_999, 20_800_000):  # the last is in a part that is read
        if change is not None:
            content[change] ^= 1
        path.write_bytes(content)
        digests |= {file_digest(path), file_digest(path)}
    path.write_bytes(content[:-1])
    digests.add(file_digest(path))
    (tmp_path / "empty").touch()
    digests.add(file_digest(tmp_path / "empty"))
    assert len(digests) == 6


def test_the_digest_of_an_image_is_of_its_pixels_and_shape():
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    images = [Image.fromarray(pixels), Image.fromarray(pixels), Image.fromarray(pixels.reshape(8, 4, 3))]
    first, same, other = map(content_digest, images)
    assert first == same != other
