"""`examples/catalogue.py`: its gallery, its figures, and the whole program."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts.synthetic_garments import SyntheticGarments
from modeling_gadms.gallery.person_gallery import PersonGallery, Query, SearchResult
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "catalogue.py"


@pytest.fixture(scope="module")
def program() -> dict:
    return runpy.run_path(str(PROGRAM))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> datasets.Dataset:
    sizes = {"num_train_products": 1, "num_validation_products": 1, "num_test_products": 12, "images_per_product": 2}
    builder = SyntheticGarments(cache_dir=str(tmp_path_factory.mktemp("cache")), image_size=(48, 36), **sizes)
    builder.download_and_prepare()
    return builder.as_dataset()["test"]


@pytest.fixture
def gallery(program, rows, tmp_path, tiny_model, processor) -> PersonGallery:
    gallery = PersonGallery.create(
        tmp_path / "gallery", tiny_model().gadms.eval(), processor, columns=program["COLUMNS"]
    )
    assert gallery.add(program["products"](rows)).added == len(rows)
    return gallery


def test_a_product_is_found_once_with_its_fields_however_many_pictures_it_has(gallery, rows):
    results = gallery.search("a red jacket", top_k=24)
    found = {result.source: result for result in results}
    assert len(results) == len(found) == 12
    for row in rows:
        result = found[f"product {row['product_id']}"]
        assert result.columns["title"] == row["title"] and result.columns["price"] == row["price"]
        assert result.columns["sizes"] == ", ".join(row["sizes"])
        assert result.columns["in_stock"] == bool(row["sizes"])


def test_every_query_of_the_program_meets_its_filter(program, gallery):
    for query, where in program["QUERIES"]:
        for result in gallery.search(query, where=where):
            columns = result.columns
            assert columns["in_stock"] or "in_stock" not in (where or "")
            assert columns["price"] < 80 or "price < 80" not in (where or "")
            assert "42" in columns["sizes"] or "42" not in (where or "")


def test_more_like_a_product_leaves_all_its_pictures_out(gallery):
    chosen = gallery.search("a red jacket", top_k=1)[0]
    similar = gallery.search(Query(like=chosen.id), top_k=24)
    assert len(similar) == 11 and chosen.source not in {result.source for result in similar}


def shown(rank: int, **columns) -> SearchResult:
    columns = {"title": "Alderby Ash coat", "price": 19.95, "sizes": "S, M"} | columns
    thumbnail = io.BytesIO()
    Image.new("RGB", (36, 48), "red").save(thumbnail, "JPEG")
    empty = dict.fromkeys(("frame", "time_seconds", "box", "camera", "time", "track"))
    return SearchResult(rank, 0.5, f"{rank}", "product 1", columns=columns, thumbnail=thumbnail.getvalue(), **empty)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_a_sheet_shows_each_product_with_a_card_of_its_own(program, count):
    sheet = np.asarray(program["draw_sheet"]("a red coat", [shown(rank) for rank in range(1, count + 1)])).astype(int)
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 60)
    edges = np.diff(red.any(axis=0).astype(int), prepend=0, append=0)
    assert (edges == 1).sum() == count


@pytest.mark.parametrize("columns", [{"title": "Corvane Fjord cap"}, {"price": 5.95}, {"sizes": ""}])
def test_a_sheet_tells_title_price_and_sizes(program, columns):
    draw = program["draw_sheet"]
    assert draw("q", [shown(1)]).tobytes() != draw("q", [shown(1, **columns)]).tobytes()


@pytest.mark.slow
def test_the_program_trains_measures_and_answers(tmp_path):
    result = subprocess.run(
        [sys.executable, "examples/catalogue.py", "--size", "ci", "--output", str(tmp_path / "run")],
        cwd=ROOT,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["dataset"]["name"] == "synthetic_garments" and 0 <= metrics["text_to_image"]["r1"] <= 100
    assert "24 images in" in result.stdout
    assert "a red jacket with a hood   [price < 80 AND category = 'jacket']" in result.stdout
    assert "a yellow tote bag, without a dotted tote bag, without a striped tote bag" in result.stdout
    for number in range(1, 8):
        with Image.open(tmp_path / f"run/search-{number}.png") as sheet:
            assert sheet.height > 250
