"""A gallery that another model rebuilds under an open handle."""

from datetime import timedelta

import pytest
from PIL import Image

from modeling_gadms import GADMSModel
from modeling_gadms.gallery import person_gallery as gallery
from modeling_gadms.gallery import storage
from modeling_gadms.gallery.person_gallery import GalleryModelError, PersonGallery, PersonRecord, Query


def records(numbers) -> list[PersonRecord]:
    return [PersonRecord(Image.new("RGB", (16, 32), (number, 90, 200)), f"{number}.png") for number in numbers]


@pytest.fixture
def place(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(storage, "_REFRESH_INTERVAL", timedelta(0))
    PersonGallery.create(tmp_path / "gallery", model, processor).add(records(range(5)))
    return tmp_path / "gallery"


@pytest.fixture
def other(tmp_path, tiny_model) -> GADMSModel:
    """Another model of the same width."""
    tiny_model(seed=1).save_pretrained(tmp_path / "other")
    return GADMSModel.from_pretrained(tmp_path / "other").eval()


def rebuild(place, model, processor, **options) -> PersonGallery:
    with PersonGallery.rebuild(place, model, processor, **options) as made:
        made.add(records([1, 2]))
    return made


def test_what_is_open_refuses_a_gallery_rebuilt_by_another_model_until_the_right_one_is_back(
    place, model, processor, other
):
    opened, reader = PersonGallery.open(place, model, processor), PersonGallery.open(place)
    encoded = opened.encode(["a coat"])[0]
    rebuild(place, other, processor)
    uses = [
        lambda: opened.search("a coat"),
        lambda: opened.nearest(encoded),
        lambda: opened.add(records([7])),
        lambda: reader.search(Query(like=records([1])[0].id)),
        opened.check_model,
    ]
    for use in uses:
        with pytest.raises(GalleryModelError, match="rebuilt by the model .*other.* since it was opened with .*model"):
            use()
    assert len(opened) == 2 and opened.verify().sound and opened.model.name.endswith("other")
    rebuild(place, model, processor, columns={"floor": "integer"})
    assert len(opened.search("a coat")) == 2 and opened.columns == {"floor": "integer"}
    assert opened.add([PersonRecord(Image.new("RGB", (16, 32)), "9.png", columns={"floor": 3})]).added == 1
    assert len(opened.search("a coat", where="floor = 3")) == 1


def test_a_rebuild_during_a_search_or_an_addition_is_noticed(place, model, processor, other, monkeypatch):
    opened = PersonGallery.open(place, model, processor)
    found = gallery.nearest_persons

    def rebuilt_before(*arguments, **options):
        rebuild(place, other, processor)
        return found(*arguments, **options)

    monkeypatch.setattr(gallery, "nearest_persons", rebuilt_before)
    with pytest.raises(GalleryModelError):
        opened.search("a coat")
    monkeypatch.undo()

    rebuild(place, model, processor)
    merge = opened._table.merge_insert

    def rebuilt_before_merge(on):
        monkeypatch.undo()
        rebuild(place, other, processor)
        return merge(on)

    monkeypatch.setattr(opened._table, "merge_insert", rebuilt_before_merge)
    with pytest.raises(GalleryModelError):
        opened.add(records([1, 7]))
    # What was already committed to the new gallery is taken back, and the new gallery's own persons are not.
    left = PersonGallery.open(place, other, processor).search("a coat")
    assert {result.source for result in left} == {"1.png", "2.png"}


def test_a_rebuild_without_a_column_is_noticed_before_its_values_are_lost(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr(storage, "_REFRESH_INTERVAL", timedelta(0))
    opened = PersonGallery.create(tmp_path / "gallery", model, processor, columns={"floor": "integer"})

    def while_rebuilt():
        yield PersonRecord(Image.new("RGB", (16, 32)), "a.png", columns={"floor": 1})
        rebuild(tmp_path / "gallery", model, processor)

    with pytest.raises(ValueError, match="rebuilt without floor"):
        opened.add(while_rebuilt())
