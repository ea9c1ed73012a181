"""The mask token is appended, or replaces the last merged token as in research code."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from modeling_gadms import GADMSProcessor
from modeling_gadms.conversion.tokenizer import fit_tokenizer
from modeling_gadms.training.tokenizer import train_tokenizer


CAPTIONS = ["a man in a red coat", "a woman in a red hat and blue jeans", "trousers trousers trousers"]


def plain() -> CLIPTokenizer:
    return train_tokenizer(CAPTIONS * 4, vocab_size=540, max_length=32)


def masked() -> CLIPTokenizer:
    tokenizer = plain()
    tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    return tokenizer


SIZE = len(plain())
LAST_PIECE = plain().convert_ids_to_tokens(SIZE - 3)


# ---------------------------------------------------------------------------------------------------------------------
# Appended.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [plain, masked])
def test_a_mask_token_is_appended_to_openais_vocabulary(make):
    tokenizer, note = fit_tokenizer(make(), SIZE, research=False)
    assert tokenizer.mask_token_id == SIZE and len(tokenizer) == SIZE + 1
    assert note == f"mask token: {SIZE}, appended; its embedding is the mean of the others"


@pytest.mark.parametrize("research", [True, False])
def test_a_mask_token_that_is_there_is_kept(research):
    own, _ = fit_tokenizer(plain(), SIZE, research=True)  # its mask token is the third last
    for tokenizer, size in ((masked(), SIZE + 1), (own, SIZE)):
        mask, vocabulary = tokenizer.mask_token_id, tokenizer.get_vocab()
        fitted, note = fit_tokenizer(tokenizer, size, research=research)
        assert fitted.get_vocab() == vocabulary and fitted.mask_token_id == mask
        assert note == f"mask token: {mask}, from the tokenizer"


# ---------------------------------------------------------------------------------------------------------------------
# In the place of the last piece.
# ---------------------------------------------------------------------------------------------------------------------
def split_by_merges(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Naive byte-pair encoding: repeatedly join the pair whose merge comes first."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        ranks = {pair: merges.index(pair) for pair in zip(pieces, pieces[1:], strict=False) if pair in merges}
        if not ranks:
            return pieces
        best = min(ranks, key=ranks.get)
        joined, position = [], 0
        while position < len(pieces):
            pair = tuple(pieces[position : position + 2])
            joined.append("".join(pair) if pair == best else pieces[position])
            position += 2 if pair == best else 1
        pieces = joined


def merges_of(tokenizer: CLIPTokenizer) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


@pytest.mark.parametrize("make", [plain, masked])
def test_the_mask_takes_the_id_of_the_last_piece_and_no_other_changes(make):
    tokenizer, note = fit_tokenizer(make(), SIZE, research=True)
    expected = plain().get_vocab()
    assert expected.pop(LAST_PIECE) == SIZE - 3
    assert tokenizer.get_vocab() == expected | {"<|mask|>": SIZE - 3}
    assert (tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (SIZE - 3, SIZE - 2, SIZE - 1)
    assert (tokenizer.pad_token, tokenizer.unk_token) == (plain().pad_token, plain().unk_token)
    assert tokenizer.model_max_length == 32
    assert note == f"mask token: {SIZE - 3}, which was {LAST_PIECE!r}"


def test_a_caption_with_the_piece_is_split_as_the_remaining_merges_say():
    tokenizer, _ = fit_tokenizer(plain(), SIZE, research=True)
    words = [word for caption in CAPTIONS for word in caption.split() if LAST_PIECE in plain().tokenize(word)]
    assert words, "no caption has the piece: the test would prove nothing"
    remaining = [merge for merge in merges_of(plain()) if "".join(merge) != LAST_PIECE]
    for word in words:
        pieces = split_by_merges(word, remaining)
        assert LAST_PIECE not in pieces and tokenizer.tokenize(word) == pieces
        assert tokenizer(word)["input_ids"][1:-1] == [plain().get_vocab()[piece] for piece in pieces]


@settings(max_examples=60, deadline=None)
@given(text=st.text("adehinmnorstuw ,.é红", max_size=30))
def test_other_captions_keep_their_ids(text):
    before, after = plain_ids(text), research_ids(text)
    if SIZE - 3 not in before:
        assert after == before
    assert SIZE - 3 not in after


TOKENIZERS = (plain(), fit_tokenizer(plain(), SIZE, research=True)[0])


def plain_ids(text: str) -> list[int]:
    return TOKENIZERS[0](text)["input_ids"]


def research_ids(text: str) -> list[int]:
    return TOKENIZERS[1](text)["input_ids"]


def test_it_is_saved_and_loaded_equal_and_nobody_masks_by_typing(tmp_path):
    processor = GADMSProcessor.from_tokenizer(fit_tokenizer(plain(), SIZE, research=True)[0], image_size=(32, 16))
    processor.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == TOKENIZERS[1].get_vocab() and loaded.mask_token_id == SIZE - 3
    for text in CAPTIONS:
        assert loaded(text)["input_ids"] == research_ids(text)
    typed = GADMSProcessor.from_pretrained(tmp_path)(text="a <|mask|> coat")["input_ids"]
    assert SIZE - 3 not in typed[0]


def test_merges_that_need_the_lost_piece_go_with_it():
    """Only needed if the vocabulary is not in the order of the merges."""
    vocabulary = plain().get_vocab()
    early = next(
        "".join(merge)
        for merge in merges_of(plain())
        if "".join(merge) in {part for m in merges_of(plain()) for part in m}
    )
    vocabulary[early], vocabulary[LAST_PIECE] = vocabulary[LAST_PIECE], vocabulary[early]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges_of(plain()))
    fitted, _ = fit_tokenizer(tokenizer, SIZE, research=True)
    assert all(early not in merge for merge in merges_of(fitted))
    assert fitted("red hat")["input_ids"][-1] == SIZE - 1


# ---------------------------------------------------------------------------------------------------------------------
# Other vocabularies.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "size", "research"),
    [
        (plain, SIZE + 1, False),
        (plain, SIZE - 1, True),
        (masked, SIZE + 2, False),
        (masked, SIZE - 1, True),
        (plain, SIZE + 1, True),
    ],
)
def test_a_tokenizer_of_another_size_is_refused_with_both_numbers(make, size, research):
    tokenizer = make()
    with pytest.raises(ValueError, match=f"embeds {size} tokens, but the tokenizer has {len(tokenizer)} and"):
        fit_tokenizer(tokenizer, size, research=research)


@pytest.mark.parametrize("research", [True, False])
def test_bos_and_eos_must_be_the_last_two(research):
    vocabulary = plain().get_vocab()
    piece = plain().convert_ids_to_tokens(100)
    vocabulary[piece], vocabulary["<|endoftext|>"] = vocabulary["<|endoftext|>"], vocabulary[piece]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges_of(plain()))
    with pytest.raises(ValueError, match=f"has BOS {SIZE - 2} and EOS 100, .* at {SIZE - 2} and {SIZE - 1}"):
        fit_tokenizer(tokenizer, SIZE, research=research)


def test_a_last_piece_that_no_merge_makes_is_not_given_up():
    bytes_alone = train_tokenizer([], vocab_size=514, max_length=8)
    with pytest.raises(ValueError, match="the id 511, which is not a merged token"):
        fit_tokenizer(bytes_alone, 514, research=True)


def test_a_tokenizer_that_is_not_clips_cannot_give_up_a_piece():
    other = PreTrainedTokenizerFast(
        tokenizer_object=plain().backend_tokenizer, bos_token="<|startoftext|>", eos_token="<|endoftext|>"
    )
    with pytest.raises(ValueError, match="only the last token of a CLIP tokenizer can be replaced"):
        fit_tokenizer(other, SIZE, research=True)
