"""The arithmetic of building WebPerson from all of COYO-700M: the tables of `docs/scaling-webperson.md`.

    python -m benchmarks.scaling.run                 # print them
    python -m benchmarks.scaling.run --update        # write them into the document
    python -m benchmarks.scaling.run --set fetched_share=0.5 gpu_dollars_per_hour=3.29

Every number that goes in is a field of `Inputs` in `plan.py`, with its source: a publication, a measurement of
this project's, or an assumption, which is called one.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import fields, replace

from benchmarks.measuring import ROOT
from benchmarks.scaling.plan import Inputs, Plan


DOCUMENT = ROOT / "docs/scaling-webperson.md"
GPUS = (1, 8, 64)
ROWS_PER_TAR = (1_000, 10_000, 100_000)


def tables(inputs: Inputs) -> dict[str, str]:
    """All tables, in Markdown, by their names in the document."""
    plan = Plan(inputs)
    return {
        "inputs": _inputs_table(inputs),
        "yield": _yield_table(plan),
        "work": _work_table(plan),
        "shards": _shards_table(inputs),
        "storage": _storage_table(plan),
        "one-machine": _one_machine_table(plan),
        "cost": _cost_table(plan),
        "time": _time_table(plan),
        "sensitivity": _sensitivity_table(inputs),
    }


def _inputs_table(inputs: Inputs) -> str:
    rows = [
        [f"`{given.name}`", f"{getattr(inputs, given.name):,} {given.metadata['unit']}", given.metadata["source"]]
        for given in fields(inputs)
    ]
    return _table(["input", "value", "source"], rows, left=3)


def _yield_table(plan: Plan) -> str:
    urls = plan.inputs.urls
    rows = [
        ("URLs", "urls", urls),
        ("images fetched", "urls x fetched_share", plan.images),
        ("persons found", "images x boxes_per_image", plan.boxes),
        ("poses estimated", "persons x posed_per_kept", plan.posed),
        ("persons kept", "persons", plan.inputs.persons),
        ("requests to each captioner", "persons x attempts", plan.requests),
    ]
    return _table(
        ["", "formula", "number", "of URLs"],
        [[name, f"`{formula}`", f"{value:,.0f}", f"{100 * value / urls:.2f} %"] for name, formula, value in rows],
        left=2,
    )


def _work_table(plan: Plan) -> str:
    given = plan.inputs
    rows = [
        ("fetch", "urls / rows_per_fetcher", given.rows_per_fetcher, plan.fetch_hours, "machine"),
        ("decode, bring to size", "images x (2 decode + prepare)", 1000 * plan.images / (plan.core_hours * 3.6e6),
         plan.core_hours, "core"),
        ("detect", "images / detections", given.detections, plan.detect_hours, "GPU"),
        ("pose", "posed / poses", given.poses, plan.pose_hours, "GPU"),
        ("caption, 7B", "requests / captions_7b", given.captions_7b, plan.caption_hours_7b, "GPU"),
        ("caption, 32B", "requests / captions_32b", plan.captions_32b, plan.caption_hours_32b, "GPU"),
    ]  # fmt: skip
    lines = [
        [name, f"`{formula}`", f"{rate:,.4g}", f"{hours:,.0f} {unit}-hours"]
        for name, formula, rate, hours, unit in rows
    ]
    lines.append(["GPUs in all", "", "", f"{plan.gpu_hours:,.0f} GPU-hours"])
    return _table(["step", "formula", "rows/s of one", "time"], lines, left=2)


def _shards_table(inputs: Inputs) -> str:
    rows = []
    for size in ROWS_PER_TAR:
        plan = Plan(replace(inputs, rows_per_tar=size))
        images = size * inputs.fetched_share
        files = 3 * plan.tars  # of fetching: tar, failures, marker; as many for persons, and for captions
        rows.append(
            [
                f"{size:,}",
                f"{plan.tars:,}",
                f"{images * inputs.image_kb / 1e3:,.0f} MB",
                f"{3 * files:,}",
                f"{inputs.persons / plan.tars:,.1f}",
                f"{images / inputs.detections / 60:,.1f} min",
            ]
        )
    headings = ["rows_per_tar", "shards", "images of a shard", "files in all", "persons of a published file",
                "GPU time of a lost shard"]  # fmt: skip
    return _table(headings, rows)


def _storage_table(plan: Plan) -> str:
    rows = [
        ("fetched images, all", "images x image_kb", 1000 * plan.fetched_tb),
        ("fetched images, one of the table's files", "the same / table_files", plan.part_gb),
        ("persons before captions (`work/persons`)", "persons x crop_kb", plan.crops_gb),
        ("the data set (`data`)", "persons x crop_kb", plan.crops_gb),
        ("rejected rows (`work/rejects`)", "(urls - images + max(images, boxes)) x reject_bytes", plan.rejects_gb),
        ("their thumbnails, unless `thumbnail_height: 0`", "(boxes - persons) x thumbnail_kb", plan.thumbnails_gb),
        ("markers", "2 tars x marker_kb", 2 * plan.tars * plan.inputs.marker_kb / 1e6),
    ]
    return _table(
        ["", "formula", "GB"], [[name, f"`{formula}`", _amount(value)] for name, formula, value in rows], left=2
    )


def _one_machine_table(plan: Plan) -> str:
    given, parts = plan.inputs, plan.inputs.table_files
    url_gb = given.urls * given.hash_bytes / 1e9
    judge_hours = given.urls * given.judge_us / 3.6e9
    person_gb = given.persons * given.compare_bytes / 1e9
    digest_minutes = (2 * plan.crops_gb + plan.rejects_gb) / given.digest_gb / 60
    rows = [
        ("URLs compared, whole table: memory", "urls x hash_bytes", f"{url_gb:,.0f} GB"),
        ("the same, one of the table's files", "the same / table_files", f"{url_gb / parts:,.1f} GB"),
        ("rows judged again when fetching goes on, whole table", "urls x judge_us", f"{judge_hours:,.1f} h"),
        ("the same, one of the table's files", "the same / table_files", f"{60 * judge_hours / parts:,.1f} min"),
        ("persons compared: memory", "persons x compare_bytes", f"{person_gb:,.1f} GB"),
        ("the same: time", "persons x (compare_us + persons / 2 x compare_ns)", f"{plan.compare_hours:,.1f} h"),
        ("files checked when a run goes on", "(2 crops + rejects) / digest_gb", f"{digest_minutes:,.0f} min"),
        ("the same, one of the table's files", "the same / table_files", f"{60 * digest_minutes / parts:,.0f} s"),
    ]  # fmt: skip
    lines = [[name, f"`{formula}`", value] for name, formula, value in rows]
    return _table(["", "formula", "on one machine"], lines, left=2)


def _cost_table(plan: Plan) -> str:
    given = plan.inputs
    fetch_cores = plan.fetch_hours * given.fetcher_cores
    rows = [
        ("detect and pose", f"{plan.detect_hours + plan.pose_hours:,.0f} GPU-h",
         (plan.detect_hours + plan.pose_hours) * given.gpu_dollars_per_hour),
        ("caption, 7B", f"{plan.caption_hours_7b:,.0f} GPU-h", plan.caption_hours_7b * given.gpu_dollars_per_hour),
        ("caption, 32B", f"{plan.caption_hours_32b:,.0f} GPU-h", plan.caption_hours_32b * given.gpu_dollars_per_hour),
        ("fetch", f"{fetch_cores:,.0f} core-h", fetch_cores * given.core_dollars_per_hour),
        ("decode, bring to size", f"{plan.core_hours:,.0f} core-h", plan.core_hours * given.core_dollars_per_hour),
        ("storage, a month, 8 parts at a time", f"{2 * plan.crops_gb + plan.rejects_gb + 8 * plan.part_gb:,.0f} GB",
         plan.storage_dollars),
        ("in all", "", plan.dollars),
    ]  # fmt: skip
    return _table(["", "amount", "$"], [[name, amount, f"{dollars:,.0f}"] for name, amount, dollars in rows])


def _time_table(plan: Plan) -> str:
    rows = []
    for gpus in GPUS:
        days = plan.gpu_hours / gpus / 24
        fetchers = math.ceil(plan.fetch_hours / (24 * days))
        images = plan.images / (days * 86_400)
        rows.append(
            [
                f"{gpus}",
                f"{days:,.1f} days",
                f"{fetchers}",
                f"{8e-6 * images * plan.inputs.image_kb:,.2f} Gbit/s",
                f"{math.ceil(plan.core_hours / (24 * days))}",
            ]
        )
    return _table(["GPUs", "time", "machines that fetch", "bandwidth of all", "cores that decode"], rows)


def _sensitivity_table(inputs: Inputs) -> str:
    changes: list[tuple[str, dict[str, float]]] = [
        ("as above", {}),
        ("half of the URLs are gone", {"fetched_share": 0.5}),
        ("five of six URLs answer", {"fetched_share": 0.85}),
        ("detector half as fast", {"detections": inputs.detections / 2}),
        ("RT-DETR R18 (217 images/s by the same source)", {"detections": 217}),
        ("detector four times as fast, as an A100's FP16 is a T4's", {"detections": 4 * inputs.detections}),
        ("twice as many persons", {"persons": 2 * inputs.persons}),
        ("captions half as fast", {"captions_7b": inputs.captions_7b / 2, "captions_72b": inputs.captions_72b / 2}),
        ("both captioners in 4 bits (3.0 and 0.8 by the same sources)", {"captions_7b": 3.0, "captions_72b": 0.8}),
        ("every caption asked for twice", {"attempts": 2}),
        ("GPU at twice the price", {"gpu_dollars_per_hour": 2 * inputs.gpu_dollars_per_hour}),
    ]
    rows = []
    for name, change in changes:
        plan = Plan(replace(inputs, **change))  # type: ignore[arg-type]
        rows.append([name, f"{plan.gpu_hours:,.0f}", f"{plan.dollars:,.0f}", f"{plan.gpu_hours / 24 / GPUS[-1]:,.1f}"])
    return _table(["", "GPU-hours", "$ in all", f"days on {GPUS[-1]} GPUs"], rows)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:,.1f}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    lines = [headings, [*[":--"] * left, *["--:"] * (len(headings) - left)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def update(text: str, inputs: Inputs) -> str:
    """A document with its tables, each between `<!-- table NAME -->` and `<!-- end -->`, written anew.

    Raises:
        ValueError: if a table has no place in it.
    """
    for name, content in tables(inputs).items():
        before, begin, rest = text.partition(f"<!-- table {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"the document has no place for the table {name}")
        text = f"{before}{begin}{content}\n{end}{after}"
    return text


def main(arguments: argparse.Namespace) -> None:
    """Print the tables, or write them into the document."""
    inputs = Inputs()
    for change in arguments.set:
        name, _, value = change.partition("=")
        if name not in {given.name for given in fields(Inputs)}:
            raise SystemExit(f"{name!r} is no input; they are in the first table")
        inputs = replace(inputs, **{name: type(getattr(inputs, name))(float(value))})
    if arguments.update:
        DOCUMENT.write_text(update(DOCUMENT.read_text(encoding="utf-8"), inputs), encoding="utf-8")
        return
    for name, content in tables(inputs).items():
        print(f"{name}\n\n{content}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=[], metavar="input=value", help="other inputs than the document's")
    parser.add_argument("--update", action="store_true", help="write the tables into the document")
    main(parser.parse_args())
