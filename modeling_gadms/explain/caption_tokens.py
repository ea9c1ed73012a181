"""Relevance of caption tokens to an image (GASS), and a figure of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw

from ..encoders.encoding import encode_captions, encode_images
from ..encoders.onnx_model import OnnxModel, RetrievalModel
from ..encoders.processors import RetrievalProcessor, family_of
from ..encoders.query_checks import check_query
from ..encoders.shared_weights import copy_sharing_weights
from ..media.drawing import FAINT_INK, INK, PAPER, Font, fit_image, font_for, printable
from ..modeling_gadms import GADMSModel
from ..token_scoring_gadms import record_attention, scores_of_attention, scoring_mode
from .encoder_attention import Features, find_attention


_SCORED_LAYERS, _SCALES = 8, (1, 2)
"""L and the window lengths of GASS, as in the paper, for models that do not configure them."""
_SPACE = "▁"
"""A space in the pieces of sentencepiece."""
_IMAGE_HEIGHT = 384
_IMAGE_MAX_WIDTH = 480
_TEXT_WIDTH = 620
_MARGIN = 28
_FONT_SIZE = 22
_LINE = 42
_BAR_WIDTH = 200
_LOW_COLOUR, _HIGH_COLOUR = (255, 250, 240), (240, 120, 40)


@dataclass(frozen=True)
class ScoredToken:
    """A token of the caption, as it was typed.

    Attributes:
        text (`str`): its characters.
        score (`float`): relevance to the image, 0 for the least and 1 for the most relevant token of the caption.
        starts_word (`bool`): whether whitespace precedes it.
    """

    text: str
    score: float
    starts_word: bool


@dataclass(frozen=True)
class Explanation:
    """The scored tokens of a caption, and the cosine similarity of the caption and the image."""

    tokens: list[ScoredToken]
    similarity: float


def explain_caption(
    model: RetrievalModel, processor: RetrievalProcessor, image: Image.Image, caption: str
) -> Explanation:
    """Score the caption's tokens against the image with GASS (GA-DMS eq. 1-4), scaled to [0, 1] within the caption.

    In models of other families, EOS in these equations stands for the position at which a caption is embedded: the
    last one of SigLIP, with the padding that it attends to, and the first one of BERT. A character that is split into
    several tokens, such as an emoji, appears once, with the highest of their scores. Other threads can use the model
    at the same time.

    Args:
        model ([`GADMSModel`] or a model of transformers): a PyTorch model, since gradients are needed.
        processor ([`GADMSProcessor`] or [`DualEncoderProcessor`]): of the model.
        image (`PIL.Image.Image`): image of a person.
        caption (`str`)

    Warns:
        UserWarning: as [`~modeling_gadms.encoders.query_checks.check_query`].
    Raises:
        TypeError: if the model is not a PyTorch model.
        ValueError: if the caption is empty, its tokens have no scores in the model's family, or its tokenizer does
            not tell what they stand for.
    """
    if isinstance(model, OnnxModel):
        raise TypeError(f"Token scores need gradients, and {type(model).__name__} has none: load the model with torch")
    family_of(processor).check_can("token scores")
    caption = processor.clean(check_query(processor, caption))
    image_embeds = encode_images(model, processor, [image], progress=False)  # (1, projection_dim)
    text_embeds = encode_captions(model, processor, [caption], progress=False)
    inputs = processor(text=[caption]).to(model.device)
    is_special, offsets = _tokens_of(processor, caption)
    model = copy_sharing_weights(model)
    if isinstance(model, GADMSModel):
        scores = model.score_tokens(**inputs, image_embeds=image_embeds.to(model.device), method="gass")
    else:
        own_tokens = ~torch.tensor([is_special], dtype=torch.bool, device=model.device)
        embedded_at = 0 if family_of(processor).pooling == "first" else own_tokens.shape[1] - 1
        scores = _token_scores(model, inputs, own_tokens, embedded_at, image_embeds.to(model.device))
    return Explanation(
        tokens=_scored_tokens(caption, offsets, scores[0].tolist()),
        similarity=torch.sum(image_embeds * text_embeds).item(),
    )


def _tokens_of(processor: RetrievalProcessor, caption: str) -> tuple[list[int], list[tuple[int, int]]]:
    """For each token whether it is a special one, and its first and last position in the caption, as the model reads
    it. Tokenizers without offsets give pieces of the caption, which are looked for one after the other."""
    tokenizer = processor.tokenizer
    tokens = processor.tokenize(
        caption,
        padding=family_of(processor).padding,
        truncation=True,
        return_offsets_mapping=tokenizer.is_fast,
        return_special_tokens_mask=True,
    )
    if tokenizer.is_fast:
        return tokens["special_tokens_mask"], tokens["offset_mapping"]
    offsets, end, pieces = [], 0, iter(tokenizer.tokenize(caption))
    for is_special in tokens["special_tokens_mask"]:
        text = "" if is_special else next(pieces).replace(_SPACE, " ").strip()
        start = caption.find(text, end)
        if start < 0:
            raise ValueError(
                f"{type(tokenizer).__name__} does not tell where in {caption!r} its token {text!r} stands"
            )
        end = start + len(text)
        offsets.append((start, end))
    return tokens["special_tokens_mask"], offsets


def _token_scores(
    model: RetrievalModel,
    inputs: Mapping[str, torch.Tensor],
    own_tokens: torch.Tensor,
    embedded_at: int,
    image_embeds: torch.Tensor,
) -> torch.Tensor:
    """GASS of the tokens of one caption without padding, or with padding that is read: (1, sequence_length)."""
    features = Features(model, "text")
    layers, parts = find_attention(features.encoder)
    with (
        scoring_mode(features.encoder, "eager"),
        torch.autocast(device_type=own_tokens.device.type, enabled=False),
        record_attention(layers[-_SCORED_LAYERS:], parts) as records,
    ):
        text_embeds = features.in_float32(inputs)
        similarity = torch.cosine_similarity(text_embeds, image_embeds.clone().to(text_embeds.dtype), dim=-1)
        gradients = torch.autograd.grad(similarity.sum(), [record.output for record in records])
        with torch.no_grad():
            return scores_of_attention(
                records,
                gradients,
                embedded_at=torch.tensor([embedded_at], device=own_tokens.device),
                visible=torch.ones_like(own_tokens),
                own_tokens=own_tokens,
                num_heads=model.config.text_config.num_attention_heads,
                scales=_SCALES,
            )


def draw_explanation(image: Image.Image, explanation: Explanation) -> Image.Image:
    """Draw the image and the caption, with the background of each token coloured by its score.

    Returns:
        `PIL.Image.Image` in mode RGB.
    """
    person = fit_image(image, (_IMAGE_MAX_WIDTH, _IMAGE_HEIGHT))
    text_left = _MARGIN + person.width + _MARGIN
    font = font_for("".join(token.text for token in explanation.tokens), _FONT_SIZE)
    lines = _lines(explanation.tokens, font)
    text_height = len(lines) * _LINE + 3 * _LINE
    sheet_size = (text_left + _TEXT_WIDTH + _MARGIN, max(person.height, text_height) + 2 * _MARGIN)
    sheet = Image.new("RGB", sheet_size, PAPER)
    sheet.paste(person, (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(sheet)
    small = font_for("", 14)
    heading = f"cosine similarity of image and caption: {explanation.similarity:.3f}"
    draw.text((text_left, _MARGIN), heading, font=small, fill=FAINT_INK)
    top = _MARGIN + _LINE
    for line in lines:
        for left, width, text, score in line:
            box = (text_left + left, top, text_left + left + width, top + _LINE - 10)
            draw.rectangle(box, fill=score_colour(score))
            draw.text((text_left + left, top + 2), text, font=font, fill=INK)
        top += _LINE
    _draw_legend(draw, text_left, top + 12)
    return sheet


def _scored_tokens(caption: str, offsets: Sequence[tuple[int, int]], scores: Sequence[float]) -> list[ScoredToken]:
    spans: list[tuple[int, int, float]] = []
    for (start, end), score in zip(offsets, scores, strict=True):
        if start == end or caption[start:end].isspace():  # special tokens, and those of a space alone
            continue
        if spans and start < spans[-1][1]:  # another part of the same character
            first, last, highest = spans.pop()
            start, end, score = min(start, first), max(end, last), max(score, highest)
        spans.append((start, end, score))
    tokens = []
    for start, end, score in spans:
        # Some tokenizers include the preceding space in a token.
        starts_word = start == 0 or caption[start - 1].isspace() or caption[start].isspace()
        tokens.append(ScoredToken(caption[start:end].strip(), score, starts_word))
    return tokens


def _lines(tokens: Sequence[ScoredToken], font: Font) -> list[list[tuple[float, float, str, float]]]:
    """Left edge, width, text and score of each token, by line. Only words wider than a line are broken."""
    words: list[list[ScoredToken]] = []
    for token in tokens:
        if token.starts_word or not words:
            words.append([])
        words[-1].append(token)
    space = font.getlength(" ")
    lines: list[list[tuple[float, float, str, float]]] = [[]]
    left = 0.0
    for word in words:
        pieces = [(printable(token.text, font), token.score) for token in word]
        if lines[-1] and left + sum(font.getlength(text) for text, _ in pieces) > _TEXT_WIDTH:
            lines.append([])
            left = 0.0
        for text, score in pieces:
            width = font.getlength(text)
            if lines[-1] and left + width > _TEXT_WIDTH:  # a word longer than a line
                lines.append([])
                left = 0.0
            lines[-1].append((left, width, text, score))
            left += width
        left += space
    return lines


def score_colour(score: float) -> tuple[int, ...]:
    """Background colour (RGB) of a token with this score, from 0 to 1."""
    return tuple(round(low + (high - low) * score) for low, high in zip(_LOW_COLOUR, _HIGH_COLOUR, strict=True))


def _draw_legend(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    small = font_for("", 14)
    for x in range(_BAR_WIDTH):
        draw.line((left + x, top, left + x, top + 14), fill=score_colour(x / (_BAR_WIDTH - 1)))
    draw.rectangle((left, top, left + _BAR_WIDTH, top + 14), outline=FAINT_INK)
    draw.text((left, top + 20), "0", font=small, fill=FAINT_INK)
    draw.text((left + _BAR_WIDTH, top + 20), "1", font=small, fill=FAINT_INK, anchor="ra")
    meaning = "relevance of the token to the image (GASS)"
    draw.text((left + _BAR_WIDTH + 14, top - 1), meaning, font=small, fill=FAINT_INK)
