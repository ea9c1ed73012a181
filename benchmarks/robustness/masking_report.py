"""Masking probabilities of planted noise and of true words."""

from typing import Any

import numpy as np
import torch
from transformers import CLIPTokenizer

from benchmarks.robustness.diagnostics import Sample, embed_images
from benchmarks.robustness.training import Scorer
from modeling_gadms import GADMSForPreTraining
from modeling_gadms.masking_gadms import caption_token_mask, informative_mask_probability, noise_mask_probability


BINS = 20


def masking_report(model: GADMSForPreTraining, sample: Sample, scorer: Scorer | None) -> dict[str, Any]:
    """Masking probabilities by kind of token, on training captions without augmentation.

    Args:
        model ([`GADMSForPreTraining`]): trained; its configuration is the objective.
        sample ([`Sample`]): captions of the training split.
        scorer (`Scorer`, *optional*): scores tokens instead of the model.

    Returns:
        `dict`: `noise_mask` and `informative_mask` with the mean probability of `planted` noise, of `true` attribute
        words and of `other` tokens; `scores`, histograms over [0, 1] of planted and of true attribute words; and
        `calibration`, by probability of the noise mask the tokens of attribute words, and those of planted noise.
    """
    scores, own = scores_of(model, sample, scorer)
    config = model.config
    noise_probability = noise_mask_probability(
        scores, rate=config.noise_mask_rate, sharpness=config.mask_sharpness, threshold=config.noise_mask_threshold
    )
    informative_probability = informative_mask_probability(
        scores,
        rate=config.informative_mask_rate,
        sharpness=config.mask_sharpness,
        threshold=config.informative_mask_threshold,
    )
    if config.token_score == "random":
        noise_probability = torch.full_like(scores, config.noise_mask_rate)
        informative_probability = torch.full_like(scores, config.informative_mask_rate)
    kinds = {"planted": sample.noise, "true": sample.attribute & ~sample.noise, "other": own & ~sample.attribute}
    report: dict[str, Any] = {}
    for name, probability, drawn in (
        ("noise_mask", noise_probability, config.noise_masking),
        ("informative_mask", informative_probability, config.masked_token_prediction),
    ):
        if drawn:
            report[name] = {
                kind: round(float(probability[mask].mean()), 4) for kind, mask in kinds.items() if mask.any()
            }
    report["scores"] = {
        kind: np.histogram(scores[kinds[kind]].numpy(), bins=BINS, range=(0, 1))[0].tolist()
        for kind in ("planted", "true")
    }
    if config.noise_masking:
        report["calibration"] = _calibration(noise_probability[sample.attribute], sample.noise[sample.attribute])
    return report


def scores_of(model: GADMSForPreTraining, sample: Sample, scorer: Scorer | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that determine the masks (zeros for random masks), and the mask of the captions' own tokens."""
    was_training = model.training
    model.eval()
    parts = []
    for part in sample.chunks():
        images = embed_images(model.gadms, part.pixels)
        batch = {"input_ids": part.input_ids, "attention_mask": part.attention_mask}
        if scorer is not None:
            parts.append(scorer(batch, part.noise, images))
        elif model.config.token_score in ("gass", "cosine"):
            parts.append(model.gadms.score_tokens(part.input_ids, part.attention_mask, images))
        else:
            parts.append(torch.zeros(part.input_ids.shape))
    model.train(was_training)
    own = caption_token_mask(sample.input_ids, model.config.text_config.eos_token_id, sample.attention_mask)
    return torch.cat(parts), own


def _calibration(probability: torch.Tensor, noise: torch.Tensor) -> list[dict[str, float]]:
    """Ten bins of equal width up to the largest probability: mean probability, tokens, planted tokens."""
    highest = float(probability.max())
    bin_of = (probability / max(highest, 1e-9) * 10).long().clamp(max=9)
    return [
        {
            "probability": round(float(probability[bin_of == number].mean()), 4),
            "tokens": int((bin_of == number).sum()),
            "planted": int(noise[bin_of == number].sum()),
        }
        for number in bin_of.unique().tolist()
    ]


def caption_examples(model: GADMSForPreTraining, sample: Sample, tokenizer: CLIPTokenizer) -> list[dict[str, Any]]:
    """Captions of unseen persons: by row the tokens with text, score, and whether they are planted noise."""
    scores, own = scores_of(model, sample, None)
    return [
        {
            "row": row,
            "tokens": [
                {
                    "text": tokenizer.decode([int(sample.input_ids[row, place])]),
                    "score": round(float(scores[row, place]), 3),
                    "planted": bool(sample.noise[row, place]),
                    "attribute": bool(sample.attribute[row, place]),
                }
                for place in own[row].nonzero().flatten().tolist()
            ],
        }
        for row in range(min(6, len(scores)))
    ]
