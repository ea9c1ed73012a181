"""Fonts and text wrapping for any script."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modeling_gadms.media import drawing
from modeling_gadms.media.drawing import font_for, hide_head, printable, shorten, wrap


FONT = font_for("abc", 16)


@given(text=st.text(max_size=200), width=st.integers(60, 400), max_lines=st.integers(1, 6))
def test_no_line_is_wider_than_asked_and_no_more_lines_are_made(text, width, max_lines):
    lines = wrap(printable(text, FONT), FONT, width, max_lines)
    assert len(lines) <= max_lines
    assert all(FONT.getlength(line) <= width for line in lines)


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=30))
def test_words_that_fit_are_neither_split_nor_lost(words):
    lines = wrap(" ".join(words), FONT, 200, max_lines=100)
    assert " ".join(lines).split() == words


def test_a_word_longer_than_a_line_is_split():
    assert "".join(wrap("a" * 300, FONT, 200, max_lines=100)) == "a" * 300


def test_what_does_not_fit_ends_in_dots():
    assert wrap("word " * 100, FONT, 200, max_lines=2)[1].endswith("...")
    assert shorten("short", FONT, 200) == "short"
    assert shorten("x" * 100, FONT, 100).endswith("...")


def test_characters_without_a_shape_in_the_font_become_boxes():
    text = printable("a\U0010fffe b", FONT)
    assert text in ("a□ b", "a? b")
    assert printable("e\U0001e8d0", FONT) == "e"  # a combining mark leaves no box of its own


def test_the_font_with_most_of_the_characters_is_taken(monkeypatch):
    class Stub:
        def __init__(self, characters: str):
            self.characters = characters

    latin, chinese = Stub("abc"), Stub("ab人物")
    monkeypatch.setattr(drawing, "_fonts", lambda size: (latin, chinese))
    monkeypatch.setattr(drawing, "_has_glyph", lambda font, char: char in font.characters)
    assert font_for("a人物", 16) is chinese
    assert font_for("abc", 16) is latin
    assert font_for("", 16) is latin


def test_without_any_installed_font_the_built_in_one_serves(monkeypatch):
    monkeypatch.setattr(drawing, "_FONT_FILES", ("no_such_font_at_all.ttf",))
    drawing._fonts.cache_clear()
    try:
        font = font_for("a person", 17)
        assert printable("a person", font) == "a person"
        assert set(printable("人", font)) <= {"□", "?"}
    finally:
        drawing._fonts.cache_clear()


@pytest.mark.parametrize("char", ["a", "é", "Ж", "Ω"])
def test_common_letters_are_found_in_some_font(char):
    assert printable(char, font_for(char, 16)) == char


def test_the_upper_fifth_of_a_person_becomes_coarse_squares_and_the_rest_stays():
    pixels = np.random.default_rng(0).integers(0, 256, (100, 48, 3), dtype=np.uint8)
    hidden = np.asarray(hide_head(Image.fromarray(pixels)))
    assert np.array_equal(hidden[20:], pixels[20:])
    assert len(np.unique(hidden[:20].reshape(-1, 3), axis=0)) == 4  # squares of 12 or more: one row of four
    assert np.abs(hidden[:20, :12].astype(int) - pixels[:20, :12].mean((0, 1))).max() <= 1
    assert hide_head(Image.new("RGB", (1, 1), "red")).getpixel((0, 0)) == (255, 0, 0)
