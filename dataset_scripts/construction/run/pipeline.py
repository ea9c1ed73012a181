"""The construction pipeline: web images in, captioned persons out.

    fetch -> read -> decode -> detect -> box -> pose -> keypoints -> crop -> quality -> signature    (shard by shard)
    compare all persons                                                                              (all shards)
    duplicates -> template -> caption -> verify -> match, repeated for failed captions -> publish    (shard by shard)

To resume a run, run it again: finished shards are skipped.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_gadms.encoders.atomic_files import atomic_file, file_digest, write_atomically

from ..blocks import Block
from ..captions.caption import AskCaptioner, Attempt, DrawTemplate, VerifyCaption, load_templates
from ..captions.match import MatchCaption
from ..captions.prompts import prompt_hash
from ..persons.criteria import BoxCriteria, PoseCriteria
from ..persons.crop import CropPersons
from ..persons.decode import DecodeImages
from ..persons.detect import DetectPersons
from ..persons.duplicates import DUPLICATE, DropDuplicates, MeasureSignature, write_duplicates
from ..persons.estimate_pose import EstimatePose
from ..persons.quality import MeasureQuality
from ..pipeline_report import PERSONS, BlockCounts, sum_counts
from ..shards import RunFolderError, StageFolder, fingerprint, lock_folder, remove_leftovers
from ..sources.fetch import fetch_images
from ..sources.opt_out import DropOptedOut
from ..sources.opt_out_list import OptOutList
from ..sources.planning import Plan, SourceSettings, plan_shards
from .card import write_card, write_report
from .config import BuildConfig
from .engines import Resources, run_local
from .ray_engine import run_ray
from .review import draw_review
from .stages import CaptionStage, LostRowsError, PersonStage, data_file, journal_folder, persons_file, stage_counts


DUPLICATES_FILE = "work/duplicates.parquet"
REVIEW_FILE = "work/review.png"
FORMAT = 1
"""Part of all fingerprints; raised when the same settings would give other rows."""


@dataclass(frozen=True)
class BuildReport:
    """Result of a run.

    Attributes:
        root (`Path`): folder of the run, which `load_dataset` can load.
        counts (`tuple[BlockCounts, ...]`): counts per block, over all shards.
        persons (`int`): persons in the data set; without captioners, persons ready to be captioned.
    """

    root: Path
    counts: tuple[BlockCounts, ...]
    persons: int


def person_blocks(config: BuildConfig) -> list[Block]:
    """Blocks of the stage `persons`. Cheap filters come before expensive models."""
    opt_out = [DropOptedOut(Path(config.run.opt_out))] if config.run.opt_out else []
    blocks: list[Block] = [
        *opt_out,
        DecodeImages(),
        DetectPersons(config.detector),
        BoxCriteria(config.criteria),
        EstimatePose(config.pose),
        PoseCriteria(config.criteria),
        CropPersons(config.crop, config.criteria.keypoint_score),
        MeasureQuality(config.quality),
        MeasureSignature(),
    ]
    return _with_batch_sizes(blocks, config)


def caption_blocks(config: BuildConfig) -> list[Block]:
    """Blocks of the stage `captions`."""
    blocks: list[Block] = [DropDuplicates(config.root / DUPLICATES_FILE)]
    for column, captioner in config.captioners.items():
        for number in range(1, config.captions.attempts + 1):
            attempt = Attempt(column, number, config.captions.attempts)
            blocks += [
                DrawTemplate(attempt, config.captions),
                AskCaptioner(attempt, config.captions, captioner, journal_folder(config.root)),
                VerifyCaption(attempt, config.rules),
            ]
            if config.match.model:
                blocks.append(MatchCaption(attempt, config.match))
    if asking := [block for block in blocks if isinstance(block, AskCaptioner) and block.attempt.number == 1]:
        asking[0].companions = asking[1:]
    return _with_batch_sizes(blocks, config)


def build_webperson(config: BuildConfig, *, progress: bool = True) -> BuildReport:
    """Run the pipeline, or resume an interrupted run.

    Args:
        config (`BuildConfig`): the run.
        progress (`bool`): show progress bars.

    Returns:
        `BuildReport`

    Raises:
        RunFolderError: if the output folder is in use, or contains a run with other settings or sources.
        FileNotFoundError, ValueError: if a source is missing or empty.
        BlockError: if a block fails: an error of the program, its settings or the server of a captioner.
        ImportError, ChatConfigurationError: if a model cannot be loaded or a captioner cannot be reached.
    """
    _check_resources(config)
    with lock_folder(config.root):
        remove_leftovers(config.root)
        sources = [_fetched(source, config) for source in config.sources.values()]
        plan = plan_shards(sources, config.run.images_per_shard)
        _check_plan(plan, config.root)
        numbers = range(len(plan.shards))

        persons = _person_stage(plan, config)
        counts, _ = _run(persons, numbers, config, progress)

        with tqdm(total=1, desc="duplicates", unit="comparison", disable=not progress) as bar:
            _compare_persons(config, len(numbers), persons.folder.fingerprint)
            bar.update()

        if not (config.root / REVIEW_FILE).is_file():
            write_review(config.root)
        if not config.captioners:
            duplicates = pq.read_metadata(config.root / DUPLICATES_FILE).num_rows
            remaining = counts[-1].kept - duplicates
            dropped = {DUPLICATE: duplicates} if duplicates else {}
            counts.append(BlockCounts(DropDuplicates.name, PERSONS, counts[-1].kept, remaining, dropped))
            return BuildReport(config.root, tuple(counts), remaining)

        captions = _caption_stage(plan, config, persons.folder.fingerprint)
        caption_counts, captioned = _run(captions, numbers, config, progress)
        counts += caption_counts
        # Journals can remain if a crash came right after a shard was finished.
        shutil.rmtree(journal_folder(config.root), ignore_errors=True)

        report = BuildReport(config.root, tuple(counts), _published(counts, config, len(numbers)))
        if captioned or not (config.root / "README.md").is_file():
            write_review(config.root)
        write_report(config.root, report.counts)
        write_card(config, report.counts)
        return report


def write_review(root: Path) -> None:
    """Write `work/review.png`: persons kept and dropped, with the reasons."""
    with atomic_file(root / REVIEW_FILE) as part:
        draw_review(root).save(part)


def _person_stage(plan: Plan, config: BuildConfig) -> PersonStage:
    settings = fingerprint(
        FORMAT,
        plan.digest,
        config.run.images_per_shard,
        config.run.thumbnail_height,
        file_digest(Path(config.run.opt_out)) if config.run.opt_out else None,
        *(asdict(section) for section in (config.detector, config.pose, config.criteria, config.crop, config.quality)),
    )
    folder = StageFolder(config.root, "persons", settings)
    return PersonStage(
        folder, plan.shards, tuple(person_blocks(config)), config.run.thumbnail_height, config.crop.blur_faces
    )


def _caption_stage(plan: Plan, config: BuildConfig, persons: str) -> CaptionStage:
    settings = fingerprint(
        persons,
        asdict(config.duplicates),
        {name: _without_transport(asdict(captioner)) for name, captioner in config.captioners.items()},
        asdict(load_templates(config.captions)),
        asdict(config.captions),
        prompt_hash(config.captions.max_words),
        asdict(config.rules),
        asdict(config.match),
    )
    folder = StageFolder(config.root, "captions", settings)
    columns, blocks = tuple(config.captioners), tuple(caption_blocks(config))
    return CaptionStage(folder, len(plan.shards), columns, blocks, config.run.thumbnail_height)


def _without_transport(captioner: dict) -> dict:
    """The settings of a captioner that affect its replies: address and rate limits may change in a resumed run."""
    transport = {"base_url", "api_key_env", "concurrency", "requests_per_minute", "timeout_seconds", "max_retries"}
    transport |= {"python", "tensor_parallel_size", "gpu_memory_utilization"}
    return {name: value for name, value in captioner.items() if name not in transport}


def _run(
    stage: PersonStage | CaptionStage, numbers: Sequence[int], config: BuildConfig, progress: bool
) -> tuple[list[BlockCounts], int]:
    """Process the unfinished shards. Returns the counts of all shards, and how many were processed."""
    finished = {number: marker for number in numbers if (marker := stage.folder.read_marker(number))}
    pending = [number for number in numbers if number not in finished]
    if config.run.engine == "ray":
        run_ray(stage, pending, config.resources, progress=progress)
    else:
        run_local(stage, pending, workers=config.run.workers, progress=progress)
    return list(sum_counts(stage_counts(stage.folder, len(numbers), finished))), len(pending)


def _compare_persons(config: BuildConfig, shards: int, persons: str) -> None:
    path, marker = config.root / DUPLICATES_FILE, config.root / "work" / "duplicates.json"
    settings = fingerprint(persons, asdict(config.duplicates))
    if marker.is_file():
        # With other settings it is computed again; the fingerprint of the captions then differs too.
        done = json.loads(marker.read_text(encoding="utf-8"))
        if done["fingerprint"] == settings and path.is_file() and file_digest(path) == done["sha256"]:
            return
    with atomic_file(path) as part:
        write_duplicates([config.root / persons_file(number) for number in range(shards)], part, config.duplicates)
        digest = file_digest(part)
    write_atomically(marker, json.dumps({"fingerprint": settings, "sha256": digest}))


def _fetched(source: SourceSettings, config: BuildConfig) -> SourceSettings:
    """Fetch a table of URLs and return the source of its tars; other sources are returned unchanged."""
    if source.kind != "urls":
        return source
    folder = config.root / "work" / "fetched" / source.label
    opt_out = OptOutList.load(config.run.opt_out) if config.run.opt_out else None
    fetch_images(source.path, folder, config.fetch, opt_out)
    return replace(source, kind="tars", path=str(folder))


def _check_plan(plan: Plan, root: Path) -> None:
    path = root / "work" / "plan.json"
    now = {"digest": plan.digest, "shards": len(plan.shards)}
    if not path.is_file():
        write_atomically(path, json.dumps(now))
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != now:
        raise RunFolderError(
            f"{root} contains a run over other sources ({before['shards']} shards, now {len(plan.shards)}): files "
            "or images_per_shard have changed. Name another output folder, or remove this one"
        )


def _check_resources(config: BuildConfig) -> None:
    """Refuse settings without an effect: `batch_size` belongs to a block, the others to the process of its group."""
    blocks = [*person_blocks(config), *caption_blocks(config)]
    processes = {"read", "write", *(block.group or block.name for block in blocks)}
    group_of = {block.name: block.group for block in blocks}
    known = processes | group_of.keys()
    for name, chosen in config.resources.items():
        if name not in known:
            raise ValueError(f"section `resources` names {name!r}, which is not a block; blocks are {sorted(known)}")
        if chosen.batch_size is not None and name not in group_of:
            raise ValueError(f"`{name}` in section `resources` has no batch_size: name one of its blocks")
        if name not in processes and chosen != Resources(batch_size=chosen.batch_size):
            raise ValueError(
                f"`{name}` in section `resources` accepts only batch_size, because it shares the processes of "
                f"`{group_of[name]}`: set num_cpus, num_gpus and concurrency there"
            )


def _with_batch_sizes(blocks: list[Block], config: BuildConfig) -> list[Block]:
    for block in blocks:
        chosen = config.resources.get(block.name)
        if chosen and chosen.batch_size:
            block.batch_size = chosen.batch_size
    return blocks


def _published(counts: Sequence[BlockCounts], config: BuildConfig, shards: int) -> int:
    """Rows of the published files, which must be those that the account leaves."""
    rows = sum(pq.read_metadata(config.root / data_file(number, shards)).num_rows for number in range(shards))
    compared = next(place for place, block in enumerate(counts) if block.block == DropDuplicates.name)
    remaining = counts[compared - 1].kept - sum(sum(block.dropped.values()) for block in counts[compared:])
    if rows != remaining or counts[compared - 1].kept != counts[compared].seen:
        raise LostRowsError(f"{config.root}: {remaining} persons remain by the counts, but {rows} rows are published")
    return rows
