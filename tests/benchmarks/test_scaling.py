"""The plan for COYO-700M: its tables are what the calculator prints, and its arithmetic holds."""

import re
import runpy
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks.scaling.plan import Inputs, Plan
from benchmarks.scaling.run import DOCUMENT, update
from dataset_scripts.construction.run.config import load_build_config
from dataset_scripts.construction.run.pipeline import build_webperson


ROOT = Path(__file__).parents[2]


def test_the_document_holds_what_the_script_prints():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert update(text, Inputs()) == text, "run: python -m benchmarks.scaling.run --update"


def test_a_document_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="no place for the table inputs"):
        update("nothing", Inputs())


def test_every_input_tells_its_source():
    for given in fields(Inputs):
        assert re.match(r"\[|measured|assumed|chosen|GA-DMS|Qwen2\.5-VL", given.metadata["source"]), given.name


def test_the_arithmetic_by_hand():
    inputs = replace(
        Inputs(), urls=7_200_000, table_files=4, persons=36_000, fetched_share=0.5, rows_per_fetcher=1_000,
        image_kb=100, image_megapixels=0.5, decode_ms=4, prepare_ms=6, detections=100, boxes_per_image=2,
        posed_per_kept=2, poses=10, captions_7b=4, captions_72b=1, parameters_7b=10, parameters_32b=20,
        parameters_72b=60, attempts=1, crop_kb=50, reject_bytes=100, thumbnail_kb=2, compare_us=100, compare_ns=1,
        gpu_dollars_per_hour=2, core_dollars_per_hour=0.1, fetcher_cores=10, gb_dollars_per_month=1,
        rows_per_tar=1_000,
    )  # fmt: skip
    plan = Plan(inputs)
    assert plan.images == 3_600_000
    assert plan.fetch_hours == 2
    assert plan.detect_hours == 10
    assert plan.pose_hours == 2
    assert plan.captions_32b == (2 + 3) / 2
    assert plan.caption_hours_7b == 2.5
    assert plan.caption_hours_32b == 4
    assert plan.gpu_hours == 18.5
    assert plan.feeding_ms == 8
    assert plan.core_hours == 10
    assert plan.tars == 7_200
    assert plan.part_gb == 90
    assert plan.crops_gb == pytest.approx(1.8)
    assert plan.rejects_gb == pytest.approx(1.08)  # 3.6 M without an image, and 7.2 M persons
    assert plan.thumbnails_gb == pytest.approx(2 * 7.164)
    assert plan.compare_hours == pytest.approx((36_000 * 100e-6 + 36_000**2 / 2 * 1e-9) / 3600)
    assert plan.dollars == pytest.approx(37 + 3 + 3.6 + 1.08 + 8 * 90)


def test_its_configuration_is_one(tmp_path):
    document = (ROOT / "docs/scaling-webperson.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
    path = tmp_path / "part-000.yaml"
    path.write_text(block, encoding="utf-8")
    config = load_build_config(path, ["run.opt_out=null", f"run.output={tmp_path}/run"])
    assert config.fetch.rows_per_tar == 10_000
    with pytest.raises(FileNotFoundError, match="part-00000.parquet"):  # which comes after all settings are checked
        build_webperson(config, progress=False)


def test_other_inputs_can_be_given(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "--set", "urls=1000", "fetched_share=0.5"])
    runpy.run_path(str(ROOT / "benchmarks/scaling/run.py"), run_name="__main__")
    assert "| images fetched | `urls x fetched_share` | 500 | 50.00 % |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["run.py", "--set", "urls_=1000"])
    with pytest.raises(SystemExit, match="'urls_' is no input"):
        runpy.run_path(str(ROOT / "benchmarks/scaling/run.py"), run_name="__main__")
