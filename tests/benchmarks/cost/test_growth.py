"""Exponents are those of the data, and a series times what it says."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks.cost import growth as cost_growth
from benchmarks.cost.growth import Sizes, evaluation_times, fit_line, fit_power_law, growth, index_times, step_times


def test_an_exponent_and_its_error_are_those_of_a_regression_between_logarithms():
    sizes = np.array([1, 2, 4, 8, 16])
    seconds = 3 * sizes**0.7 * np.array([1.1, 0.9, 1.05, 0.97, 1.02])
    law = fit_power_law(sizes, seconds)
    expected = stats.linregress(np.log(sizes), np.log(seconds))
    assert (law.exponent, law.standard_error) == pytest.approx((expected.slope, expected.stderr))
    assert law.factor == pytest.approx(np.exp(expected.intercept))


def test_two_sizes_tell_no_error():
    with pytest.raises(ValueError, match="2 sizes give an exponent no standard error"):
        fit_power_law([1, 2], [1, 2])


def test_a_fixed_cost_is_told_from_that_of_each():
    assert fit_line([1, 2, 4, 8], [2.5, 3.0, 4.0, 6.0]) == pytest.approx((2.0, 0.5))
    series = growth({"10": [9.0, 7.0, 100.0], "20": [16.0, 17.0, 18.0], "40": [37.0, 38.0, 36.0]}, [5.0, 4.0, 9.0])
    # Of the medians 9, 17 and 37; relative errors weigh a small size as much as a large one.
    fixed, each = series["fixed_seconds"], series["seconds_each"]
    weights = 1 / np.array([9.0, 17.0, 37.0])
    matrix = np.stack([np.ones(3), [10, 20, 40]], axis=1) * weights[:, None]
    assert (fixed, each) == pytest.approx(np.linalg.lstsq(matrix, np.ones(3), rcond=None)[0])
    assert series["seconds"]["10"] == [9.0, 7.0, 100.0]
    assert series["least_over_product"] == 36 / 4


@pytest.fixture
def sizes():
    return Sizes((1, 2), (8, 12, 16), (40, 80), (20, 40), caption_tokens=10, pairs=3, queries=7)


def test_steps_are_of_the_batches_and_captions_that_they_are_named_for(sizes, tiny_config, monkeypatch):
    seen = []

    class Step:
        def __init__(self, config, batch):
            pass

        def __call__(self):
            seen.append(tuple(self.batch["input_ids"].shape))

    monkeypatch.setattr(cost_growth, "TrainingStep", Step)
    batches, captions, product = step_times(tiny_config(), sizes, 2)
    assert len(product) == 2
    assert list(batches) == ["1", "2"] and list(captions) == ["8", "12", "16"]
    assert all(len(values) == 2 for values in [*batches.values(), *captions.values()])
    turn = [(1, 10), (2, 10), (3, 8), (3, 12), (3, 16)]
    assert seen == turn * 3  # a warm-up, and sizes in turn


def test_every_gallery_is_indexed_whole_and_a_query_finds_its_person(sizes, monkeypatch):
    indexed = []
    original = cost_growth.PersonGallery.add

    def add(self, records):
        report = original(self, records)
        added = report.added
        (index,) = [index for index in self._table.list_indices() if index.columns == ["vector"]]
        indexed.append((added, len(self), self._table.index_stats(index.name).num_indexed_rows))
        return report

    monkeypatch.setattr(cost_growth.PersonGallery, "add", add)
    times, product = index_times(sizes, 2)
    assert len(product) == 2
    assert list(times) == ["20", "40"] and all(len(values) == 2 for values in times.values())
    assert indexed == [(count, count, count) for count in (20, 20, 40, 20, 40)]


def test_evaluations_rank_the_whole_gallery_for_every_query(sizes, monkeypatch):
    shapes = []
    original = cost_growth.rank_metrics

    def ranked(captions, images, caption_ids, image_ids):
        shapes.append((len(captions), len(images)))
        return original(captions, images, caption_ids, image_ids)

    monkeypatch.setattr(cost_growth, "rank_metrics", ranked)
    times, product = evaluation_times(sizes, 1)
    assert list(times) == ["40", "80"] and len(product) == 1
    assert shapes == [(7, 40), (7, 80)] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("threads_restored")
def test_the_small_version_runs_and_draws_its_picture(tmp_path, monkeypatch, tiny_config):
    """Smaller still: the sizes of `--quick` take a minute."""
    output = tmp_path / "benchmarks"
    smaller = replace(cost_growth.QUICK, captions=(8, 16, 20), galleries=(200, 400, 800), persons=(300, 600, 900),
                      caption_tokens=16, queries=50)  # fmt: skip
    monkeypatch.setattr(cost_growth, "QUICK", smaller)
    monkeypatch.setattr(cost_growth, "PRODUCT", 256)
    monkeypatch.setattr(cost_growth, "small", tiny_config)
    cost_growth.main(argparse.Namespace(quick=True, output=output))
    results = json.loads((output / "results" / "cost_growth.json").read_text())
    assert set(results["exponents"]) == set(results["growth"]) == {"batch", "captions", "evaluation", "index"}
    for name, series in results["growth"].items():
        largest = min(list(series["seconds"].values())[-1])
        guarded = results["guarded"][f"{name}_over_product"]
        assert guarded == {"value": pytest.approx(largest / min(series["product_seconds"])), "better": "lower"}
    text = (output / "RESULTS.md").read_text()
    (link,) = [line for line in text.splitlines() if line.startswith("![")]
    with Image.open(output / link.partition("(")[2].rstrip(")")) as picture:
        assert picture.width > 900
    index = results["growth"]["index"]
    assert f"{index['exponent']:.2f} ± {index['standard_error']:.2f}" in text
