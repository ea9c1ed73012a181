"""Measurements on a trained model: retrieval, and how well its scores detect planted noise."""

from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score

from benchmarks.robustness.data import Captions, Persons
from benchmarks.robustness.scores import (
    ScoreVariant,
    embedding_gradient_scores,
    gather_evidence,
    leave_one_out_scores,
    signed_scores,
)
from modeling_gadms import GADMSForPreTraining, GADMSModel
from modeling_gadms.metrics.person_retrieval.ranking import rank_metrics
from modeling_gadms.token_scoring_gadms import token_image_cosine_scores


CHUNK = 250
SCALES = ((1,), (2,), (1, 2), (1, 2, 4))
PAPER = ScoreVariant()
VARIANTS = {
    "GASS": PAPER,
    "no ReLU": ScoreVariant(rectified="none"),
    "ReLU in each layer": ScoreVariant(rectified="layer"),
    "no attention factor": ScoreVariant(rectified="none", attention="none"),
    "no importance factor": ScoreVariant(rectified="none", importance=False),
    "attention of each head": ScoreVariant(rectified="none", attention="heads"),
    "halfway": ScoreVariant(rectified="none", towards=0.5),
    "attention of each head, halfway": ScoreVariant(rectified="none", attention="heads", towards=0.5),
    "neither factor": ScoreVariant(rectified="none", attention="none", importance=False),
    **{f"scales {' '.join(map(str, scales))}": ScoreVariant(rectified="none", scales=scales) for scales in SCALES},
    **{
        f"last {count} layers": ScoreVariant(layers=tuple(range(4 - count, 4)), rectified="none")
        for count in (1, 2, 3)
    },
    **{f"layer {layer + 1} alone": ScoreVariant(layers=(layer,), rectified="none") for layer in range(4)},
}
"""Scores to compare. All but the first keep their sign, so that one thing changes at a time."""
SCORES = (
    *sorted(VARIANTS, key=lambda name: VARIANTS[name].towards),
    "embedding gradient",
    "embedding gradient, halfway",
    "cosine",
    "leave one out",
)
"""Names of all scores, in the order of the report."""


@dataclass(frozen=True)
class Sample:
    """Captions to score, one for each image.

    Attributes:
        pixels (`torch.FloatTensor` of shape `(N, 3, height, width)`): normalised.
        input_ids, attention_mask (`torch.LongTensor` of shape `(N, sequence_length)`)
        attribute, colour, noise (`torch.BoolTensor` of shape `(N, sequence_length)`): see [`Captions`].
    """

    pixels: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    attribute: torch.Tensor
    colour: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of(cls, captions: Captions, pixels: torch.Tensor, size: int) -> "Sample":
        """The first captions of the first images."""
        lengths = captions.lengths[:size, 0]
        longest = int(lengths.max())
        return cls(
            pixels[:size],
            captions.input_ids[:size, 0, :longest].long(),
            (torch.arange(longest) < lengths[:, None]).long(),
            captions.attribute[:size, 0, :longest],
            captions.colour[:size, 0, :longest],
            captions.noise[:size, 0, :longest],
        )

    def chunks(self) -> list["Sample"]:
        parts = zip(*(part.split(CHUNK) for part in vars(self).values()), strict=True)
        return [Sample(*part) for part in parts]


@torch.inference_mode()
def embed_images(model: GADMSModel, pixels: torch.Tensor) -> torch.Tensor:
    return torch.cat([model.get_image_features(part)["pooler_output"] for part in pixels.split(CHUNK)]).clone()


@torch.inference_mode()
def embed_captions(model: GADMSModel, captions: Captions) -> torch.Tensor:
    """Embeddings of both captions of each image, one after the other: (2 * N, projection_dim)."""
    ids, lengths = captions.input_ids.flatten(0, 1).long(), captions.lengths.flatten()
    embeds = []
    for part, of in zip(ids.split(CHUNK), lengths.split(CHUNK), strict=True):
        longest = int(of.max())
        mask = (torch.arange(longest) < of[:, None]).long()
        embeds.append(model.get_text_features(part[:, :longest], mask)["pooler_output"])
    return torch.cat(embeds)


def retrieval(model: GADMSForPreTraining, test: Persons, pixels: torch.Tensor) -> dict[str, float]:
    """Text-to-image metrics on clean captions of unseen persons, in percent."""
    was_training = model.training
    model.eval()
    images, captions = embed_images(model.gadms, pixels), embed_captions(model.gadms, test.captions[0.0])
    model.train(was_training)
    return rank_metrics(captions, images, test.person_ids.repeat_interleave(2), test.person_ids).to_dict()


def score_quality(model: GADMSForPreTraining, sample: Sample, *, oracle: bool) -> dict[str, dict[str, float]]:
    """AUROC of "this word is planted noise" for each score, where low scores mean noise.

    Args:
        model ([`GADMSForPreTraining`])
        sample ([`Sample`]): captions with planted noise.
        oracle (`bool`): whether to include leave-one-out scores, which take a pass a word.

    Returns:
        `dict`: by name of the score, among the tokens of `attribute` words and of `colour` words; `centred attribute`
        and `centred colour`, where the similarity is that to the image less the mean of all images.
    """
    was_training = model.training
    model.eval()
    results: dict[str, dict[str, float]] = {}
    for centred in (False, True):
        scores: dict[str, list[torch.Tensor]] = {}
        for part in sample.chunks():
            for name, values in _signed_scores(model.gadms, part, centred=centred, oracle=oracle).items():
                scores.setdefault(name, []).append(values)
        for name, parts in scores.items():
            values = torch.cat(parts)
            for kind, words in (("attribute", sample.attribute), ("colour", sample.colour)):
                value = roc_auc_score(sample.noise[words].numpy(), -values[words].numpy())
                results.setdefault(name, {})["centred " * centred + kind] = round(float(value), 4)
    model.train(was_training)
    return results


def _signed_scores(model: GADMSModel, part: Sample, *, centred: bool, oracle: bool) -> dict[str, torch.Tensor]:
    images = embed_images(model, part.pixels)
    arguments = (model, part.input_ids, part.attention_mask, images)
    scores = {}
    for towards in (0.0, 0.5):
        evidence = gather_evidence(*arguments, centred=centred, towards=towards, scales=SCALES)
        variants = {name: variant for name, variant in VARIANTS.items() if variant.towards == towards}
        scores |= {name: signed_scores(evidence, variant) for name, variant in variants.items()}
    scores["embedding gradient"] = embedding_gradient_scores(*arguments, centred=centred)
    scores["embedding gradient, halfway"] = embedding_gradient_scores(*arguments, centred=centred, towards=0.5)
    if not centred:
        scores["cosine"] = token_image_cosine_scores(model.text_model, model.text_projection, *arguments[1:])
    if oracle:
        scores["leave one out"] = leave_one_out_scores(*arguments, part.attribute, centred=centred)
    return scores
