"""The drawn catalogue: what a row holds, what it depends on, and that pictures show what captions say."""

import io
import re
from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts import synthetic_garments
from dataset_scripts.drawn.garments.attributes import (
    BACKDROPS,
    DETAILS,
    KINDS,
    Product,
    Shot,
    sample_product,
    sample_shot,
)
from dataset_scripts.drawn.garments.captions import write_caption
from dataset_scripts.drawn.garments.scene import draw_product
from dataset_scripts.drawn.persons.attributes import COLORS, near
from dataset_scripts.drawn.persons.words import FORMS
from dataset_scripts.synthetic_garments import ProductSampler, SyntheticGarments, SyntheticGarmentsConfig
from tests.dataset_scripts.drawn_in_processes import load_with_two_processes


SIZE = (64, 48)
SMALL = {
    "num_train_products": 3, "num_validation_products": 2, "num_test_products": 2, "images_per_product": 2,
    "image_size": SIZE, "seed": 5,
}  # fmt: skip
STRAIGHT = Shot("white", 0.0, 1.0, (0.0, 0.0), False, 0.0, 1.0, 0.0)


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def product(kind: str, **fields) -> Product:
    """A plain blue product of a kind, with the first value of each detail."""
    details = dict.fromkeys(DETAILS, "none") | {
        name: next(iter(values)) for name, values in KINDS[kind].details.items()
    }
    details |= fields.pop("details", {})
    plain = Product(kind, "blue", "plain", "none", details, "Alderby", "Ash", "cotton", 19.95, ("M",))
    return replace(plain, **fields)


def picture(item: Product, shot: Shot = STRAIGHT, size: tuple[int, int] = (96, 72)) -> np.ndarray:
    return np.asarray(draw_product(item, shot, size, rng(0))).astype(int)


def load(cache_dir, **fields) -> datasets.DatasetDict:
    return datasets.load_dataset("synthetic_garments", cache_dir=str(cache_dir), **{**SMALL, **fields})


def raw(dataset: datasets.Dataset) -> list[dict]:
    return list(dataset.cast_column("image", datasets.Image(decode=False)))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> datasets.DatasetDict:
    return load(tmp_path_factory.mktemp("catalogue"))


def test_it_loads_by_its_bare_name_with_three_splits_of_the_sizes_asked_for(catalogue):
    assert {split: len(rows) for split, rows in catalogue.items()} == {"train": 6, "validation": 4, "test": 4}


def test_a_row_holds_a_picture_two_captions_and_the_product_fields(catalogue):
    for row in catalogue["test"]:
        assert row["image"].size == (48, 64) and row["image"].mode == "RGB"
        assert row["caption1"].endswith(".") and row["caption2"].endswith(".")
        kind = KINDS[row["category"]]
        assert row["title"].startswith(row["brand"]) and row["title"].endswith(row["category"])
        assert row["material"] in kind.materials and set(row["sizes"]) <= set(kind.sizes)
        assert 0.4 * kind.price < row["price"] < 2.2 * kind.price
        assert row["attributes"]["kind"] == row["category"]


def test_no_product_is_in_two_splits(catalogue):
    numbers = [set(rows["product_id"]) for rows in catalogue.values()]
    assert sum(map(len, numbers)) == len(set().union(*numbers)) == 7


def test_pictures_of_a_product_differ_and_its_fields_do_not(catalogue):
    first, second = raw(catalogue["train"])[:2]
    assert first["image"]["bytes"] != second["image"]["bytes"]
    changing = {"image", "image_path", "caption1", "caption2"}
    assert {k: v for k, v in first.items() if k not in changing} == {
        k: v for k, v in second.items() if k not in changing
    }


@pytest.mark.slow
def test_rows_depend_neither_on_the_number_of_products_nor_on_the_processes(catalogue, tmp_path):
    fields = {**SMALL, "num_train_products": 70, "images_per_product": 1, "image_size": (32, 24)}
    more = load_with_two_processes("synthetic_garments", tmp_path / "two", **fields)
    same = load(tmp_path, num_train_products=2, images_per_product=1, image_size=(32, 24))
    assert raw(more["train"])[:2] == raw(same["train"])
    assert [row["caption1"] for row in raw(same["train"])] == [
        row["caption1"] for row in raw(catalogue["train"])[:4:2]
    ]


def test_another_seed_or_split_gives_other_products():
    looks = [
        repr([ProductSampler(seed, split).product(index) for index in range(5)])
        for seed, split in ((0, "train"), (1, "train"), (0, "test"))
    ]
    assert len(set(looks)) == 3


def test_a_picture_is_stored_with_its_colours_in_full_resolution(catalogue):
    with Image.open(io.BytesIO(raw(catalogue["train"])[0]["image"]["bytes"])) as image:
        assert image.format == "JPEG" and [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_every_field_changes_the_name_of_the_cache(tmp_path):
    changes = {
        "num_train_products": 9, "num_validation_products": 9, "num_test_products": 9, "images_per_product": 9,
        "image_size": (64, 48), "seed": 9,
    }  # fmt: skip
    inherited = datasets.BuilderConfig.__dataclass_fields__
    assert set(changes) == set(SyntheticGarmentsConfig.__dataclass_fields__) - set(inherited)
    builders = [SyntheticGarments(cache_dir=str(tmp_path), **{name: value}) for name, value in changes.items()]
    builders.append(SyntheticGarments(cache_dir=str(tmp_path)))
    assert len({builder.cache_dir for builder in builders}) == len(changes) + 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_train_products", 0, "num_train_products must be 1 or more, got 0"),
        ("images_per_product", 1.5, "images_per_product must be a whole number, got 1.5"),
        ("seed", -1, "seed must be 0 or more, got -1"),
        ("image_size", 64, r"image_size must be a pair \(height, width\), got 64"),
        ("image_size", (64, 96), r"1 to 2 times the width, got \(64, 96\)"),
        ("image_size", (16, 12), r"32 to 1024 pixels.*got \(16, 12\)"),
    ],
)
def test_a_bad_field_is_refused_by_name_and_value(field, value, says):
    with pytest.raises(ValueError, match=says):
        SyntheticGarmentsConfig(**{field: value})


# Products


def test_products_have_the_details_of_their_kind_and_no_others():
    for seed in range(200):
        item = sample_product(rng(seed))
        kind = KINDS[item.kind]
        assert tuple(item.details) == DETAILS
        for name, value in item.details.items():
            assert value in kind.details.get(name, {"none": 1})


def test_a_second_colour_is_there_exactly_with_a_pattern_or_ribbon_and_is_no_near_one():
    for seed in range(200):
        item = sample_product(rng(seed))
        assert (item.color2 != "none") == (item.pattern != "plain" or item.details["trim"] == "ribbon")
        assert item.color2 == "none" or not near(item.color, item.color2)


def test_some_products_are_sold_out_and_most_are_not():
    sold_out = np.mean([not sample_product(rng(seed)).sizes for seed in range(400)])
    assert 0.08 < sold_out < 0.35


# Captions


def test_captions_are_one_sentence_with_kind_and_colour_in_words_of_their_own():
    for seed in range(300):
        item = sample_product(rng(seed))
        caption = write_caption(item, rng(seed, 1))
        assert re.fullmatch(r"[A-Z][a-z0-9 ,-]+\.", caption)
        assert any(form in caption.lower() for form in FORMS["color"][item.color])
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption.lower())


def test_captions_name_no_colour_that_the_product_has_not():
    names = {form: color for color in COLORS for form in FORMS["color"][color]}
    known = "|".join(rf"\b{form}\b" for form in sorted(names, key=len, reverse=True))
    for seed in range(300):
        item = sample_product(rng(seed))
        told = re.findall(known, write_caption(item, rng(seed, 1)).lower())
        assert {names[form] for form in told} <= {item.color, item.color2}


@pytest.mark.parametrize(
    ("kind", "detail", "words"),
    [
        ("jacket", ("hood", "hood"), "hood"),
        ("jacket", ("closure", "zip"), "zip"),
        ("jacket", ("pocket", "patch"), "pockets"),
        ("coat", ("belt", "belt"), "belt"),
        ("coat", ("length", "long"), "long"),
        ("t-shirt", ("neck", "v"), "v-"),
        ("t-shirt", ("sleeves", "long"), "long"),
        ("dress", ("sleeves", "none"), "no sleeves|sleeveless"),
        ("tote bag", ("length", "long"), "long handles|long straps"),
        ("beanie", ("trim", "pompom"), "pompom|bobble"),
        ("boots", ("length", "knee"), "knee-high|tall"),
    ],
)
def test_a_detail_is_mostly_told_where_it_is_there_and_never_where_it_is_not(kind, detail, words):
    name, value = detail
    other = next(option for option in KINDS[kind].details[name] if option != value)
    told, wrong = (
        np.mean([bool(re.search(words, write_caption(item, rng(seed)).lower())) for seed in range(60)])
        for item in (product(kind, details={name: value}), product(kind, details={name: other}))
    )
    assert 0.7 < told < 1.0
    assert wrong == 0


def test_the_two_captions_of_a_picture_are_worded_independently():
    captions = [ProductSampler(0, "train").captions(index, 0) for index in range(20)]
    assert sum(first != second for first, second in captions) >= 15


def test_captions_speak_of_no_part_that_such_products_do_not_have():
    for seed in range(300):
        item = sample_product(rng(seed))
        caption = write_caption(item, rng(seed, 1)).lower()
        assert ("sleeve" in caption) <= ("sleeves" in KINDS[item.kind].details)
        assert ("neck" in caption) <= ("neck" in KINDS[item.kind].details)
        assert ("pocket" in caption) <= ("pocket" in KINDS[item.kind].details)


def test_the_looks_of_the_test_split_are_as_many_as_its_documentation_says():
    looks = {tuple(ProductSampler(0, "test").product(index).attributes().values()) for index in range(300)}
    assert len(looks) == 253 and SyntheticGarmentsConfig().num_test_products == 300
    assert "300 products of the test split have 253 distinct appearances" in synthetic_garments.__doc__


# Pictures


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_drawn_whole_and_in_its_colour(kind):
    shown = picture(product(kind, color="red"))
    red = (shown[..., 0] > 90) & (shown[..., 1] < 90) & (shown[..., 2] < 90)
    assert 0.03 < red.mean() < 0.6
    assert not red[[0, -1]].any() and not red[:, [0, -1]].any()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (kind, name, value)
        for kind, its in KINDS.items()
        for name, values in its.details.items()
        for value in list(values)[1:]
    ],
)
@pytest.mark.parametrize("color", ["white", "black", "red"])
def test_every_detail_can_be_seen_on_light_dark_and_bright_cloth(kind, name, value, color):
    pattern = {"color2": "blue"} if name == "trim" else {}
    with_it, without = (picture(product(kind, color=color, **pattern, details=d)) for d in ({name: value}, {}))
    changed = np.abs(with_it - without).max(axis=2) > 25
    assert changed.sum() >= 12


@pytest.mark.parametrize("pattern", ["striped", "checked", "dotted"])
def test_a_pattern_shows_both_of_its_colours(pattern):
    shown = picture(product("t-shirt", color="blue", pattern=pattern, color2="yellow"))[30:66, 26:46].reshape(-1, 3)
    assert (shown[:, 2] > shown[:, 0] + 40).mean() > 0.1  # blue
    lighter = shown[:, 0] > shown[:, 2] + (10 if pattern == "checked" else 60)
    assert lighter.mean() > 0.1


def test_patterns_look_different():
    looks = [
        picture(product("shirt", pattern=pattern, color2="yellow")) for pattern in ("striped", "checked", "dotted")
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (np.abs(looks[first] - looks[second]).max(axis=2) > 60).mean() > 0.05


def test_a_mirrored_shot_shows_the_other_side():
    shown, mirrored = (picture(product("cap"), replace(STRAIGHT, mirrored=flip)) for flip in (False, True))
    blue = [(p[..., 2] > p[..., 0] + 60) for p in (shown, mirrored)]
    assert (blue[0] == blue[1][:, ::-1]).mean() > 0.98
    assert (blue[0] == blue[1]).mean() < 0.98


def test_no_shot_moves_any_of_the_product_out_of_the_picture():
    for seed in range(15):
        shot = replace(sample_shot(rng(seed)), backdrop="white", exposure=1.0, warmth=0.0)
        blue = np.asarray(draw_product(product("coat", details={"length": "long"}), shot, (96, 72), rng(1))).astype(
            int
        )
        where = blue[..., 2] > blue[..., 0] + 60
        assert where.mean() > 0.15
        assert not where[[0, -1]].any() and not where[:, [0, -1]].any()


@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_backdrops_are_calmer_than_any_pattern(backdrop):
    shown = picture(product("beanie"), replace(STRAIGHT, backdrop=backdrop))[:12]
    assert shown.mean() > 130
    assert shown.std(axis=(0, 1)).max() < 22


@pytest.mark.parametrize("size", [(32, 24), (96, 72), (192, 144), (200, 200)])
def test_a_picture_has_exactly_the_size_asked_for(size):
    image = draw_product(product("skirt"), STRAIGHT, size, rng(0))
    assert image.size == size[::-1] and image.mode == "RGB"
