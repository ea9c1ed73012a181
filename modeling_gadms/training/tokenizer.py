"""A CLIP tokenizer learned from captions, for training from random weights without a download."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer


BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def train_tokenizer(captions: Iterable[str], *, vocab_size: int, max_length: int) -> CLIPTokenizer:
    """Learn a byte-pair vocabulary in CLIP's form.

    As in CLIP's own vocabulary every byte is a token, alone and at the end of a word, so that no text is unknown: an
    unknown piece would become EOS, CLIP's unknown token, and cut the caption there.

    Args:
        captions (`Iterable[str]`): what to learn from; training captions only.
        vocab_size (`int`): tokens in all, BOS and EOS included, the mask token not; at least 514. Fewer result where
            the captions have no more pairs to merge.
        max_length (`int`): tokens a caption is truncated to.

    Returns:
        [`~transformers.CLIPTokenizer`]: BOS and EOS are its last two tokens.

    Raises:
        ValueError: if `vocab_size` cannot hold the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [byte + END_OF_WORD for byte in alphabet]
    num_special = 2
    if vocab_size < len(pieces) + num_special:
        raise ValueError(
            f"vocab_size = {vocab_size} must be at least {len(pieces) + num_special}: every byte alone and at the "
            "end of a word, BOS and EOS"
        )

    tokenizer = CLIPTokenizer().backend_tokenizer  # for its normaliser and its way of splitting words
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - num_special,
        # Not as an alphabet: the trainer would number ends of words in the random order of a hash map, and break ties
        # between equally frequent pairs by those numbers, so that two processes learn two vocabularies.
        special_tokens=pieces,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    known = set(pieces)
    merged = [piece for piece, _ in learned if piece not in known and piece not in (BOS_TOKEN, EOS_TOKEN)]
    pieces = (pieces + merged)[: vocab_size - num_special]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, BOS_TOKEN, EOS_TOKEN])}
    # The merges are told by nothing but the serialised tokenizer.
    merges: Any = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    merges = [merge for merge in merges if "".join(merge) in vocabulary]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)
