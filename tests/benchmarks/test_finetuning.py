"""The comparison of fine-tuning with and without pre-training says what its runs say, also where it disappoints."""

from pathlib import Path

from benchmarks.finetuning.run import report, summary


ROOT = Path(__file__).parents[2]


def run(r1: float) -> dict:
    return {
        "text_to_image": {"r1": r1, "r5": 60.0, "r10": 70.0, "map": 50.0},
        "counts": {"captions": 2100, "images": 1050, "identities": 300},
        "training": {"config": {"training": {"num_train_epochs": 8.0}}},
    }


def test_means_gains_and_losses_are_told():
    cells = [
        {"training": "finetune-cuhk_pedes", "benchmark": "cuhk_pedes", "runs": [run(40.0), run(44.0), run(30.0)]},
        {"training": "finetune-only-cuhk_pedes", "benchmark": "cuhk_pedes", "runs": [run(30.0), run(32.0), run(31.0)]},
        {"training": "pretrain", "benchmark": "cuhk_pedes", "runs": [run(1.0), run(3.0), run(2.0)]},
    ]
    text = report({"command": "c", "machine": {"cpu": "m", "cores": 2}, **summary(cells)})
    assert "| pre-trained, fine-tuned | 38.00 ± 7.21 | 60.00 ± 0.00 |" in text
    assert "| fine-tuned from random weights | 31.00 ± 1.00 |" in text
    assert "by seed: +10.00, +12.00, -1.00; mean 7.00 ± 7.00 points" in text
    assert "better for 2 of 3 seeds" in text
    assert "the pre-trained models had an R@1 of 1.00, 3.00, 2.00:" in text
