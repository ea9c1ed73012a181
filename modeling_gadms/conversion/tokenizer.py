"""The tokenizer of a foreign checkpoint, with the mask token where its embeddings have it or are to have it."""

import json
from typing import Any, cast

from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from ..processing_gadms import MASK_TOKEN


MASK_FROM_END = 3
"""Research code gives the mask the id of the last merged piece, third from the end, before BOS and EOS."""


def fit_tokenizer(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, *, research: bool
) -> tuple[PreTrainedTokenizerBase, str]:
    """Give a tokenizer the mask token that goes with so many embeddings.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): with or without a mask token.
        vocab_size (`int`): embeddings of the checkpoint.
        research (`bool`): whether the checkpoint's mask took the place of the last piece.

    Returns:
        the tokenizer, of `vocab_size` tokens, or of one more where the mask has no embedding yet; and what was done.

    Raises:
        ValueError: if the tokenizer is that of another vocabulary.
    """
    mask, known = tokenizer.mask_token_id, len(tokenizer)
    base = vocab_size - 1 if mask == vocab_size - 1 else vocab_size
    if mask is not None and known == vocab_size:
        note = f"mask token: {mask}, the tokenizer's"
    elif research and mask is None and known == vocab_size:
        piece = tokenizer.convert_ids_to_tokens(vocab_size - MASK_FROM_END)
        note = f"mask token: {vocab_size - MASK_FROM_END}, which was the piece {piece!r}"
    elif not research and known == vocab_size + (mask is not None) and mask in (None, vocab_size):
        note = f"mask token: {vocab_size}, appended; its embedding is the mean of the others"
    else:
        has = f"a mask token, {mask}" if mask is not None else "no mask token"
        takes = "of that many tokens" if research else "of that many tokens, or with a mask token after them"
        raise ValueError(
            f"the checkpoint embeds {vocab_size} tokens, and the tokenizer has {known} and {has}; give the tokenizer "
            f"that the checkpoint was trained with, {takes}"
        )
    if (tokenizer.bos_token_id, tokenizer.eos_token_id) != (base - 2, base - 1):
        raise ValueError(
            f"the tokenizer has BOS {tokenizer.bos_token_id} and EOS {tokenizer.eos_token_id}, and a vocabulary of "
            f"{base} tokens of CLIP's has them at {base - 2} and {base - 1}: captions are embedded at their largest "
            "id there. Give the tokenizer that the checkpoint was trained with"
        )
    if mask is None:
        if research:
            return _with_mask_for_last_piece(tokenizer, vocab_size - MASK_FROM_END), note
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    return tokenizer, note


def _with_mask_for_last_piece(tokenizer: PreTrainedTokenizerBase, mask_token_id: int) -> CLIPTokenizer:
    if not isinstance(tokenizer, CLIPTokenizer):
        raise ValueError(f"the tokenizer is a {type(tokenizer).__name__}; only a CLIP tokenizer can give up a piece")
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    piece = cast(str, tokenizer.convert_ids_to_tokens(mask_token_id))
    merges = [tuple(merge) for merge in model["merges"]]
    if piece not in map("".join, merges):
        raise ValueError(
            f"the mask would take the id {mask_token_id} of {piece!r}, which is no merged piece: text with it could "
            "not be split any more. Give the tokenizer that the checkpoint was trained with"
        )
    kept: Any = [merge for merge in merges if piece not in (*merge, "".join(merge))]
    del vocabulary[piece]
    vocabulary[MASK_TOKEN] = mask_token_id
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=kept,
        unk_token=tokenizer.unk_token,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        mask_token=MASK_TOKEN,
        model_max_length=tokenizer.model_max_length,
    )
