"""From a table of persons to batches: columns, draws of captions, pixels, augmentation, and bad rows."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from modeling_gadms import GADMSProcessor
from modeling_gadms.training.data import (
    DatasetColumns,
    ImageCaptionPairs,
    PairCollator,
    PersonAugmentation,
    cache_pixels,
)


@pytest.fixture
def processor(tokenizer) -> GADMSProcessor:
    return GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))


def noise_image(seed: int, size: tuple[int, int] = (21, 50)) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def persons(num_rows: int, **columns) -> datasets.Dataset:
    """Rows whose captions tell their row and column; keyword arguments replace columns."""
    rows = {
        "image": [noise_image(row) for row in range(num_rows)],
        "caption1": [f"first of {row}" for row in range(num_rows)],
        "caption2": [f"second of {row}" for row in range(num_rows)],
    }
    return datasets.Dataset.from_dict(rows | columns)


def texts(num_rows: int, **columns) -> datasets.Dataset:
    """The same without images, for many rows."""
    return persons(num_rows, image=[0] * num_rows, **columns)


def captions_of(pairs: ImageCaptionPairs) -> list[str]:
    return [pairs[index]["caption"] for index in range(len(pairs))]


def text_pairs(num_rows: int, **options) -> ImageCaptionPairs:
    cache = torch.zeros(num_rows, 3, 1, 1, dtype=torch.uint8)
    return ImageCaptionPairs(texts(num_rows), DatasetColumns(), pixel_cache=cache, **options)


# Columns


def test_a_missing_column_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no column `caption2`; it has image, caption1\."):
        DatasetColumns().validate(["image", "caption1"])
    with pytest.raises(ValueError, match="no column `pid`"):
        ImageCaptionPairs(texts(2), DatasetColumns(person_id="pid"))
    with pytest.raises(ValueError, match="no column `photo`"):
        ImageCaptionPairs(texts(2), DatasetColumns(image="photo"))


@pytest.mark.parametrize("captions", ["caption1", (), []])
def test_caption_columns_must_be_a_list_of_names(captions):
    with pytest.raises(ValueError, match="captions = .* must be a list"):
        DatasetColumns(captions=captions)


def test_without_identities_every_image_is_its_own_person():
    pairs = ImageCaptionPairs(texts(3), DatasetColumns(), captions_per_image="all")
    assert [pairs.person_ids[row] for row in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint16"])
def test_whole_numbers_are_identities(dtype):
    dataset = texts(3, person_id=[7, 5, 7]).cast_column("person_id", datasets.Value(dtype))
    assert DatasetColumns(person_id="person_id").person_ids(dataset).tolist() == [7, 5, 7]


def test_class_labels_are_identities():
    dataset = texts(3, person_id=["ann", "bob", "ann"]).class_encode_column("person_id")
    assert DatasetColumns(person_id="person_id").person_ids(dataset).tolist() == [0, 1, 0]


def test_identities_do_not_depend_on_the_format_of_the_data_set():
    dataset = texts(3, person_id=[7, 5, 7]).with_format("torch")
    ids = DatasetColumns(person_id="person_id").person_ids(dataset)
    assert isinstance(ids, np.ndarray) and ids.tolist() == [7, 5, 7]


@pytest.mark.parametrize("values", [["ann", "bob", "ann"], [1.0, 2.0, 1.0], [True, False, True], [[1], [2], [1]]])
def test_identities_of_another_type_are_refused(values):
    with pytest.raises(ValueError, match="column `person_id` holds .*, not whole numbers; .*class_encode_column"):
        ImageCaptionPairs(texts(3, person_id=values), DatasetColumns(person_id="person_id"))


def test_a_missing_identity_is_refused_by_row():
    with pytest.raises(ValueError, match="row 1 has no `person_id`"):
        ImageCaptionPairs(texts(3, person_id=[4, None, 4]), DatasetColumns(person_id="person_id"))


# Pairs


def test_a_pair_is_an_image_one_of_its_captions_and_who_it_shows():
    pairs = ImageCaptionPairs(persons(3, person_id=[9, 8, 9]), DatasetColumns(person_id="person_id"))
    assert len(pairs) == 3
    pair = pairs[2]
    assert pair["image"].tobytes() == noise_image(2).tobytes()
    assert pair["caption"] in ("first of 2", "second of 2")
    assert (pair["person_id"], pair["image_index"]) == (1, 2)  # of the persons 8 and 9 the second
    assert pairs.num_identities == 2


def test_a_draw_depends_on_seed_epoch_and_index_alone():
    pairs, again = text_pairs(50, seed=3), text_pairs(50, seed=3)
    pairs.set_epoch(2)
    expected = captions_of(pairs)
    again.set_epoch(1)
    captions_of(again)
    np.random.seed(1)
    torch.manual_seed(1)
    again.set_epoch(2)
    backwards = [again[index]["caption"] for index in reversed(range(50))]
    assert backwards[::-1] == expected


def test_draws_change_with_epoch_and_with_seed():
    first, other_seed = text_pairs(200), text_pairs(200, seed=1)
    epochs = []
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(captions_of(first))
    other_seed.set_epoch(0)
    for one, other in [(epochs[0], epochs[1]), (epochs[1], epochs[2]), (epochs[0], captions_of(other_seed))]:
        changed = np.mean([a != b for a, b in zip(one, other, strict=True)])
        assert 0.35 < changed < 0.65  # two independent draws of two captions differ half of the time


def test_each_caption_is_drawn_equally_often():
    captions = captions_of(text_pairs(600))
    assert 0.43 < np.mean([caption.startswith("first") for caption in captions]) < 0.57


def test_all_makes_a_pair_of_every_caption():
    lists = [["a", "b", "c"], ["d"], ["e", "f"]]
    dataset = texts(3, caption2=lists)
    pairs = ImageCaptionPairs(
        dataset, DatasetColumns(), captions_per_image="all", pixel_cache=torch.zeros(3, 3, 1, 1, dtype=torch.uint8)
    )
    got = [(pairs[index]["image_index"], pairs[index]["caption"]) for index in range(len(pairs))]
    expected = [(0, "first of 0"), (0, "a"), (0, "b"), (0, "c"), (1, "first of 1"), (1, "d")]
    assert got == [*expected, (2, "first of 2"), (2, "e"), (2, "f")]
    pairs.set_epoch(5)
    assert [pair["caption"] for pair in map(pairs.__getitem__, range(9))] == [caption for _, caption in got]


def test_one_draws_from_all_captions_of_a_list():
    dataset = texts(100, caption1=[["a", "b", "c"]] * 100)
    cache = torch.zeros(100, 3, 1, 1, dtype=torch.uint8)
    pairs = ImageCaptionPairs(dataset, DatasetColumns(captions=("caption1",)), pixel_cache=cache)
    assert set(captions_of(pairs)) == {"a", "b", "c"}


@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_an_empty_caption_is_refused_by_row_and_column(empty):
    dataset = texts(3, caption2=["one", "two", empty])
    with pytest.raises(ValueError, match="row 2: `caption2` is an empty caption"):
        ImageCaptionPairs(dataset, DatasetColumns(), captions_per_image="all")
    with pytest.raises(ValueError, match="row 2: `caption2` is an empty caption"):
        ImageCaptionPairs(dataset, DatasetColumns())[2]


def test_an_empty_caption_within_a_list_is_refused():
    dataset = texts(2, caption2=[["one"], ["two", ""]])
    with pytest.raises(ValueError, match="row 1: `caption2` is an empty caption"):
        ImageCaptionPairs(dataset, DatasetColumns(), captions_per_image="all")


def test_a_row_without_any_caption_is_refused():
    dataset = texts(2, caption1=[["one"], []])
    with pytest.raises(ValueError, match="row 1: there is no caption in caption1"):
        ImageCaptionPairs(dataset, DatasetColumns(captions=("caption1",)), captions_per_image="all")


LONG = "A man wears a red coat, blue jeans and white boots. He carries a bag."


@pytest.mark.parametrize("captions_per_image", ["one", "all"])
def test_queries_are_drawn_from_the_pairs_caption_anew_in_each_epoch(captions_per_image):
    dataset = texts(40, caption1=[LONG] * 40, caption2=[LONG.replace("red", "green")] * 40)
    options = {"captions_per_image": captions_per_image, "pixel_cache": torch.zeros(40, 3, 1, 1, dtype=torch.uint8)}
    plain = ImageCaptionPairs(dataset, DatasetColumns(), **options)
    pairs, again = (ImageCaptionPairs(dataset, DatasetColumns(), **options, short_queries=4) for _ in range(2))
    assert captions_of(pairs) == captions_of(plain) and "queries" not in plain[0]
    for index in range(len(pairs)):
        pair = pairs[index]
        assert len(pair["queries"]) == 4 and pair["queries"] == again[index]["queries"]
        other = "green" if "red" in pair["caption"] else "red"
        assert all(other not in query.text for query in pair["queries"])
        # Both captions are true of the image.
        assert {frozenset({"red", "coat"}), frozenset({"green", "coat"})} < pair["stated"]
    again.set_epoch(1)
    assert [again[index]["queries"] for index in range(40)] != [pairs[index]["queries"] for index in range(40)]


def test_a_batch_has_the_queries_of_its_pairs(processor):
    dataset = texts(3, caption1=[LONG, "A woman in a red coat.", "A tall man."], caption2=[LONG] * 3)
    cache = torch.zeros(3, 3, *processor.image_size, dtype=torch.uint8)
    pairs = ImageCaptionPairs(dataset, DatasetColumns(), pixel_cache=cache, short_queries=2)
    batch = PairCollator(processor)([pairs[row] for row in range(3)])
    queries = [query for row in range(3) for query in pairs[row]["queries"]]
    tokens = processor(text=[query.text for query in queries])
    assert torch.equal(batch["query_input_ids"], tokens["input_ids"])
    assert torch.equal(batch["query_attention_mask"], tokens["attention_mask"])
    assert len(batch["query_words"]) == 6 and len(batch["image_words"]) == 3
    plain = PairCollator(processor)([{**pairs[row], "queries": []} for row in range(3)])
    assert not any(name.startswith("query") for name in plain)


def test_a_negative_number_of_queries_is_refused():
    with pytest.raises(ValueError, match="short_queries = -1 is a number of queries"):
        text_pairs(3, short_queries=-1)


def test_an_empty_data_set_and_an_unknown_mode_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        ImageCaptionPairs(texts(3).select([]), DatasetColumns())
    with pytest.raises(ValueError, match="captions_per_image = 'two' must be 'one' or 'all'"):
        ImageCaptionPairs(texts(3), DatasetColumns(), captions_per_image="two")


def broken_image(kind: str) -> bytes | None:
    buffer = io.BytesIO()
    noise_image(0, (60, 80)).save(buffer, format="PNG" if kind == "damaged PNG" else "JPEG")
    content = buffer.getvalue()
    return {
        "truncated JPEG": content[: len(content) // 2],
        "header alone": content[:20],
        "damaged PNG": content[:40] + b"\0" * 20 + content[60:],
        "text": b"Dear Sir or Madam",
        "nothing": b"",
        "missing": None,
    }[kind]


@pytest.mark.parametrize("kind", ["truncated JPEG", "header alone", "damaged PNG", "text", "nothing", "missing"])
def test_an_unreadable_image_is_refused_by_row(kind, processor):
    content = broken_image(kind)
    buffer = io.BytesIO()
    noise_image(1).save(buffer, format="PNG")
    images = [{"bytes": buffer.getvalue(), "path": None}, content and {"bytes": content, "path": None}]
    if kind == "nothing":
        images[1] = {"bytes": b"", "path": None}
    dataset = texts(2).remove_columns("image").add_column("image", images)
    dataset = dataset.cast_column("image", datasets.Image())
    pairs = ImageCaptionPairs(dataset, DatasetColumns())
    assert pairs[0]["image"].size == (21, 50)
    with pytest.raises(ValueError, match="row 1: the image in `image` cannot be read"):
        pairs[1]
    with pytest.raises(ValueError, match="row 1: "):
        cache_pixels(dataset, DatasetColumns(), processor)


@pytest.mark.parametrize("format", [None, "torch", "numpy"])
def test_images_are_read_whatever_the_format_of_the_data_set(format, processor):
    dataset = persons(2).with_format(format)
    assert ImageCaptionPairs(dataset, DatasetColumns())[1]["image"].tobytes() == noise_image(1).tobytes()
    assert cache_pixels(dataset, DatasetColumns(), processor).float().std() > 1


# Data loaders


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_workers_see_the_epoch_and_draw_alike(options):
    pairs = text_pairs(24)
    loader = DataLoader(pairs, batch_size=8, collate_fn=lambda batch: [pair["caption"] for pair in batch], **options)
    seen = []
    for epoch in range(3):
        pairs.set_epoch(epoch)
        seen.append([caption for batch in loader for caption in batch])
        assert seen[-1] == captions_of(pairs)
    assert seen[0] != seen[1] != seen[2]


# Batches


def pairs_of(captions: list[str]) -> list[dict]:
    return [
        {"image": noise_image(index), "caption": caption, "person_id": 10 + index, "image_index": index}
        for index, caption in enumerate(captions)
    ]


def test_a_batch_holds_what_the_processor_makes(processor):
    captions = ["A man in a red coat.", "Person."]
    batch = PairCollator(processor)(pairs_of(captions))
    expected = processor(text=captions, images=[noise_image(0), noise_image(1)])
    assert set(batch) == {*expected, "person_ids", "image_indices", "truncated", "return_loss"}
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name
    assert batch["person_ids"].tolist() == [10, 11] and batch["person_ids"].dtype == torch.long
    assert batch["image_indices"].tolist() == [0, 1]


def test_a_batch_of_one(processor):
    batch = PairCollator(processor)(pairs_of(["A man."]))
    assert batch["pixel_values"].shape == (1, 3, 32, 16)
    assert len(batch["input_ids"]) == len(batch["person_ids"]) == 1


def test_captions_are_padded_to_the_longest_of_the_batch_alone(processor):
    batch = PairCollator(processor)(pairs_of(["a", "a a a"]))
    assert batch["input_ids"].shape == (2, 5)  # BOS, three words, EOS
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_only_captions_beyond_the_limit_count_as_truncated(processor):
    limit = processor.tokenizer.model_max_length
    words = [limit - 3, limit - 2, limit - 1, 500]  # with BOS and EOS: shorter, exact, one too many, far too many
    batch = PairCollator(processor)(pairs_of([" ".join("a" * count) for count in words]))
    assert batch["truncated"].tolist() == [False, False, True, True]
    assert batch["input_ids"].shape == (4, limit)
    # Whatever was cut, the caption still ends in EOS.
    last = batch["input_ids"][torch.arange(4), batch["attention_mask"].sum(dim=1) - 1]
    assert last.tolist() == [processor.tokenizer.eos_token_id] * 4


def test_special_tokens_in_a_caption_are_text_when_it_is_cut_and_when_it_is_counted(processor):
    tokenizer = processor.tokenizer
    batch = PairCollator(processor)(pairs_of(["<|endoftext|> " * 10, "a <|mask|>"]))
    assert batch["truncated"].tolist() == [True, False]
    assert batch["attention_mask"][0].all()
    assert (batch["input_ids"] == tokenizer.mask_token_id).sum() == 0
    assert (batch["input_ids"][0] == tokenizer.eos_token_id).sum() == 1


def test_emoji_and_chinese_reach_the_model_whole(processor):
    captions = ["\N{FIRE}", "\u7537\u4eba"]
    batch = PairCollator(processor)(pairs_of(captions))
    assert processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == captions
    assert not batch["truncated"].any()


def test_cached_pixels_are_the_processors_own(processor):
    dataset = persons(5)
    cache = cache_pixels(dataset, DatasetColumns(), processor)
    assert cache.shape == (5, 3, 32, 16) and cache.dtype == torch.uint8
    collate = PairCollator(processor)
    direct = ImageCaptionPairs(dataset, DatasetColumns())
    cached = ImageCaptionPairs(dataset, DatasetColumns(), pixel_cache=cache)
    direct, cached = (collate([pairs[index] for index in range(5)]) for pairs in (direct, cached))
    # The same eight-bit pixels; the normalisation may round its last bit otherwise.
    torch.testing.assert_close(cached.pop("pixel_values"), direct.pop("pixel_values"), rtol=0, atol=1e-6)
    for name, value in direct.items():
        assert torch.equal(torch.as_tensor(cached[name]), torch.as_tensor(value)), name


# Augmentation


def normalise(processor: GADMSProcessor, pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    return (pixels - mean) / std


def of_value(images: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Where an image has this value in all channels: (batch_size, height, width)."""
    return ((images - value).abs() < 1e-3).all(dim=1)


def test_padding_is_black_erasing_is_the_mean_and_nothing_else_changes(processor):
    torch.manual_seed(0)
    white, black = normalise(processor, torch.ones(3, 1, 1)), normalise(processor, torch.zeros(3, 1, 1))
    images = white.expand(400, 3, 32, 16).contiguous()
    augmented = PersonAugmentation(processor, crop_padding=4)(images)
    assert augmented.shape == images.shape and augmented.dtype == torch.float32
    is_white, is_black, is_mean = (of_value(augmented, value) for value in (white, black, torch.zeros(3, 1, 1)))
    assert (is_white | is_black | is_mean).all()
    # Padding touches a border: the crop's shift is at most the padding.
    assert is_black.any() and not is_black[:, 4:-4, 4:-4].any()
    erased = is_mean.flatten(1).float().mean(dim=1)
    assert 0.42 < (erased > 0).float().mean() < 0.58
    assert erased[erased > 0].min() > 0.01 and erased.max() < 0.45


def test_erasing_is_a_rectangle(processor):
    torch.manual_seed(0)
    images = normalise(processor, torch.ones(3, 1, 1)).expand(40, 3, 32, 16).contiguous()
    is_mean = of_value(PersonAugmentation(processor)(images), torch.zeros(3, 1, 1))
    for mask in is_mean[is_mean.flatten(1).any(dim=1)]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])


def test_half_of_the_images_are_flipped(processor):
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 16)
    image[:, :, :8] = 1.0  # the left half is white
    augmented = PersonAugmentation(processor, crop_padding=0)(
        normalise(processor, image).expand(400, 3, 32, 16).contiguous()
    )
    flipped = augmented[..., :8].mean(dim=(1, 2, 3)) < augmented[..., 8:].mean(dim=(1, 2, 3))
    assert 0.42 < flipped.float().mean() < 0.58


def test_every_image_is_changed_by_its_own_draw(processor):
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 16).expand(8, 3, 32, 16).contiguous()
    augmented = PersonAugmentation(processor)(images)
    assert len({tuple(image.flatten().tolist()) for image in augmented}) == 8
    assert torch.equal(images, images[:1].expand_as(images))  # the given images are left alone


def test_a_single_image_is_augmented(processor):
    torch.manual_seed(0)
    assert PersonAugmentation(processor)(torch.randn(1, 3, 32, 16)).shape == (1, 3, 32, 16)


def test_augmentation_repeats_with_the_seed(processor):
    images = torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    augmentation = PersonAugmentation(processor)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(augmentation(images))
    assert torch.equal(*results)
