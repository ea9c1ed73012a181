"""The tables of the paper for `examples/reproduce.py`: published numbers, and the trainings of each row.

Published numbers are from arXiv 2509.09118 and the papers that it compares with; a cell without a known number is
empty. They are R@1 (mAP), text to image, in percent.
"""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from dataset_scripts.loading import BENCHMARKS
from dataset_scripts.synthetic_releases import ReleaseSizes
from modeling_gadms.encoders.atomic_files import atomic_file
from modeling_gadms.evaluation.reports import AggregatedReport


HERE = Path(__file__).parent
SIZES = {
    "ci": ReleaseSizes(webperson_images=80, webperson_shards=5),
    "demo": ReleaseSizes(
        webperson_images=8000,
        webperson_shards=5,
        cuhk_pedes_train=300,
        cuhk_pedes_validation=100,
        cuhk_pedes_test=300,
        icfg_pedes_train=300,
        icfg_pedes_test=300,
        rstpreid_train=250,
        rstpreid_validation=60,
        rstpreid_test=200,
    ),
}
# Overrides that make the drawn pre-training small enough for a test.
TINY = ("model.text_config={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2}",
        "model.vision_config={image_size: [96, 32], patch_size: 16, hidden_size: 32, intermediate_size: 64, "
        "num_hidden_layers: 1, num_attention_heads: 2}", "model.projection_dim=32", "model.vocab_size=600",
        "model.fusion_num_attention_heads=2", "model.fusion_intermediate_size=32")  # fmt: skip
STEPS = ("training.global_train_batch_size=8", "training.max_steps=6", "training.save_strategy=no",
         "training.eval_strategy=no", "training.load_best_model_at_end=false", "training.warmup_steps=1")  # fmt: skip
TITLES = {
    1: "Fine-tuned on each benchmark",
    2: "Direct transfer: pre-trained, never trained on the benchmark",
    3: "Scale of the pre-training data",
    4: "Ablation of token masking, direct transfer",
}


@dataclass(frozen=True)
class Training:
    """One training of a table.

    Args:
        name (`str`): name of its folder.
        stage (`str`): `pretrain` or `finetune`.
        benchmark (`str`, *optional*): builder of the data set to fine-tune on.
        overrides (`tuple[str, ...]`): settings as `section.key=value`, for examples/train.py.
        after (`Training`, *optional*): training whose model it starts from.
        data (`str`, *optional*, defaults to `"whole"`):
            `whole` for all of WebPerson, `part` for one of its five million pairs, or a fifth of the drawn data.
    """

    name: str
    stage: str
    benchmark: str | None = None
    overrides: tuple[str, ...] = ()
    after: "Training | None" = None
    data: str = "whole"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        label (`str`): first cell of the row.
        trainings (`dict[str, Training]`): training to measure, by benchmark.
        published (`dict[str, str]`): "R@1 (mAP)" or "R@1", by benchmark.
    """

    label: str
    trainings: dict[str, Training] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)


def _published(*values: str) -> dict[str, str]:
    return {name: value for name, value in zip(BENCHMARKS, values, strict=True) if value}


PUBLISHED = {
    "fine-tuned 5M": _published("77.60 (69.82)", "69.51 (42.30)", "71.25 (55.43)"),
    "fine-tuned 1M": _published("77.02 (69.65)", "69.07 (41.91)", "70.30 (54.89)"),
    "fine-tuned HAM-PEDES + RDE": _published("77.99 (69.72)", "69.95", "72.50"),
    "fine-tuned IRRA": _published("73.38 (66.13)", "63.46 (38.05)", "60.20 (47.17)"),
    "transfer 5M": _published("68.34 (60.22)", "54.64 (30.68)", "57.60 (42.00)"),
    "transfer HAM-PEDES": _published("70.15", "59.63", "58.85"),
    "transfer CLIP": _published("12.65 (11.15)", "6.67 (2.51)", "13.45 (10.31)"),
    "no masking": _published("56.75", "34.63", "45.50"),
    "noise cosine": _published("63.29", "43.39", "51.95"),
    "noise gass": _published("63.87", "44.02", "52.30"),
    "noise gass + mtp": _published("64.25", "44.39", "52.70"),
}
"""Numbers from arXiv 2509.09118 by row; the ablation uses half a million pairs."""

_ABLATION = (
    # label, published row, token_score, noise_masking, masked_token_prediction
    ("no masking", "no masking", "none", False, False),
    ("noise mask, cosine", "noise cosine", "cosine", True, False),
    ("noise mask, GASS", "noise gass", "gass", True, False),
    ("MTP, cosine", None, "cosine", False, True),
    ("MTP, GASS", None, "gass", False, True),
    ("noise mask + MTP, cosine", None, "cosine", True, True),
    ("noise mask + MTP, GASS (the method)", "noise gass + mtp", "gass", True, True),
    ("noise mask + MTP, random scores (control, not in the paper)", None, "random", True, True),
)


def table_rows(table: int, benchmarks: list[str]) -> list[Row]:
    """Return the rows of a table, with the trainings of each.

    Args:
        table (`int`): 1 to 4, see `TITLES`.
        benchmarks (`list[str]`): builders of the available benchmarks.

    Raises:
        ValueError: for another table.
    """
    if table not in TITLES:
        raise ValueError(f"there is no table {table}; choose one of {', '.join(map(str, TITLES))}")
    whole, part = Training("pretrain", "pretrain"), Training("pretrain-part", "pretrain", data="part")

    def everywhere(training: Training) -> dict[str, Training]:
        return dict.fromkeys(benchmarks, training)

    def tuned(after: Training | None, name: str) -> dict[str, Training]:
        return {
            benchmark: Training(f"{name}-{benchmark}", "finetune", benchmark, after=after) for benchmark in benchmarks
        }

    if table == 1:
        rows = [
            Row("HAM-PEDES 1M + RDE", {}, PUBLISHED["fine-tuned HAM-PEDES + RDE"]),
            Row("IRRA (CLIP)", {}, PUBLISHED["fine-tuned IRRA"]),
            Row("GA-DMS without pre-training on persons", tuned(None, "finetune-only")),
            Row("GA-DMS, WebPerson", tuned(whole, "finetune"), PUBLISHED["fine-tuned 5M"]),
        ]
    elif table == 2:
        rows = [
            Row("CLIP, no person data", {}, PUBLISHED["transfer CLIP"]),
            Row("HAM-PEDES 1M", {}, PUBLISHED["transfer HAM-PEDES"]),
            Row("GA-DMS, WebPerson", everywhere(whole), PUBLISHED["transfer 5M"]),
        ]
    elif table == 3:
        rows = [
            Row("WebPerson 1M, direct transfer", everywhere(part)),
            Row("WebPerson 5M, direct transfer", everywhere(whole), PUBLISHED["transfer 5M"]),
            Row("WebPerson 1M, fine-tuned", tuned(part, "finetune-part"), PUBLISHED["fine-tuned 1M"]),
            Row("WebPerson 5M, fine-tuned", tuned(whole, "finetune"), PUBLISHED["fine-tuned 5M"]),
        ]
    else:
        rows = []
        for label, published, score, noise, prediction in _ABLATION:
            overrides = (
                f"model.token_score={score}",
                f"model.noise_masking={str(noise).lower()}",
                f"model.masked_token_prediction={str(prediction).lower()}",
            )
            name = f"ablation-{score}{'-noise' * noise}{'-mtp' * prediction}"
            training = replace(whole, name=name, overrides=overrides)
            rows.append(Row(label, everywhere(training), PUBLISHED[published] if published else {}))
    return rows


def trainings_of(rows: list[Row]) -> list[Training]:
    """Return all trainings of a table once, each after the one that it starts from."""
    ordered: dict[str, Training] = {}
    for training in (training for row in rows for training in row.trainings.values()):
        for needed in (training.after, training):
            if needed is not None:
                ordered.setdefault(needed.name, needed)
    return list(ordered.values())


def format_table(table: int, rows: list[Row], ours: dict[tuple[str, str], AggregatedReport], note: str) -> str:
    """Return a table as Markdown, with our numbers beside the published ones.

    Args:
        table (`int`), rows (`list[Row]`): the table and its rows.
        ours (`dict`): measurements by name of the training and benchmark.
        note (`str`): text above the table.
    """
    benchmarks = list(dict.fromkeys(name for row in rows for name in (*row.trainings, *row.published)))
    heads = [f"{BENCHMARKS[name]} {whose}" for name in benchmarks for whose in ("published", "ours")]
    lines = [f"## Table {table}. {TITLES[table]}", "", note, ""]
    lines += ["| " + " | ".join(["", *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [row.label]
        for name in benchmarks:
            report = ours.get((row.trainings[name].name, name)) if name in row.trainings else None
            metrics = report.text_to_image if report else None
            cells += [row.published.get(name, ""), f"{metrics['r1']} ({metrics['map']})" if metrics else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "R@1 (mAP), text to image, in percent; ± is the deviation over seeds."])


def format_cross_domain(rows: list[Row], ours: dict[tuple[str, str], AggregatedReport]) -> str:
    """Return the results of every fine-tuned model on every benchmark as Markdown.

    Args:
        rows (`list[Row]`), ours (`dict`): see [`format_table`].
    """
    trained = list(dict.fromkeys(name for row in rows for name in row.trainings))
    lines = [
        "## Across benchmarks",
        "",
        "| fine-tuned on | " + " | ".join(BENCHMARKS[name] for name in trained) + " |",
    ]
    lines.append("|---" * (len(trained) + 1) + "|")
    for row in rows:
        for benchmark, training in row.trainings.items():
            metrics = [ours[training.name, name].text_to_image for name in trained]
            cells = [f"{row.label}: {BENCHMARKS[benchmark]}", *(f"{of['r1']} ({of['map']})" for of in metrics)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def part_of_webperson(folder: Path, part: Path) -> Path:
    """Copy the first shard of a drawn WebPerson, a fifth of it, to its own folder.

    Raises:
        FileNotFoundError: if `folder` has no such shard.
    """
    shard = next(folder.glob("data/train-00000-of-*.parquet"), None)
    if shard is None:
        raise FileNotFoundError(f"{folder} has no data/train-00000-of-*.parquet")
    target = part / "data" / "train-00000-of-00001.parquet"
    if not target.is_file():
        with atomic_file(target) as unfinished:
            shutil.copyfile(shard, unfinished)
    return part


def command(
    training: Training, root: Path, output: Path, folder: Path, after: Path | None, seed: int, size: str | None
) -> list[str]:
    """Return the program and the arguments that run a training.

    Args:
        training ([`Training`]): the training.
        root (`Path`), output (`Path`), folder (`Path`): folders of the data, of all results, and of this training.
        after (`Path`, *optional*): model to start from.
        seed (`int`): seed of the training.
        size (`str`, *optional*): size of drawn data; `None` with real data.
    """
    drawn, stage = size is not None, training.stage
    if stage == "pretrain":
        config = "reproduce_synthetic" if drawn else "webperson"
        webperson = root / "WebPerson"
        if training.data == "part" and drawn:
            webperson = output / "WebPerson-part"
        overrides = [f"data.dataset_args.data_dir={webperson}"] if drawn or webperson.is_dir() else []
        if training.data == "part" and not drawn:
            overrides = ["data.dataset_args.name=1m"]
    else:
        config = "reproduce_synthetic_finetune" if drawn else "finetune_benchmark"
        overrides = [f"data.dataset={training.benchmark}", f"data.dataset_args.data_dir={root}"]
        if training.benchmark == "icfg_pedes":
            overrides.append("data.dataset_args.name=holdout")
        if after:
            overrides.append(f"model.from_pretrained={after}")
        elif not drawn:
            overrides += ["model.from_clip=openai/clip-vit-base-patch16", "model.image_size=[384,128]"]
    if drawn and not after:
        overrides += [*(architecture() if stage == "finetune" else ()), *(TINY if size == "ci" else ())]
    if size == "ci":
        overrides += STEPS
    settings = [*overrides, *training.overrides, f"training.seed={seed}", f"training.output_dir={folder}"]
    return ["train.py", "--config", str(HERE / "configs" / f"{config}.yaml"), "--resume", *settings]


def architecture() -> list[str]:
    """Return the model settings of the drawn pre-training, for fine-tuning from random weights."""
    model = yaml.safe_load((HERE / "configs" / "reproduce_synthetic.yaml").read_text(encoding="utf-8"))["model"]
    return [f"model.{key}={json.dumps(value)}" for key, value in model.items()]
