"""A vocabulary learned from captions, in CLIP's form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTokenizer

from modeling_gadms.training.tokenizer import train_tokenizer


CAPTIONS = ["A man in a red coat and blue jeans.", "A woman wears a red hat and a black backpack."] * 4
SMALLEST = 256 * 2 + 2
TOKENIZER = train_tokenizer(CAPTIONS, vocab_size=600, max_length=32)


# A special token typed out is that token, as in CLIP.
ORDINARY_TEXT = st.text(max_size=60).filter(lambda text: "<|" not in text)


@settings(max_examples=200, deadline=None)
@given(text=ORDINARY_TEXT)
def test_no_text_holds_an_unknown_piece(text):
    """An unknown piece would become EOS, CLIP's unknown token, and cut the caption there."""
    input_ids = TOKENIZER(text)["input_ids"]
    assert input_ids[0] == TOKENIZER.bos_token_id and input_ids[-1] == TOKENIZER.eos_token_id
    assert not {TOKENIZER.bos_token_id, TOKENIZER.eos_token_id} & set(input_ids[1:-1])
    assert input_ids[1:-1] or not text.strip()


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(st.text("abcdefghijklmnopqrstuvwxyzäöüßéñøжшд一红", min_size=1, max_size=8), min_size=1, max_size=8)
)
def test_words_survive_the_round_trip(words):
    text = " ".join(words)
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True) == text


def test_ids_are_the_bytes_then_the_merges_then_bos_and_eos():
    vocabulary = TOKENIZER.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(TOKENIZER)))
    assert (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (len(TOKENIZER) - 2, len(TOKENIZER) - 1)
    pieces = sorted(vocabulary, key=vocabulary.get)
    assert all(len(piece) == 1 for piece in pieces[:256])
    assert pieces[256:512] == [piece + "</w>" for piece in pieces[:256]]
    assert all(len(piece.removesuffix("</w>")) > 1 for piece in pieces[512:-2])


def test_frequent_words_are_single_tokens():
    assert len(TOKENIZER("red")["input_ids"]) == 3
    assert TOKENIZER("red RED Red")["input_ids"][1:-1] == [TOKENIZER("red")["input_ids"][1]] * 3
    assert len(TOKENIZER("zzzz")["input_ids"]) == 6


def test_the_vocabulary_keeps_to_its_size():
    captions = [" ".join(f"{a}{b}{c}" for b in "klmno" for c in "vwxyz") for a in "abcdefgh"]
    for vocab_size in (SMALLEST, SMALLEST + 7, SMALLEST + 40):
        assert len(train_tokenizer(captions, vocab_size=vocab_size, max_length=16)) == vocab_size
    assert len(train_tokenizer(CAPTIONS, vocab_size=50_000, max_length=16)) < 1000  # no more pairs to merge


@pytest.mark.parametrize("vocab_size", [0, 100, SMALLEST - 1])
def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size = {vocab_size} must be at least {SMALLEST}"):
        train_tokenizer(CAPTIONS, vocab_size=vocab_size, max_length=16)


def test_without_captions_there_are_still_the_bytes():
    tokenizer = train_tokenizer([], vocab_size=SMALLEST, max_length=16)
    assert len(tokenizer) == SMALLEST and len(tokenizer("red")["input_ids"]) == 5


def test_every_training_gives_the_same_vocabulary():
    """Each process of a distributed run learns its own; ties between pairs must fall alike."""
    for _ in range(8):
        again = train_tokenizer(CAPTIONS, vocab_size=600, max_length=32)
        assert again.get_vocab() == TOKENIZER.get_vocab()
        text = "a man with a backpack and blue jeans"
        assert again(text)["input_ids"] == TOKENIZER(text)["input_ids"]


def test_captions_may_come_from_a_generator():
    again = train_tokenizer((caption for caption in CAPTIONS), vocab_size=600, max_length=32)
    assert again.get_vocab() == TOKENIZER.get_vocab()


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60))
def test_a_saved_tokenizer_loads_equal(text, tmp_path_factory):
    loaded = _loaded(tmp_path_factory)
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]


_LOADED: list[CLIPTokenizer] = []


def _loaded(tmp_path_factory) -> CLIPTokenizer:
    if not _LOADED:
        folder = tmp_path_factory.mktemp("tokenizer")
        TOKENIZER.save_pretrained(folder)
        _LOADED.append(AutoTokenizer.from_pretrained(folder))
    return _LOADED[0]


def test_a_saved_tokenizer_keeps_its_kind_and_length(tmp_path_factory):
    loaded = _loaded(tmp_path_factory)
    assert type(loaded) is type(TOKENIZER) is CLIPTokenizer
    assert loaded.model_max_length == TOKENIZER.model_max_length == 32
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(loaded, name) == getattr(TOKENIZER, name)


def test_truncation_is_to_the_given_length():
    assert len(TOKENIZER("red " * 100, truncation=True)["input_ids"]) == 32
