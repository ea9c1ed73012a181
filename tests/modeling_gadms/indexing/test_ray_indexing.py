"""Sources indexed in parallel by Ray Data, into one gallery."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from modeling_gadms.gallery.person_gallery import PersonGallery
from modeling_gadms.indexing.indexer import BrokenSourceError, SourceOptions
from modeling_gadms.indexing.ray_indexing import _report, _worker, index_with_ray
from modeling_gadms.media.detection import PersonBoxFilter
from tests.command_line import refusal, run


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Three folders of four images each."""
    rng = np.random.default_rng(0)
    made = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = rng.integers(0, 256, (40, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
        made.append(str(tmp_path / name))
    return made


@pytest.mark.slow
def test_workers_write_one_gallery_and_one_that_fails_does_not_stop_the_others(tmp_path, folders, model, processor):
    parallel = PersonGallery.create(tmp_path / "parallel", model, processor)
    options = SourceOptions(camera="gate-1")
    sources = [*folders, str(tmp_path / "nowhere")]
    reports = index_with_ray(parallel.location, sources, workers=2, options=options)
    missing = reports.pop(sources[-1])
    assert isinstance(missing, BrokenSourceError) and "nowhere does not exist" in str(missing)
    assert {(report.seen, report.persons, report.already_there) for report in reports.values()} == {(4, 4, 0)}

    alone = PersonGallery.create(tmp_path / "alone", model, processor)
    again = index_with_ray(alone.location, folders, workers=1, options=options)
    assert set(again) == set(folders)
    found, expected = (gallery.search("a man in a red coat", 20) for gallery in (parallel, alone))
    assert [result.id for result in found] == [result.id for result in expected]
    assert {result.camera for result in found} == {"gate-1"}

    # The same sources once more, and by the command: everybody is there already.
    common = [part for folder in folders for part in ("--source", folder)]
    result = run("gallery", "add", tmp_path / "parallel", *common, "--workers", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("4 persons were already in the gallery") == 3
    assert len(PersonGallery.open(tmp_path / "parallel")) == 12


def test_a_worker_tells_of_a_broken_source_what_was_read_and_goes_on(tmp_path, folders, model, processor):
    gallery = PersonGallery.create(tmp_path / "g", model, processor)
    damaged = tmp_path / "damaged-\udcff.tar"  # a name that is not UTF-8
    with tarfile.open(damaged, "w") as archive:
        for number in range(3):
            archive.add(f"{folders[0]}/{number}.png", f"{number}.png")
    damaged.write_bytes(damaged.read_bytes()[: 2 * 512 + 2 * 3072])
    worker = _worker(gallery.location, [str(damaged), folders[1]], None, SourceOptions(), PersonBoxFilter())()
    broken, whole = (_report(worker({"number": number})) for number in range(2))
    assert isinstance(broken, BrokenSourceError) and "cannot be read" in broken.problem
    assert 1 <= broken.report.persons == broken.report.seen < 3
    assert (whole.persons, len(PersonGallery.open(gallery.location))) == (4, 4 + broken.report.persons)


def test_a_pool_of_none_is_refused(tmp_path, folders):
    with pytest.raises(ValueError, match="workers must be 1 or more, not 0"):
        index_with_ray(str(tmp_path / "g"), folders, workers=0)
    result = run("gallery", "add", tmp_path / "g", "--source", folders[0], "--workers", 0)
    assert (result.exit_code, "--workers" in result.stderr) == (2, True)


def test_sources_that_are_not_there_are_told_before_workers_start(tmp_path, model_folder):
    missing = ["--source", tmp_path / "nowhere", "--source", tmp_path / "nothing"]
    message = refusal("index", *missing, "--gallery", tmp_path / "g", "--model", model_folder, "--workers", 2)
    assert "None of the 2 sources can be read" in message and "nowhere does not exist" in message
    assert not (tmp_path / "g").exists()
