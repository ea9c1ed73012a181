"""OpenAI's tokenizer, and the mask token: appended to the vocabulary, or at its position in research code."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerBase

from ..processing_gadms import MASK_TOKEN


OPENAI_TOKENIZER = "openai/clip-vit-base-patch16"
_MERGES_FILE, _NUM_MERGES = "bpe_simple_vocab_16e6.txt.gz", 49_408 - 2 * 256 - 2
"""File of open_clip_torch with CLIP's merges, and how many of its lines are used, after a heading."""
MASK_FROM_END = 3
"""Position of research code's mask token: it replaces the last merged token, which precedes BOS and EOS."""


def openai_tokenizer() -> tuple[PreTrainedTokenizerBase, list[str]]:
    """Return OpenAI's tokenizer from the Hub or its cache, else from an installed open_clip_torch; and report lines.

    Raises:
        OSError: if there is neither.
    """
    try:
        return AutoTokenizer.from_pretrained(OPENAI_TOKENIZER), []
    except OSError as error:
        spec = find_spec("open_clip")
        file = Path(spec.origin).with_name(_MERGES_FILE) if spec and spec.origin else None
        if file is None or not file.exists():
            raise OSError(
                f"the tokenizer {OPENAI_TOKENIZER} cannot be loaded, and open_clip_torch, which contains its "
                f"vocabulary, is not installed; install that, or give another tokenizer (--tokenizer): {error}"
            ) from error
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        merges: Any = [tuple(line.split()) for line in lines][1 : _NUM_MERGES + 1]
    # CLIP numbers printable bytes first, then the others.
    characters = sorted(ByteLevel.alphabet())
    pieces = [*characters, *(f"{character}</w>" for character in characters), *map("".join, merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    return tokenizer, ["captions: the vocabulary is that of the installed open_clip_torch"]


def fit_tokenizer(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, *, research: bool
) -> tuple[PreTrainedTokenizerBase, str]:
    """Add the mask token that a checkpoint expects.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): with or without a mask token.
        vocab_size (`int`): number of token embeddings in the checkpoint.
        research (`bool`): whether the mask token of the checkpoint replaces the last merged token.

    Returns:
        The tokenizer with `vocab_size` tokens, or one more if the mask token has no embedding yet; and a note for the
        report.

    Raises:
        ValueError: if the tokenizer has another vocabulary.
    """
    mask, known = tokenizer.mask_token_id, len(tokenizer)
    base = vocab_size - 1 if mask == vocab_size - 1 else vocab_size
    # Without a mask token, or with one after the tokens of the checkpoint, as in a model that was exported.
    fits_without_mask = (mask, known) in ((None, vocab_size), (vocab_size, vocab_size + 1))
    if mask is not None and known == vocab_size:
        note = f"mask token: {mask}, from the tokenizer"
    elif not fits_without_mask:
        found = f"a mask token, {mask}" if mask is not None else "no mask token"
        raise ValueError(
            f"the checkpoint embeds {vocab_size} tokens, but the tokenizer has {known} and {found}; give the one that "
            f"the checkpoint was trained with, with {vocab_size} tokens and optionally a mask token after them"
        )
    elif research:
        piece = tokenizer.convert_ids_to_tokens(vocab_size - MASK_FROM_END)
        note = f"mask token: {vocab_size - MASK_FROM_END}, which was {piece!r}"
    else:
        note = f"mask token: {vocab_size}, appended; its embedding is the mean of the others"
    if (tokenizer.bos_token_id, tokenizer.eos_token_id) != (base - 2, base - 1):
        raise ValueError(
            f"the tokenizer has BOS {tokenizer.bos_token_id} and EOS {tokenizer.eos_token_id}, but CLIP, which embeds "
            f"a caption at its largest id, has them at {base - 2} and {base - 1} of {base} tokens. Give the tokenizer "
            "that the checkpoint was trained with"
        )
    if fits_without_mask and research:
        return _replace_last_merged_token(tokenizer, vocab_size - MASK_FROM_END), note
    if mask is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    return tokenizer, note


def _replace_last_merged_token(tokenizer: PreTrainedTokenizerBase, mask_token_id: int) -> CLIPTokenizer:
    if not isinstance(tokenizer, CLIPTokenizer):
        raise ValueError(
            f"the tokenizer is a {type(tokenizer).__name__}; only the last token of a CLIP tokenizer can be replaced"
        )
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    piece = cast(str, tokenizer.convert_ids_to_tokens(mask_token_id))
    merges = [tuple(merge) for merge in model["merges"]]
    if piece not in map("".join, merges):
        raise ValueError(
            f"the mask token would replace {piece!r}, the id {mask_token_id}, which is not a merged token: text that "
            "contains it could not be tokenized. Give the tokenizer that the checkpoint was trained with"
        )
    kept: Any = [merge for merge in merges if piece not in (*merge, "".join(merge))]
    del vocabulary[piece]
    if tokenizer.mask_token is not None:
        del vocabulary[tokenizer.mask_token]
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
