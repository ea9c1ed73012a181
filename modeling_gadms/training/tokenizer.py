"""Learn a CLIP tokenizer from captions, for training from random weights without a download."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer


BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def train_tokenizer(captions: Iterable[str], *, vocab_size: int, max_length: int) -> CLIPTokenizer:
    """Learn a byte-pair vocabulary like CLIP's.

    Every byte is a token, both inside and at the end of a word, so that no text is unknown. An unknown token would
    become EOS, CLIP's unknown token, and end the caption there.

    Args:
        captions (`Iterable[str]`): training captions.
        vocab_size (`int`): number of tokens with BOS and EOS but without the mask token; at least 514. The vocabulary
            is smaller if the captions have too few pairs to merge.
        max_length (`int`): number of tokens that a caption is truncated to.

    Returns:
        [`~transformers.CLIPTokenizer`]: BOS and EOS are its last two tokens.

    Raises:
        ValueError: if `vocab_size` is too small for the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [byte + END_OF_WORD for byte in alphabet]
    if vocab_size < len(pieces) + 2:
        raise ValueError(
            f"vocab_size = {vocab_size} must be at least {len(pieces) + 2}: every byte alone and at the end of a "
            "word, BOS and EOS"
        )

    tokenizer = CLIPTokenizer().backend_tokenizer  # for its normaliser and pre-tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        # Not as an alphabet: its ends of words would be numbered in the random order of a hash map. Ties between pairs
        # are broken by these numbers, and two processes would learn different vocabularies.
        special_tokens=pieces,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = tokenizer.get_vocab()
    merged = sorted(learned.keys() - {*pieces, BOS_TOKEN, EOS_TOKEN}, key=learned.__getitem__)
    pieces = (pieces + merged)[: vocab_size - 2]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, BOS_TOKEN, EOS_TOKEN])}
    # Only the serialised tokenizer contains the merges.
    merges: Any = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    merges = [merge for merge in merges if "".join(merge) in vocabulary]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)
