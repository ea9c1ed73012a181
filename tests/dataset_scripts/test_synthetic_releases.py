"""Drawn releases: the raw formats to the key, four domains that differ, and the same bytes every time."""

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dataset_scripts  # noqa: F401, makes the names known
from dataset_scripts.synthetic_releases import DOMAINS, MARKER, ReleaseSizes, _identities, write_synthetic_releases


pytestmark = pytest.mark.slow


SIZES = ReleaseSizes(webperson_images=40)
BENCHMARKS = {"cuhk_pedes": "CUHK-PEDES", "icfg_pedes": "ICFG-PEDES", "rstpreid": "RSTPReid"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("releases") / "root"
    write_synthetic_releases(root, sizes=SIZES)
    return root


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def raw(root: Path, release: str, name: str) -> list[dict]:
    return json.loads((root / release / name).read_text())


def test_the_files_are_those_of_the_releases(root):
    cuhk = raw(root, "CUHK-PEDES", "reid_raw.json")
    icfg = raw(root, "ICFG-PEDES", "ICFG-PEDES.json")
    rstp = raw(root, "RSTPReid", "data_captions.json")
    for entry in (*cuhk, *icfg):
        assert sorted(entry) == ["captions", "file_path", "id", "processed_tokens", "split"]
    for entry in rstp:
        assert sorted(entry) == ["captions", "id", "img_path", "split"]
    assert min(entry["id"] for entry in cuhk) == 1
    assert min(entry["id"] for entry in icfg) == min(entry["id"] for entry in rstp) == 0
    assert {entry["split"] for entry in cuhk} == {entry["split"] for entry in rstp} == {"train", "val", "test"}
    assert {entry["split"] for entry in icfg} == {"train", "test"}
    assert {len(entry["captions"]) for entry in (*cuhk, *rstp)} == {2}
    assert {len(entry["captions"]) for entry in icfg} == {1}
    assert {(entry["split"], entry["file_path"].split("/")[0]) for entry in icfg} == {
        (split, folder) for split in ("train", "test") for folder in ("train", "test")
    }
    images_of = [sum(entry["id"] == person for entry in rstp) for person in {entry["id"] for entry in rstp}]
    assert set(images_of) == {5}


def test_webperson_is_parquet_with_the_published_columns_and_several_row_groups(root):
    files = sorted((root / "WebPerson" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{number:05d}-of-00002.parquet" for number in range(2)]
    for file in files:
        parquet = pq.ParquetFile(file)
        assert parquet.schema_arrow.names == ["image", "image_path", "caption1", "caption2"]
        assert (parquet.metadata.num_rows, parquet.num_row_groups) == (20, 2)


def test_our_builders_read_them(root, tmp_path):
    for name, release in BENCHMARKS.items():
        loaded = datasets.load_dataset(name, data_dir=str(root), cache_dir=str(tmp_path), check_counts=False)
        for split, rows in loaded.items():
            assert len(set(rows["person_id"])) == SIZES.persons(name)[split], (release, split)
    web = datasets.load_dataset("webperson", data_dir=str(root / "WebPerson"), cache_dir=str(tmp_path))["train"]
    assert len(web) == 40 and web[0]["image"].size == (32, 96)


def test_the_bytes_depend_on_the_arguments_alone(root, tmp_path):
    write_synthetic_releases(tmp_path / "again", sizes=SIZES, num_proc=2)
    assert digests(tmp_path / "again") == digests(root)
    other = ReleaseSizes(webperson_images=40, cuhk_pedes_train=17, rstpreid_test=7)
    write_synthetic_releases(tmp_path / "other", sizes=other)
    before, after = digests(root), digests(tmp_path / "other")
    for name, digest in before.items():
        if name.startswith(("WebPerson/data", "ICFG-PEDES/imgs", "RSTPReid/imgs")):
            assert after[name] == digest
    write_synthetic_releases(tmp_path / "seed", sizes=SIZES, seed=1)
    assert not set(digests(tmp_path / "seed").values()) & {
        digest for name, digest in before.items() if name.endswith((".jpg", ".parquet"))
    }


def test_no_identity_is_in_two_domains_or_splits():
    identities = [
        identity for domain in DOMAINS for identity in _identities(domain, SIZES.persons(domain), 0, (96, 32))
    ]
    drawn = [(identity.split, identity.index) for identity in identities]  # the sampler's own numbers
    assert len(drawn) == len(set(drawn)) > 100
    for domain in DOMAINS:
        numbers = [identity.number for identity in identities if identity.domain == domain]
        assert numbers == list(range(len(numbers)))


def test_domains_differ_in_tint_sharpness_and_garments(root):
    def pictures(release: str) -> np.ndarray:
        files = sorted((root / release / "imgs").rglob("*.jpg"))
        return np.stack([np.asarray(Image.open(file), dtype=float) for file in files])

    red, green, blue = (pictures(release).mean(axis=(0, 1, 2)) for release in BENCHMARKS.values())
    assert red[2] - red[0] > 10, "the winter cameras see blue"
    assert green[0] - green[2] > 20, "under yellow lamps"
    assert blue.mean() > max(red.mean(), green.mean()) + 10, "a bright summer"
    detail = {release: np.abs(np.diff(pictures(release), axis=2)).mean() for release in BENCHMARKS.values()}
    assert detail["ICFG-PEDES"] < detail["CUHK-PEDES"] < detail["RSTPReid"]
    captions = {
        release: " ".join(caption for entry in raw(root, release, name) for caption in entry["captions"]).lower()
        for release, name in (("CUHK-PEDES", "reid_raw.json"), ("RSTPReid", "data_captions.json"))
    }
    assert captions["RSTPReid"].count("coat") == 0 < captions["CUHK-PEDES"].count("coat")


def test_a_root_is_reused_and_another_one_is_left_alone(root, tmp_path):
    before = (root / MARKER).stat().st_mtime_ns
    write_synthetic_releases(root, sizes=SIZES)
    assert (root / MARKER).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="was drawn with"):
        write_synthetic_releases(root, sizes=SIZES, seed=2)
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam")
    with pytest.raises(FileExistsError, match="contains other files"):
        write_synthetic_releases(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"webperson_images": 0}, "webperson_images must be 1 or more, got 0"),
        ({"rstpreid_test": 1.5}, "rstpreid_test must be a whole number, got 1.5"),
        ({"webperson_images": 2, "webperson_shards": 3}, "webperson_shards = 3 is more than webperson_images = 2"),
    ],
)
def test_sizes_out_of_range_are_refused(fields, error):
    with pytest.raises(ValueError, match=error):
        ReleaseSizes(**fields)


def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path):
    for wrong in ({"num_proc": 0}, {"seed": -1}, {"image_size": (32, 96)}):
        with pytest.raises(ValueError):
            write_synthetic_releases(tmp_path / "root", **wrong)
    assert not list(tmp_path.iterdir())
