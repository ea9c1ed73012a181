"""`evaluate_retrieval`: the benchmarks' protocol on a data set, and a report that says what it measured."""

import io
import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_gadms.encoders.encoding import PREFETCHED_BATCHES
from modeling_gadms.evaluation.retrieval import evaluate_retrieval
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.tokenizer import train_tokenizer


NUM_PERSONS = 6


class FakeProcessor:
    """A caption tells its person by its last word, an image by its grey level."""

    tokenizer = SimpleNamespace(model_max_length=8)

    def tokenize(self, captions, **kwargs):
        return {"length": [len(caption.split()) + 2 for caption in captions]}  # BOS and EOS

    def __call__(self, text=None, images=None, **kwargs):
        if text is not None:
            ids = torch.tensor([[int(caption.split()[-1])] for caption in text])
            return BatchFeature({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        levels = [float(np.asarray(image).mean()) / 20 for image in images]
        return BatchFeature({"pixel_values": torch.tensor(levels)})


class FakeModel(torch.nn.Module):
    """Embeds persons as rows of two matrices."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, image_embeds, text_embeds):
        super().__init__()
        self.image_embeds, self.text_embeds = image_embeds, text_embeds
        self.config = SimpleNamespace(projection_dim=image_embeds.shape[1])

    def get_image_features(self, pixel_values):
        return BaseModelOutputWithPooling(pooler_output=self.image_embeds[pixel_values.round().long()])

    def get_text_features(self, input_ids, attention_mask):
        return BaseModelOutputWithPooling(pooler_output=self.text_embeds[input_ids[:, 0]])


def perfect_model() -> FakeModel:
    return FakeModel(torch.eye(NUM_PERSONS), torch.eye(NUM_PERSONS))


def grey_image(person: int) -> Image.Image:
    return Image.new("RGB", (8, 16), (person * 20,) * 3)


def persons_dataset(persons: list[int]) -> datasets.Dataset:
    """Two captions an image, in two columns."""
    return datasets.Dataset.from_dict(
        {
            "image": [grey_image(person) for person in persons],
            "caption1": [f"somebody called {person}" for person in persons],
            "caption2": [f"a person in a street who is called {person}" for person in persons],
            "person_id": persons,
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "caption1": datasets.Value("string"),
                "caption2": datasets.Value("string"),
                "person_id": datasets.Value("int64"),
            }
        ),
    )


COLUMNS = DatasetColumns(person_id="person_id")


def evaluate(model, dataset, columns=COLUMNS, **options):
    return evaluate_retrieval(model, FakeProcessor(), dataset, columns, progress=False, **options)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_perfect_model_is_perfect_in_both_directions(batch_size):
    report = evaluate(perfect_model(), persons_dataset([3, 0, 5, 3, 1, 0, 3, 2]), batch_size=batch_size)
    assert set(report.text_to_image.to_dict().values()) == {100.0}
    assert set(report.image_to_text.to_dict().values()) == {100.0}


def test_a_model_with_one_mistake_scores_what_paper_and_pencil_give():
    # Person 2's images look like person 0's. Rows:     0  1  2  3
    dataset = persons_dataset([0, 2, 1, 0])
    image_embeds = torch.eye(NUM_PERSONS)
    image_embeds[2] = image_embeds[0]
    report = evaluate(FakeModel(image_embeds, torch.eye(NUM_PERSONS)), dataset)

    # Captions of 0 (4 of 8) tie rows 0, 1, 3: hits at ranks 1 and 3. Captions of 1 (2 of 8): hit at rank 1.
    # Captions of 2 (2 of 8) tie all rows at 0: row order, hit at rank 2.
    text_to_image = report.text_to_image.to_dict()
    assert text_to_image["r1"] == 75.0 and text_to_image["r5"] == 100.0
    assert text_to_image["map"] == pytest.approx(100 * (4 * (1 + 2 / 3) / 2 + 2 * 1 + 2 * 1 / 2) / 8)
    assert text_to_image["minp"] == pytest.approx(100 * (4 * 2 / 3 + 2 * 1 + 2 * 1 / 2) / 8)

    # Caption order is row by row: 0 0 2 2 1 1 0 0. Images of 0 find captions 1, 2, 7, 8 first; the image of 1 its two;
    # the image of 2 finds the four captions of 0 first, then ties in order: its own captions at ranks 5 and 6.
    image_to_text = report.image_to_text.to_dict()
    assert image_to_text["r1"] == 75.0 and image_to_text["r5"] == 100.0
    assert image_to_text["map"] == pytest.approx(100 * (1 + 1 + 1 + (1 / 5 + 2 / 6) / 2) / 4)
    assert image_to_text["minp"] == pytest.approx(100 * (1 + 1 + 1 + 2 / 6) / 4)


def test_a_random_model_is_at_chance():
    generator = torch.Generator().manual_seed(0)
    persons = [row % NUM_PERSONS for row in range(60)]
    recalls = []
    for _ in range(40):
        image_embeds, text_embeds = (torch.randn(NUM_PERSONS, 32, generator=generator) for _ in range(2))
        recalls.append(
            evaluate(FakeModel(image_embeds, text_embeds), persons_dataset(persons)).text_to_image.recall[1]
        )
    assert np.mean(recalls) == pytest.approx(100 / NUM_PERSONS, abs=6)  # 40 x 6 draws: standard error 2.4


def test_without_person_ids_every_row_is_its_own_person():
    report = evaluate(perfect_model(), persons_dataset([4, 4]), DatasetColumns())
    assert report.num_identities == 2
    assert report.text_to_image.recall[1] == 50.0  # both rows look alike, the first wins the tie


def test_a_caption_column_may_hold_lists():
    dataset = datasets.Dataset.from_dict(
        {"photo": [grey_image(1), grey_image(2)], "texts": [["he is 1", "him 1", "1"], ["she is 2"]], "who": [10, 20]}
    ).cast_column("photo", datasets.Image())
    report = evaluate(perfect_model(), dataset, DatasetColumns("photo", ("texts",), "who"))
    assert report.num_captions == 4 and report.text_to_image.recall[1] == 100.0


def test_the_report_counts_what_was_measured():
    report = evaluate(perfect_model(), persons_dataset([0, 1, 1]))
    # "a person in a street who is called 1" has 9 words, 11 tokens of which 8 are read.
    assert (report.num_images, report.num_captions, report.num_identities, report.num_truncated) == (3, 6, 2, 3)
    assert report.token_limit == 8
    assert report.seconds > 0


def test_truncated_captions_are_counted_as_the_real_tokenizer_cuts_them():
    captions = ["a person called 0", "a tall person in a long coat and a wide hat, called 1", "somebody called 2"]
    processor = FakeProcessor()
    processor.tokenizer = train_tokenizer(captions, vocab_size=600, max_length=12)
    lengths = [len(processor.tokenizer(caption)["input_ids"]) for caption in captions]
    assert min(lengths) < 12 < max(lengths)
    processor.tokenizer.model_max_length = lengths[0]  # the first fits exactly
    dataset = persons_dataset([0, 1, 2]).remove_columns("caption1").add_column("caption1", captions)
    report = evaluate_retrieval(
        perfect_model(), processor, dataset, DatasetColumns(captions=("caption1",)), progress=False
    )
    assert report.num_truncated == sum(length > lengths[0] for length in lengths) == 1


def test_the_report_goes_to_json_in_percent():
    report = evaluate(perfect_model(), persons_dataset([0, 1, 1]))
    content = json.loads(json.dumps(report.to_dict()))
    perfect = {"r1": 100.0, "r5": 100.0, "r10": 100.0, "map": 100.0, "minp": 100.0}
    assert content["text_to_image"] == content["image_to_text"] == perfect
    assert content["counts"] == {"images": 3, "captions": 6, "identities": 2, "truncated_captions": 3}


def test_the_table_is_aligned_and_says_what_was_measured():
    header, text_to_image, image_to_text, note = (
        evaluate(perfect_model(), persons_dataset([0, 1, 1])).to_table().split("\n")
    )
    assert header.split() == ["R@1", "R@5", "R@10", "mAP", "mINP"]
    assert text_to_image.split() == ["text-to-image"] + ["100.00"] * 5
    assert image_to_text.split() == ["image-to-text"] + ["100.00"] * 5
    assert len(header) == len(text_to_image) == len(image_to_text)
    assert "6 captions and 3 images of 2 persons" in note and "3 captions cut at 8 tokens" in note


def test_images_are_decoded_batch_by_batch(monkeypatch):
    decoded, seen = [], []
    original = datasets.Image.decode_example
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **k: decoded.append(1) or original(*a, **k))
    model = perfect_model()
    features = model.get_image_features
    model.get_image_features = lambda **inputs: seen.append(len(decoded)) or features(**inputs)
    evaluate(model, persons_dataset([0, 1, 2, 3, 4] * 4), batch_size=2)
    # A thread decodes beside the model: no more than the batches it may be ahead.
    assert all(2 * batch <= count <= 2 * (batch + PREFETCHED_BATCHES) for batch, count in enumerate(seen, start=1))
    assert len(seen) == 10 and len(decoded) == 20


def test_a_formatted_data_set_is_read_as_it_is_stored():
    report = evaluate(perfect_model(), persons_dataset([0, 1, 2]).with_format("torch"))
    assert report.text_to_image.recall[1] == 100.0


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_an_unreadable_image_is_an_error_that_names_the_row(content):
    if content == "cut":
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(file, "PNG")
        content = file.getvalue()[:2000]
    encoded = [{"bytes": content, "path": None} if row == 2 else grey_image(row) for row in range(4)]
    good = persons_dataset([0, 1, 2, 3])
    dataset = datasets.Dataset.from_dict(
        {**good.remove_columns("image").to_dict(), "image": encoded}, features=good.features
    )
    with pytest.raises(ValueError, match="row 2: the image in `image` cannot be read"):
        evaluate(perfect_model(), dataset)


def test_an_empty_caption_is_an_error_that_names_the_row():
    dataset = persons_dataset([0, 1, 2]).map(
        lambda row: {"caption2": "" if row["person_id"] == 1 else row["caption2"]}
    )
    with pytest.raises(ValueError, match="row 1: `caption2` is an empty caption"):
        evaluate(perfect_model(), dataset)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column `legend`"):
        evaluate(perfect_model(), persons_dataset([0]), DatasetColumns(captions=("legend",)))


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (datasets.DatasetDict(test=persons_dataset([0])), TypeError, "dictionary of splits; pass one of test"),
        (persons_dataset([0]).to_iterable_dataset(), TypeError, "IterableDataset; ranks need all rows"),
        (persons_dataset([0]).select([]), ValueError, "no rows"),
    ],
)
def test_what_is_no_split_with_rows_is_refused(dataset, error, message):
    with pytest.raises(error, match=message):
        evaluate(perfect_model(), dataset)
