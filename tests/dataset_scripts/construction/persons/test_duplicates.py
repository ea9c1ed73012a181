"""Near-duplicates: against a comparison of all with all, on copies, and on persons who only look alike."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts.construction.persons.duplicates import (
    DUPLICATE_SCHEMA,
    DropDuplicates,
    DuplicateSettings,
    MeasureSignature,
    colour_grid,
    find_duplicates,
    write_duplicates,
)
from dataset_scripts.synthetic_persons import load_synthetic_persons


GREY = np.full(24, 128, np.uint8)


def naive(hashes: list[int], colours: np.ndarray, settings: DuplicateSettings) -> list[int]:
    kept: list[int] = []
    original = []
    for index, code in enumerate(hashes):
        repeats = [
            other
            for other in kept
            if (hashes[other] ^ code).bit_count() <= settings.max_distance
            and max(abs(int(a) - int(b)) for a, b in zip(colours[other], colours[index], strict=True))
            <= settings.max_colour_difference
        ]
        original.append(repeats[0] if repeats else -1)
        if not repeats:
            kept.append(index)
    return original


def flip(code: int, bits) -> int:
    for bit in bits:
        code ^= 1 << int(bit)
    return code


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 63), max_size=9), st.integers(0, 3)), max_size=25),
    st.integers(-1, 15),
    st.sampled_from([0, 1, 24, 255]),
)
def test_duplicates_are_those_of_a_comparison_of_all_with_all(crops, distance, difference):
    centres = [0, 2**64 - 1, 0x0123456789ABCDEF]
    hashes = [flip(centres[centre], bits) for centre, bits, _ in crops]
    colours = np.array([np.where(np.arange(24) == 5, 100 + 13 * shade, 100) for *_, shade in crops], np.uint8)
    settings = DuplicateSettings(distance, difference)
    found = find_duplicates(np.array(hashes, np.uint64), colours.reshape(-1, 24), settings)
    assert found.dtype == np.int64
    assert found.tolist() == naive(hashes, colours, settings)


@pytest.mark.parametrize("distance", range(16))
def test_the_distance_is_met_exactly_wherever_the_bits_lie(distance):
    draw = np.random.default_rng(distance)
    code = int(draw.integers(0, 2**64, dtype=np.uint64))
    for _ in range(40):
        bits = draw.permutation(64)
        hashes = [code, flip(code, bits[:distance]), flip(code, bits[: distance + 1])]
        found = find_duplicates(np.array(hashes, np.uint64), np.stack([GREY] * 3), DuplicateSettings(distance))
        assert found.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("difference, expected", [(0, -1), (23, -1), (24, 0), (255, 0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_colour_must_agree(difference, expected, sign):
    other = GREY.copy()
    other[-1] = 128 + 24 * sign
    found = find_duplicates(np.zeros(2, np.uint64), np.stack([GREY, other]), DuplicateSettings(4, difference))
    assert found.tolist() == [-1, expected]


def test_colours_at_the_ends_of_their_range_do_not_wrap_around():
    colours = np.stack([GREY * 0, GREY * 0 + 255])
    assert find_duplicates(np.zeros(2, np.uint64), colours, DuplicateSettings(4, 254)).tolist() == [-1, -1]


def test_what_repeats_a_duplicate_only_is_kept():
    hashes = np.array([0, 0b11, 0b1111], np.uint64)
    found = find_duplicates(hashes, np.stack([GREY] * 3), DuplicateSettings(2))
    assert found.tolist() == [-1, 0, -1]


def test_the_first_of_several_originals_is_named():
    hashes = np.array([0b1111, 0b11110000 << 56, 0], np.uint64)  # each 4 bits from the last one, 8 from each other
    assert find_duplicates(hashes, np.stack([GREY] * 3), DuplicateSettings(4)).tolist() == [-1, -1, 0]


def test_all_are_kept_with_a_distance_of_minus_one():
    assert find_duplicates(np.zeros(3, np.uint64), np.stack([GREY] * 3), DuplicateSettings(-1)).tolist() == [-1] * 3


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def persons(tmp_path_factory) -> list[Image.Image]:
    drawn = load_synthetic_persons(
        num_train_persons=60, num_validation_persons=1, num_test_persons=1, train_images_per_person=2,
        image_size=(192, 64), cache_dir=str(tmp_path_factory.mktemp("persons")),
    )  # fmt: skip
    return [image.convert("RGB") for image in drawn["train"]["image"]]


def encoded(image: Image.Image, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def signatures(contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    columns = MeasureSignature()({"crop": contents}).columns
    hashes = np.array([int(code, 16) for code in columns["perceptual_hash"]], np.uint64)
    return hashes, np.array([list(bytes.fromhex(grid)) for grid in columns["colour_grid"]], np.uint8)


def found_among(contents: list[bytes], settings: DuplicateSettings | None = None) -> list[int]:
    return find_duplicates(*signatures(contents), settings or DuplicateSettings()).tolist()


COPIES = {
    "compressed again": lambda image: encoded(image, 20),
    "halved": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "enlarged": lambda image: encoded(image.resize((image.width * 3 // 2, image.height * 3 // 2))),
    "brighter": lambda image: encoded(image.point(lambda value: min(255, value * 21 // 20))),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found(persons, copy):
    found = found_among([encoded(image) for image in persons] + [COPIES[copy](image) for image in persons])
    assert found == [-1] * len(persons) + list(range(len(persons)))


def test_most_copies_that_are_cut_otherwise_are_found(persons):
    cut = [image.crop((1, 2, image.width, image.height)) for image in persons]  # 1 to 2 % of the sides
    found = found_among([encoded(image) for image in [*persons, *cut]])
    assert np.mean(np.array(found[len(persons) :]) == np.arange(len(persons))) > 0.85


def test_different_persons_and_two_pictures_of_one_are_not_merged(persons):
    assert found_among([encoded(image) for image in persons]) == [-1] * len(persons)
    # Up to 9 bits, as was measured on many more.
    assert found_among([encoded(image) for image in persons], DuplicateSettings(9)) == [-1] * len(persons)


def test_one_person_in_a_coat_of_another_colour_stays():
    def coat(colour: tuple[int, int, int]) -> bytes:
        image = Image.new("RGB", (64, 192), (200, 200, 200))
        image.paste((60, 40, 30), (22, 10, 42, 40))
        image.paste(colour, (12, 40, 52, 110))
        image.paste((30, 30, 60), (18, 110, 46, 185))
        return encoded(image)

    red, also_red, green = coat((150, 30, 30)), coat((154, 34, 28)), coat((20, 88, 20))
    assert found_among([red, also_red, green]) == [-1, 0, -1]
    assert found_among([red, also_red, green], DuplicateSettings(6, 255)) == [-1, 0, 0]  # the hash sees no colour


def test_the_hash_is_that_of_imagehash_and_the_grid_the_mean_colours():
    left, right = (200, 30, 40), (20, 130, 240)
    image = Image.new("RGB", (60, 120), left)
    image.paste(right, (30, 0, 60, 120))
    assert colour_grid(image).tolist() == [*left, *right] * 4
    import imagehash

    (code,), _ = signatures([encoded(image)])
    assert f"{code:016x}" == str(imagehash.phash(Image.open(io.BytesIO(encoded(image)))))


# ---------------------------------------------------------------------------------------------------------------------
# Files.
# ---------------------------------------------------------------------------------------------------------------------
def shard(path: Path, *rows: tuple[str, int]) -> Path:
    columns = {
        "row_id": [row_id for row_id, _ in rows],
        "perceptual_hash": [f"{code:016x}" for _, code in rows],
        "colour_grid": [GREY.tobytes().hex()] * len(rows),
    }
    pq.write_table(pa.table(columns, pa.schema([(name, pa.string()) for name in columns])), path)
    return path


def test_persons_of_all_shards_are_compared_and_the_repeated_are_dropped(tmp_path):
    shards = [
        shard(tmp_path / "0.parquet", ("a", 0), ("b", 2**64 - 1)),
        shard(tmp_path / "1.parquet"),
        shard(tmp_path / "2.parquet", ("c", 0b111), ("d", 2**63), ("e", 0xF0F0F0F0F0F0F0F0)),
    ]
    path = tmp_path / "duplicates.parquet"
    write_duplicates(shards, path, DuplicateSettings())
    table = pq.read_table(path)
    assert table.schema == DUPLICATE_SCHEMA
    assert table.to_pylist() == [
        {"row_id": "c", "duplicate_of": "a", "distance": 3},
        {"row_id": "d", "duplicate_of": "a", "distance": 1},
    ]
    block = DropDuplicates(path)
    block.prepare()
    verdicts = block({"row_id": ["e", "d", "a", "c"]}).verdicts
    assert verdicts == [True, (False, "duplicate", "of a"), True, (False, "duplicate", "of a")]


def test_no_persons_at_all_have_no_duplicates(tmp_path):
    path = tmp_path / "duplicates.parquet"
    write_duplicates([shard(tmp_path / "0.parquet")], path, DuplicateSettings())
    assert pq.read_table(path).num_rows == 0
    block = DropDuplicates(path)
    block.prepare()
    assert block({"row_id": ["a"]}).verdicts == [True]


@pytest.mark.parametrize(
    "settings",
    [{"max_distance": -2}, {"max_distance": 16}, {"max_colour_difference": -1}, {"max_colour_difference": 256}],
)
def test_a_setting_out_of_its_range_is_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}`"):
        DuplicateSettings(**settings)


def test_the_defaults_are_as_they_were_measured():
    assert (DuplicateSettings().max_distance, DuplicateSettings().max_colour_difference) == (6, 24)
