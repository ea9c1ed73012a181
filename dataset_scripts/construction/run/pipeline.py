"""The construction pipeline: web images in, captioned persons out.

    fetch -> read -> decode -> detect -> box -> pose -> keypoints -> crop -> quality -> signature    (shard by shard)
    compare all persons                                                                              (all shards)
    duplicates -> template -> caption -> verify -> match -> judge, repeated for failures -> publish  (shard by shard)

To resume a run, run it again: finished shards are skipped.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from ..blocks import Block
from ..captions.caption import AskCaptioner, Attempt, DrawTemplate, VerifyCaption, load_templates
from ..captions.judge import JudgeCaption
from ..captions.match import MatchCaption
from ..captions.prompts import judge_prompt_hash, prompt_hash
from ..captions.rules import RULES_VERSION
from ..failures import Failure, FailureLog
from ..persons.criteria import BoxCriteria, PoseCriteria
from ..persons.crop import CropPersons
from ..persons.decode import DecodeImages
from ..persons.detect import DetectPersons
from ..persons.duplicates import DUPLICATE, DropDuplicates, MeasureSignature, write_duplicates
from ..persons.estimate_pose import EstimatePose
from ..persons.quality import MeasureQuality
from ..pipeline_report import PERSONS, BlockCounts, shard_counts, sum_counts
from ..shards import RunFolderError, StageFolder, fingerprint, lock_folder, remove_leftovers
from ..sources.fetch import fetch_images
from ..sources.opt_out import DropOptedOut
from ..sources.opt_out_list import OptOutList
from ..sources.planning import Plan, SourceSettings, plan_shards
from ..storage import Location, atomic_file, file_digest, location, read_footer, write_atomically
from .card import CardFacts, write_card, write_report
from .config import BuildConfig
from .engines import Engine, Resources, run_local, run_shards
from .facts import RunFacts, without_secrets
from .ray_engine import run_ray
from .review import draw_review
from .stages import (
    CaptionStage,
    LostRowsError,
    PersonStage,
    data_file,
    journal_folder,
    persons_file,
    read_markers,
    stage_counts,
)


DUPLICATES_FILE = "work/duplicates.parquet"
REVIEW_FILE = "work/review.png"
FORMAT = 1
"""Part of all fingerprints; raised when the same settings would give other rows."""


@dataclass(frozen=True)
class BuildReport:
    """Result of a run.

    Attributes:
        root (`Path` or `RemotePath`): folder of the run, which `load_dataset` can load.
        counts (`tuple[BlockCounts, ...]`): counts per block, over all shards.
        persons (`int`): persons in the data set; without captioners, persons ready to be captioned.
        set_aside (`tuple[Failure, ...]`): shards that failed too often, which are left out. The data set is then not
            complete.
    """

    root: Location
    counts: tuple[BlockCounts, ...]
    persons: int
    set_aside: tuple[Failure, ...] = ()


def person_blocks(config: BuildConfig) -> list[Block]:
    """Blocks of the stage `persons`. Cheap filters come before expensive models."""
    opt_out = [DropOptedOut(location(config.run.opt_out))] if config.run.opt_out else []
    blocks: list[Block] = [
        *opt_out,
        DecodeImages(),
        DetectPersons(config.detector, *_beside_model(DetectPersons.name, config)),
        BoxCriteria(config.criteria),
        EstimatePose(config.pose, *_beside_model(EstimatePose.name, config)),
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
            if config.judge.enabled:
                blocks.append(JudgeCaption(attempt, config.judge, captioner, journal_folder(config.root)))
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
        BlockError: if too many shards fail, or all.
        SettingsError, ImportError: if a model cannot be loaded, or a captioner accepts no request.
        OutageError: if a captioner, the cluster or an object store is away: run again later.
    """
    _check_resources(config)
    with lock_folder(config.root):
        remove_leftovers(config.root)
        sources = [_fetched(source, config) for source in config.sources.values()]
        plan = plan_shards(sources, config.run.images_per_shard)
        _check_plan(plan, config.root)
        numbers = range(len(plan.shards))

        persons = _person_stage(plan, config)
        counts, set_aside, _ = _run(persons, numbers, config, progress)
        found = _without(numbers, set_aside)
        # What is a duplicate, and so which persons are captioned, depends on the shards that were compared.
        compared = fingerprint(persons.folder.fingerprint, found) if set_aside else persons.folder.fingerprint

        with tqdm(total=1, desc="duplicates", unit="comparison", disable=not progress) as bar:
            _compare_persons(config, found, compared)
            bar.update()

        if not (config.root / REVIEW_FILE).is_file():
            write_review(config.root)
        if not config.captioners:
            duplicates = read_footer(config.root / DUPLICATES_FILE).num_rows
            remaining = counts[-1].kept - duplicates
            dropped = {DUPLICATE: duplicates} if duplicates else {}
            counts.append(BlockCounts(DropDuplicates.name, PERSONS, counts[-1].kept, remaining, dropped))
            counts = [*shard_counts(persons.name, len(numbers), len(set_aside)), *counts]
            return BuildReport(config.root, tuple(counts), remaining, tuple(set_aside))

        captions = _caption_stage(plan, config, compared)
        caption_counts, uncaptioned, captioned = _run(captions, found, config, progress)
        captioned_shards = _without(found, uncaptioned)
        if not uncaptioned:
            # Journals can remain if a crash came right after a shard was finished.
            shutil.rmtree(journal_folder(config.root), ignore_errors=True)
        rows = _published(config, captioned_shards, len(numbers))
        _check_rows(counts, caption_counts, rows, config, uncaptioned)

        counts = [
            *shard_counts(persons.name, len(numbers), len(set_aside)),
            *counts,
            *shard_counts(captions.name, len(found), len(uncaptioned)),
            *caption_counts,
        ]
        report = BuildReport(config.root, tuple(counts), rows, (*set_aside, *uncaptioned))
        if captioned or not (config.root / "README.md").is_file():
            write_review(config.root)
        write_report(config.root, report.counts)
        write_card(config.root, CardFacts.of(config), report.counts)
        if not report.set_aside:  # only a complete run can be merged with others
            settings = _person_settings(config) | _caption_settings(config) | {"card": asdict(config.card)}
            fingerprints = {stage.name: stage.folder.fingerprint for stage in (persons, captions)}
            RunFacts(without_secrets(settings), fingerprints, CardFacts.of(config)).write(config.root)
        return report


def write_review(root: Location) -> None:
    """Write `work/review.png`: persons kept and dropped, with the reasons."""
    with atomic_file(root / REVIEW_FILE) as part:
        draw_review(root).save(part)


def _person_stage(plan: Plan, config: BuildConfig) -> PersonStage:
    run = config.run
    settings = fingerprint(plan.digest, run.images_per_shard, run.thumbnail_height, _person_settings(config))
    folder = StageFolder(config.root, "persons", settings)
    return PersonStage(
        folder, plan.shards, tuple(person_blocks(config)), config.run.thumbnail_height, config.crop.blur_faces
    )


def _caption_stage(plan: Plan, config: BuildConfig, persons: str) -> CaptionStage:
    folder = StageFolder(config.root, "captions", fingerprint(persons, _caption_settings(config)))
    columns, blocks = tuple(config.captioners), tuple(caption_blocks(config))
    return CaptionStage(folder, len(plan.shards), columns, blocks, config.run.thumbnail_height)


def _person_settings(config: BuildConfig) -> dict[str, Any]:
    """Everything that persons depend on, apart from the sources."""
    sections = ("detector", "pose", "criteria", "crop", "quality")
    return {
        "format": FORMAT,
        "opt_out": file_digest(location(config.run.opt_out)) if config.run.opt_out else None,
        **{name: asdict(getattr(config, name)) for name in sections},
    }


def _caption_settings(config: BuildConfig) -> dict[str, Any]:
    """Everything that captions depend on, apart from the persons."""
    return {
        **{name: asdict(getattr(config, name)) for name in ("duplicates", "captions", "rules", "match")},
        "captioners": {name: _without_transport(asdict(captioner)) for name, captioner in config.captioners.items()},
        "templates": fingerprint(asdict(load_templates(config.captions))),
        "prompt": prompt_hash(config.captions.max_words),
        "rules_version": RULES_VERSION,
        "judge": asdict(config.judge) | {"prompt": judge_prompt_hash()} if config.judge.enabled else None,
    }


def _without_transport(captioner: dict) -> dict:
    """The settings of a captioner that affect its replies: address and rate limits may change in a resumed run."""
    transport = {"base_url", "api_key_env", "concurrency", "requests_per_minute", "timeout_seconds", "max_retries"}
    transport |= {"python", "tensor_parallel_size", "gpu_memory_utilization"}
    return {name: value for name, value in captioner.items() if name not in transport}


def _run(
    stage: PersonStage | CaptionStage, numbers: Sequence[int], config: BuildConfig, progress: bool
) -> tuple[list[BlockCounts], list[Failure], int]:
    """Process the unfinished shards.

    Returns:
        The counts of all finished shards, the shards that are set aside, and how many were to be processed.
    """
    finished = read_markers(stage.folder, numbers)
    pending = [number for number in numbers if number not in finished]
    if config.run.engine == "ray":
        engine: Engine = partial(run_ray, resources=config.resources)
    else:
        engine = partial(run_local, workers=config.run.workers, progress=progress)
    log = FailureLog(config.root, stage.name)
    for failure in log.all():
        if failure.number in finished:  # by a run that was killed before it could forget
            log.forget(failure.number)
    set_aside = run_shards(
        engine,
        stage,
        pending,
        log,
        max_failed=config.run.max_failed_shards,
        has_finished=bool(finished),
        progress=progress,
    )
    for failure in set_aside:
        stage.discard(failure.number)
    counts = list(sum_counts(stage_counts(stage.folder, _without(numbers, set_aside), finished)))
    return counts, set_aside, len(pending)


def _without(numbers: Sequence[int], set_aside: Sequence[Failure]) -> list[int]:
    left_out = {failure.number for failure in set_aside}
    return [number for number in numbers if number not in left_out]


def _compare_persons(config: BuildConfig, shards: Sequence[int], persons: str) -> None:
    path, marker = config.root / DUPLICATES_FILE, config.root / "work" / "duplicates.json"
    settings = fingerprint(persons, asdict(config.duplicates))
    if marker.is_file():
        # With other settings it is computed again; the fingerprint of the captions then differs too.
        done = json.loads(marker.read_text(encoding="utf-8"))
        if done["fingerprint"] == settings and path.is_file() and file_digest(path) == done["sha256"]:
            return
    with atomic_file(path) as part:
        write_duplicates([config.root / persons_file(number) for number in shards], part, config.duplicates)
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


def _check_plan(plan: Plan, root: Location) -> None:
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


def _beside_model(name: str, config: BuildConfig) -> tuple[int | None, int]:
    """Batch size of a detector or pose estimator, and the threads that prepare its images."""
    chosen = config.resources.get(name, Resources())
    return chosen.batch_size, max(1, math.ceil(chosen.num_cpus or 1))


def _with_batch_sizes(blocks: list[Block], config: BuildConfig) -> list[Block]:
    for block in blocks:
        chosen = config.resources.get(block.name)
        if chosen and chosen.batch_size and not isinstance(block, DetectPersons | EstimatePose):
            block.batch_size = chosen.batch_size
    return blocks


def _published(config: BuildConfig, numbers: Sequence[int], shards: int) -> int:
    """Rows of the published files."""
    return sum(read_footer(config.root / data_file(number, shards)).num_rows for number in numbers)


def _check_rows(
    persons: Sequence[BlockCounts],
    captions: Sequence[BlockCounts],
    rows: int,
    config: BuildConfig,
    uncaptioned: Sequence[Failure],
) -> None:
    """Check that the published rows are those that the counts leave: all persons, but those of shards set aside."""
    lost = sum(read_footer(config.root / persons_file(failure.number)).num_rows for failure in uncaptioned)
    remaining = persons[-1].kept - lost - sum(sum(block.dropped.values()) for block in captions)
    if rows != remaining or captions[0].seen != persons[-1].kept - lost:
        raise LostRowsError(f"{config.root}: {remaining} persons remain by the counts, but {rows} rows are published")
