"""Measurements of several seeds together: the mean and deviation of a textbook, and only of what compares."""

import copy
import json
import statistics

import pytest
from typer.testing import CliRunner

from gadms_cli.app import app
from modeling_gadms.encoders.atomic_files import write_json
from modeling_gadms.evaluation.reports import MeanAndDeviation, aggregate_records, read_records


def record(seed: int | None = 0, r1: float = 50.0, **changes) -> dict:
    metrics = {"r1": r1, "r5": 80.0, "r10": 90.0, "map": 60.0, "minp": 40.0}
    made = {
        "text_to_image": metrics,
        "image_to_text": {name: value / 2 for name, value in metrics.items()},
        "counts": {"images": 10, "captions": 20, "identities": 5, "truncated_captions": 1},
        "dataset": {"name": "cuhk_pedes", "split": "test", "rows": 10, "columns": {"image": "image"}},
        "model": {"weights_sha256": {"model.safetensors": f"digest {seed} {r1}"}},
        "training": None
        if seed is None
        else {"seed": seed, "config": {"training": {"seed": seed, "learning_rate": 1e-4, "output_dir": f"run{seed}"}}},
    }
    for path, value in changes.items():
        place = made
        *keys, last = path.split("__")
        for key in keys:
            place = place[key]
        place[last] = value
    return made


def test_mean_and_sample_deviation_are_those_of_the_values():
    report = aggregate_records([record(seed, r1) for seed, r1 in ((0, 50.0), (1, 53.0), (2, 59.0))])
    # by hand: mean 54, squares 16 + 1 + 25 = 42 over n - 1 = 2
    assert report.text_to_image["r1"] == MeanAndDeviation(54.0, pytest.approx(21**0.5), 3)
    assert report.image_to_text["r1"].deviation == pytest.approx(statistics.stdev([25.0, 26.5, 29.5]))
    assert report.seeds == (0, 1, 2)
    assert str(report.text_to_image["r1"]) == "54.00 ± 4.58"
    assert str(report.text_to_image["map"]) == "60.00 ± 0.00"


def test_one_run_has_no_deviation():
    report = aggregate_records([record(7)])
    assert report.text_to_image["r1"] == MeanAndDeviation(50.0, None, 1)
    assert str(report.text_to_image["r1"]) == "50.00"
    assert "1 runs, seeds 7" in report.to_table()


def test_a_model_that_does_not_tell_its_seed_is_of_an_unknown_one():
    assert "seeds unknown, unknown" in aggregate_records([record(None, 50.0), record(None, 51.0)]).to_table()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset__name": "rstpreid"}, "dataset.name is rstpreid, and cuhk_pedes in the first"),
        ({"dataset__split": "validation"}, "dataset.split is validation, and test"),
        ({"dataset__config": "holdout"}, "dataset.config is holdout, and None"),
        ({"dataset__arguments": {"seed": 1}}, "dataset.arguments.seed is 1, and None"),
        ({"token_limit": 24}, "token_limit is 24, and None"),
        ({"model__dtype": "bfloat16"}, "model.dtype is bfloat16, and None"),
        ({"counts__images": 11}, "counts.images is 11, and 10"),
        ({"training__config__training__learning_rate": 1e-3}, "training.learning_rate is 0.001, and 0.0001"),
        ({"training__config__training__adam_epsilon": 1e-3}, "training.adam_epsilon is 0.001, and None"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"measurement 3 does not compare with the first: {message}"):
        aggregate_records([record(0), record(1), record(2, **changes)])


def fine_tuned(seed: int, rows: int, *, known: bool = True) -> dict:
    made = record(seed)
    made["training"]["config"]["model"] = {"from_pretrained": f"pretrain-seed{seed}/model"}
    before = {"seed": seed, "config": {"data": {"rows": rows}, "training": {"seed": seed}}, "started_from": None}
    made["training"]["started_from"] = before if known else None
    return made


def test_each_seed_may_go_on_from_its_own_pre_training():
    assert aggregate_records([fine_tuned(0, rows=5), fine_tuned(1, rows=5)]).seeds == (0, 1)


def test_runs_that_go_on_from_other_pre_trainings_are_refused():
    with pytest.raises(ValueError, match="started_from.data.rows is 1, and 5 in the first"):
        aggregate_records([fine_tuned(0, rows=5), fine_tuned(1, rows=1)])
    with pytest.raises(ValueError, match="model.from_pretrained is pretrain-seed1/model, and pretrain-seed0/model"):
        aggregate_records([fine_tuned(0, rows=5, known=False), fine_tuned(1, rows=5, known=False)])


def test_where_a_data_set_was_made_ready_makes_no_difference():
    places = [record(seed, dataset__arguments={"cache_dir": f"/{seed}", "num_proc": seed}) for seed in (0, 1)]
    assert aggregate_records(places).seeds == (0, 1)


def test_a_run_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match="measurement 3 is of the same weights as measurement 1"):
        aggregate_records([record(0), record(1), copy.deepcopy(record(0))])
    with pytest.raises(ValueError, match="no measurements"):
        aggregate_records([])


def test_files_are_written_whole_and_read_back(tmp_path):
    write_json(tmp_path / "deep" / "one.json", record(0))
    write_json(tmp_path / "many.json", {"cells": [record(0), record(1)]})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one.json"]
    assert read_records(tmp_path / "deep" / "one.json") == [record(0)]
    assert len(read_records(tmp_path / "many.json")) == 2
    for text, message in (
        ("{", "is no JSON"),
        ("[]", "holds no measurement"),
        ('{"loss": 1}', "holds no measurement"),
        ('{"cells": 3}', "holds no measurement"),
        (json.dumps(record(0) | {"dataset": {"name": "rstpreid"}}), "holds no measurement"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=f"bad.json {message}"):
            read_records(tmp_path / "bad.json")


def test_the_command_prints_a_table_for_each_data_set(tmp_path):
    for seed in range(2):
        cells = [record(seed, 50.0 + seed), record(seed, 30.0 + seed, dataset__name="rstpreid")]
        (tmp_path / f"{seed}.json").write_text(json.dumps({"cells": cells}))
    result = CliRunner().invoke(app, ["aggregate", *(str(tmp_path / f"{seed}.json") for seed in range(2))])
    assert result.exit_code == 0, result.output
    assert "cuhk_pedes, split test: 2 runs, seeds 0, 1" in result.output
    assert "50.50 ± 0.71" in result.output and "30.50 ± 0.71" in result.output
    wrong = CliRunner().invoke(app, ["aggregate", str(tmp_path / "nowhere.json")])
    assert wrong.exit_code == 2 and "nowhere.json" in wrong.output
