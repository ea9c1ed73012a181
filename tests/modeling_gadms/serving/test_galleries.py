"""A server whose gallery another model rebuilds, values that JSON lacks, and persons whom a filter passes over."""

import json
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from modeling_gadms import GADMSModel
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.serving.app import create_app


QUERY = {"text": "a man in a red coat"}


def record(number: int, **columns) -> PersonRecord:
    image = Image.new("RGB", (16, 32), (number, 90, 200))
    return PersonRecord(image, f"{number}.png", time_seconds=columns.get("price"), columns=columns)


@pytest.fixture
def gallery(tmp_path, model, processor, monkeypatch) -> PersonGallery:
    monkeypatch.setattr(storage, "_REFRESH_INTERVAL", timedelta(0))
    made = PersonGallery.create(tmp_path / "gallery", model, processor, columns={"price": "float"})
    made.add([record(1, price=2.5), record(2, price=float("nan")), record(3, price=float("-inf"))])
    return made


@pytest.fixture
def client(gallery, processor):
    # It answers server errors as a server does.
    with TestClient(create_app(gallery, processor), "http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def strictly(text: str):
    """JSON without Python's NaN and Infinity."""
    return json.loads(text, parse_constant=pytest.fail)


def test_a_gallery_rebuilt_by_another_model_is_503_until_the_right_one_is_back(
    client, tmp_path, model, processor, tiny_model
):
    assert client.post("/search", json=QUERY).status_code == 200
    tiny_model(seed=1).save_pretrained(tmp_path / "other")
    other = GADMSModel.from_pretrained(tmp_path / "other").eval()
    for builder, status in ((other, 503), (model, 200)):
        with PersonGallery.rebuild(tmp_path / "gallery", builder, processor) as rebuilt:
            rebuilt.add([record(7)])
        answers = [client.post("/search", json=QUERY), client.get("/healthz")]
        assert [answer.status_code for answer in answers] == [status] * 2
        if status == 503:
            answers.append(client.post("/index", params={"name": "a.png"}, content=b"x"))
            assert {answer.json()["detail"] for answer in answers} == {
                "The gallery has been rebuilt by another model: restart the server to load it"
            }
    assert len(answers[0].json()["results"]) == 1


def test_no_answer_has_values_that_json_lacks(client):
    answer = client.post("/search", json=QUERY)
    assert answer.status_code == 200
    rows = {row["source"]: row for row in strictly(answer.text)["results"]}
    assert [rows[f"{number}.png"]["columns"]["price"] for number in (1, 2, 3)] == [2.5, None, None]
    assert [rows[f"{number}.png"]["time_seconds"] for number in (1, 2, 3)] == [2.5, None, None]
    missing = client.post("/search", json={**QUERY, "where": "price IS NULL"}).json()["results"]
    assert [row["source"] for row in missing] == ["2.png"]  # the NaN, and not the infinity


def test_whom_a_filter_passes_over_is_remarked(client):
    answer = client.post("/search", json={**QUERY, "where": "camera <> 'b' OR price < 100"}).json()
    assert {row["source"] for row in answer["results"]} == {"1.png", "3.png"}
    (remark,) = answer["remarks"]
    assert "passes over 1 of 3 persons, who have no camera or no price" in remark
    assert client.post("/search", json={**QUERY, "where": "price = 2.5"}).json()["remarks"] == []
