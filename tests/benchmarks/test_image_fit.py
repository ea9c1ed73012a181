"""The benchmark of image fits: photographs as in training, and a small run of the whole."""

from argparse import Namespace

import numpy as np
from PIL import Image

from benchmarks.image_fit.run import FITS, SIDE, TRAINED, main, photograph, square, verdict
from benchmarks.measuring import read_results


def test_a_photograph_is_nearly_square_and_shows_the_person_whole():
    person = Image.new("RGB", (32, 96), (255, 0, 255))
    rng = np.random.default_rng(0)
    for _ in range(20):
        made = photograph(person, rng)
        assert 3 / 4 - 0.02 <= made.width / made.height <= 4 / 3 + 0.02 and 96 <= made.height <= 192
        pixels = np.asarray(made)
        assert (pixels == (255, 0, 255)).all(axis=-1).sum() >= 32 * 96
        for trained in TRAINED:
            assert square(made, trained, rng).size == (SIDE, SIDE)


def test_the_verdict_names_the_fit_of_the_highest_map_over_both_sizes():
    def measured(**values):
        return {f"{fit} x{factor}": {"map": values[fit]} for fit in FITS for factor in (1, 4)}

    said = verdict({"squash": measured(squash=3, pad=2, crop=1), "crop": measured(squash=1, pad=1, crop=2)})
    assert said == "Highest mAP: squashed, as SigLIP: squash; square crops, as CLIP: crop."


def test_a_small_run_measures_every_fit(tmp_path, capsys):
    main(Namespace(quick=True, seed=0, output=tmp_path))
    trained = read_results("image_fit", tmp_path)["trained"]
    assert trained.keys() == TRAINED.keys()
    for measured in trained.values():
        assert all(0 < measured[f"{fit} x{factor}"]["map"] <= 100 for fit in FITS for factor in (1, 4))
    assert "| squashed, as SigLIP | pad |" in capsys.readouterr().out
