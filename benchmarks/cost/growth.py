r"""Growth of costs: training step by batch and caption length, evaluation by gallery, index by number of persons.

    python -m benchmarks.cost.growth            # 3 minutes on two cores
    python -m benchmarks.cost.growth --quick    # in small: 20 seconds

Steps are those of `model.py` at ViT-B/16 with random weights. An evaluation ranks a gallery for 1,000 captions, both
embedded before. An index run adds persons to an empty gallery and indexes it; embeddings are random, so the timed work
consists of small images, their thumbnails, rows and the index. Sizes run in turn within a repetition. Writes
results/cost_growth.json, a section of RESULTS.md, and docs/images/cost-growth.png.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.cost.model import SEED, THREADS, Calls, TrainingStep, make_batch, matrix_product, small, vit_b_16
from benchmarks.measuring import (
    command_of,
    figure_path,
    in_turn,
    machine,
    parser,
    provenance,
    save,
    spread,
    spread_text,
    table,
)
from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.metrics.person_retrieval.ranking import rank_metrics
from modeling_gadms.training.tokenizer import train_tokenizer


DIMENSION = 512
IMAGES_OF_PERSON = 10
PICTURE = (32, 16)
PRODUCT = 2048
"""Rows of the square matrices whose product, timed in the same turn, is the unit of the guarded ratios."""
FIGURE = "cost-growth.png"
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Sizes:
    """Sizes that are measured.

    Attributes:
        batches (`tuple[int, ...]`): pairs in a step, of captions of `caption_tokens`.
        captions (`tuple[int, ...]`): tokens of each caption of a step of `pairs`.
        galleries (`tuple[int, ...]`): images that are ranked for `queries` captions.
        persons (`tuple[int, ...]`): that are indexed.
        caption_tokens, pairs, queries (`int`)
    """

    batches: tuple[int, ...]
    captions: tuple[int, ...]
    galleries: tuple[int, ...]
    persons: tuple[int, ...]
    caption_tokens: int
    pairs: int
    queries: int


FULL = Sizes(
    batches=(1, 2, 4, 8),
    captions=(16, 32, 48, 64, 77),
    galleries=(1000, 2000, 4000, 8000, 16_000, 32_000),
    persons=(1000, 4000, 16_000, 64_000),
    caption_tokens=48,
    pairs=4,
    queries=1000,
)
QUICK = Sizes(
    batches=(2, 6, 18),
    captions=(16, 32, 64),
    galleries=(1000, 4000, 16_000),
    persons=(500, 1000, 2000),
    caption_tokens=32,
    pairs=4,
    queries=500,
)


# Title and axis label of each series.
SERIES = {
    "batch": ("Training step by batch", "pairs in the batch"),
    "captions": ("Training step by length of captions", "tokens of a caption"),
    "evaluation": ("Evaluation by gallery", "images in the gallery"),
    "index": ("Index by persons", "persons in the gallery"),
}


@dataclass(frozen=True)
class PowerLaw:
    """`seconds = factor * size ** exponent`; the standard error is that of the exponent."""

    exponent: float
    standard_error: float
    factor: float


def fit_power_law(sizes: Sequence[float], seconds: Sequence[float]) -> PowerLaw:
    """Least squares between the logarithms.

    >>> law = fit_power_law([1, 2, 4], [3, 12, 48])
    >>> round(law.exponent, 6), round(law.standard_error, 6), round(law.factor, 6)
    (2.0, 0.0, 3.0)

    Raises:
        ValueError: for fewer than three sizes, which have no residuals to estimate the error.
    """
    if len(sizes) < 3:
        raise ValueError(f"{len(sizes)} sizes give an exponent no standard error; measure three or more")
    x, y = np.log(sizes), np.log(seconds)
    centred = x - x.mean()
    exponent = centred @ y / (centred @ centred)
    intercept = y.mean() - exponent * x.mean()
    residuals = y - intercept - exponent * x
    variance = residuals @ residuals / (len(x) - 2)
    return PowerLaw(float(exponent), math.sqrt(variance / (centred @ centred)), float(np.exp(intercept)))


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fixed seconds and seconds for each unit of size, by least squares of relative errors."""
    slope, fixed = np.polyfit(sizes, seconds, 1, w=1 / np.asarray(seconds))
    return float(fixed), float(slope)


def beside_product(calls: Calls, repetitions: int, *, warm_ups: int = 1) -> tuple[Times, list[float]]:
    """Seconds of the calls by name, and of a matrix product in the same repetitions."""
    times = in_turn({**calls, "product": matrix_product(PRODUCT)}, repetitions, warm_ups=warm_ups)
    return times, times.pop("product")


def step_times(config: GADMSConfig, sizes: Sizes, repetitions: int) -> tuple[Times, Times, list[float]]:
    """Seconds of a step by number of pairs, and by length of the captions; and of the product."""
    shapes = {f"batch {pairs}": (pairs, sizes.caption_tokens) for pairs in sizes.batches}
    shapes |= {f"captions {tokens}": (sizes.pairs, tokens) for tokens in sizes.captions}
    batches = {name: make_batch(config, pairs, (tokens, tokens)) for name, (pairs, tokens) in shapes.items()}
    step = TrainingStep(config, next(iter(batches.values())))

    def run(batch: dict[str, torch.Tensor]) -> None:
        step.batch = batch
        step()

    times, product = beside_product({name: partial(run, batch) for name, batch in batches.items()}, repetitions)
    return _of_series(times, "batch"), _of_series(times, "captions"), product


def evaluation_times(sizes: Sizes, repetitions: int) -> tuple[Times, list[float]]:
    """Seconds of the ranking of galleries, by their size; and of the product."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(max(sizes.galleries), DIMENSION, generator=generator)
    captions = torch.randn(sizes.queries, DIMENSION, generator=generator)

    def rank(size: int) -> None:
        persons = size // IMAGES_OF_PERSON
        rank_metrics(captions, images[:size], np.arange(sizes.queries) % persons, np.arange(size) % persons)

    return beside_product({str(size): partial(rank, size) for size in sizes.galleries}, repetitions)


class DrawnEmbeddings(GADMSModel):
    """Returns random embeddings instead of encoding images.

    Uniform directions are harder to index than embeddings of persons.
    """

    def __init__(self, config: GADMSConfig):
        super().__init__(config)
        self.generator = torch.Generator().manual_seed(SEED)

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        vectors = torch.randn(len(pixel_values), DIMENSION, generator=self.generator)
        return BaseModelOutputWithPooling(pooler_output=vectors)


def index_times(sizes: Sizes, repetitions: int) -> tuple[Times, list[float]]:
    """Seconds of the indexing of persons, by their number; and of the product."""
    tokenizer = train_tokenizer(["A person in a red coat."], vocab_size=600, max_length=16)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=PICTURE)
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = DrawnEmbeddings(
        GADMSConfig(
            text_config={**layers, **tokens, "vocab_size": len(tokenizer)},
            vision_config={**layers, "image_size": PICTURE, "patch_size": 16},
            mask_token_id=tokenizer.mask_token_id,
            projection_dim=DIMENSION,
            score_layers=1,
        )
    )

    def records(number: int) -> Iterator[PersonRecord]:
        for row in range(number):
            colour = (row % 256, row // 256 % 256, 128)
            yield PersonRecord(Image.new("RGB", PICTURE[::-1], colour), source=f"{row}.jpg")

    def add(number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            PersonGallery.create(folder, model, processor).add(records(number))

    # Small galleries get an index as well, so that all sizes do the same work.
    with patch.object(storage, "INDEX_FROM_ROWS", 1):
        add(min(sizes.persons))
        return beside_product({str(number): partial(add, number) for number in sizes.persons}, repetitions, warm_ups=0)


def _of_series(times: Times, name: str) -> Times:
    return {key.split()[1]: values for key, values in times.items() if key.split()[0] == name}


def growth(times: Times, product: list[float]) -> dict[str, Any]:
    """Fits of a series.

    Returns:
        `dict`: the seconds of each size and of the product; both fits to the medians; and the ratio of the largest
        size to the product, of minimum seconds, which other programs disturb least.
    """
    sizes = [int(size) for size in times]
    medians = [median(values) for values in times.values()]
    fixed, each = fit_line(sizes, medians)
    fit = fit_power_law(sizes, medians)
    return {
        "seconds": times,
        "product_seconds": product,
        **asdict(fit),
        "fixed_seconds": fixed,
        "seconds_each": each,
        "least_over_product": min(times[str(max(sizes))]) / min(product),
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot the four series with their fits, double-logarithmically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(10, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, (title, size)) in zip(figure.subplots(2, 2).flat, SERIES.items(), strict=True):
        series = results["growth"][name]
        sizes = np.array([int(size) for size in series["seconds"]])
        times = [spread(values) for values in series["seconds"].values()]
        middle, least, most = (np.array([time[key] for time in times]) for key in ("median", "min", "max"))
        bars = np.stack([middle - least, most - middle])
        axes.errorbar(sizes, middle, bars, fmt="o", color="tab:blue", capsize=3, label="median, minimum to maximum")
        along = np.geomspace(sizes[0], sizes[-1], 100)
        law = f"power {series['exponent']:.2f} ± {series['standard_error']:.2f}"
        axes.plot(along, series["factor"] * along ** series["exponent"], color="tab:orange", label=law)
        line = f"{series['fixed_seconds']:.2g} s + {1000 * series['seconds_each']:.3g} ms each"
        axes.plot(along, series["fixed_seconds"] + series["seconds_each"] * along, "--", color="grey", label=line)
        axes.set(xscale="log", yscale="log", xlabel=size, ylabel="seconds", title=title)
        axes.xaxis.set(major_locator=FixedLocator(list(sizes)), minor_locator=NullLocator())
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 3, 5)), minor_locator=NullLocator())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.grid(alpha=0.25)
        axes.legend()
    figure.savefig(path, dpi=110)


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    sizes, series = results["sizes"], results["growth"]
    rows = []
    for name, (title, _) in SERIES.items():
        one = series[name]
        first, *_, last = one["seconds"]
        rows.append(
            [
                title,
                *(f"{int(end):,}: {spread_text(spread(one['seconds'][end]), 2)}" for end in (first, last)),
                f"{one['exponent']:.2f} ± {one['standard_error']:.2f}",
                f"{one['fixed_seconds']:.2f} + {1000 * one['seconds_each']:.3g} ms",
            ]
        )
    batch, captions = series["batch"], [median(values) for values in series["captions"]["seconds"].values()]
    share = batch["fixed_seconds"] / median(batch["seconds"][str(sizes["batches"][-1])])
    longer = captions[-1] / captions[0]
    return "\n\n".join(
        [
            "## Growth of costs",
            f"Claim: no cost grows faster than its size. Training steps of {results['model']} with random weights, "
            f"{THREADS} threads: by pairs with captions of {sizes['caption_tokens']} tokens, and by tokens of a "
            f"caption with {sizes['pairs']} pairs. Evaluation: {sizes['queries']:,} captions rank a gallery of "
            f"embedded images. Index: persons are added to an empty gallery, whose index is built; small images, "
            f"random embeddings of {DIMENSION} values, thumbnails and rows, no encoder. Medians (minimum to maximum) "
            f"of "
            + ", ".join(f"{len(next(iter(one['seconds'].values())))} ({name})" for name, one in series.items())
            + " repetitions, all sizes in turn in each. Exponents are fitted to the medians by least squares between "
            "logarithms, with the standard error of the fit; fixed seconds and milliseconds each by least squares of "
            "relative errors.",
            table(["cost", "seconds at the smallest size", "at the largest", "exponent", "fixed s + each"], rows),
            f"![Costs against sizes](../docs/images/{FIGURE})",
            f"A step has a fixed cost, mainly of the optimizer, which is {share:.0%} of a step of "
            f"{sizes['batches'][-1]} pairs: the exponent is below 1 and approaches 1 with larger batches. Captions "
            f"{sizes['captions'][-1] / sizes['captions'][0]:.1f} times as long cost {longer:.2f} times as much, "
            f"because the image encoder takes most of a step. An evaluation has a fixed cost for each caption, so "
            f"its exponent also approaches 1 from below; where captions grow with the gallery, as on the benchmarks, "
            f"the exponent is one more. The index grows with the number of persons. Embedding is excluded: it costs "
            f"the same for each person, and at the size of ViT-B/16 far more than the rest. What falls short: fixed "
            f"costs and exponents differ on other machines, and larger galleries are measured in the section on the "
            f"gallery.",
            provenance(results),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(THREADS)
    quick = arguments.quick
    sizes = QUICK if quick else FULL
    batch, captions, product = step_times(small() if quick else vit_b_16(), sizes, 5 if quick else 3)
    print("steps: measured", flush=True)
    evaluation = evaluation_times(sizes, 5)
    print("evaluation: measured", flush=True)
    series = {
        "batch": growth(batch, product),
        "captions": growth(captions, product),
        "evaluation": growth(*evaluation),
        "index": growth(*index_times(sizes, 3 if quick else 2)),
    }
    results = {
        "command": command_of("cost_growth", *["--quick"] * quick),
        "machine": machine("transformers", "lancedb"),
        "seed": SEED,
        "model": "a small model" if quick else "ViT-B/16",
        "exponents": {name: one["exponent"] for name, one in series.items()},
        # Not the exponents: they rise when only the fixed cost falls, which is no regression.
        "guarded": {
            f"{name}_over_product": {"value": one["least_over_product"], "better": "lower"}
            for name, one in series.items()
        },
        "sizes": asdict(sizes),
        "growth": series,
    }
    save("cost_growth", results, report, arguments.output)
    draw(results, figure_path(FIGURE, arguments.output))


if __name__ == "__main__":
    main(parser(__doc__, quick="a small model and small galleries").parse_args())
