"""The commands `gadms index` and `gadms gallery add`, which add the persons of sources to a gallery."""

import inspect
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .options import RUNTIME_HELP, GalleryArgument, GalleryModelOption, GalleryOption, ModelOption
from .printing import print_json
from .user_errors import LEFT_OUT, StopRequest, stop_requests, user_errors


if TYPE_CHECKING:
    from modeling_gadms.gallery.person_gallery import PersonGallery
    from modeling_gadms.indexing.indexer import BrokenSourceError, IndexReport, SourceOptions
    from modeling_gadms.media.detection import PersonBoxFilter
    from modeling_gadms.media.video import FrameSource

    Sources: TypeAlias = dict[str, FrameSource | BrokenSourceError]

SourceOption = Annotated[
    list[str],
    typer.Option(
        help="Folder of images, video, WebDataset archive (.tar), or table (.csv, .tsv, .parquet, .jsonl) with a "
        "column image, image_path or url; repeatable."
    ),
]
EveryOption = Annotated[int, typer.Option(help="Read every n-th image or frame.")]
PerSecondOption = Annotated[float | None, typer.Option(help="Number of frames of a video to read per second.")]
DetectOption = Annotated[
    bool | None,
    typer.Option(
        "--detect/--no-detect",
        help="Detect the persons in full frames, or treat each image as one person. By default persons are detected "
        "in videos only.",
    ),
]
ConfidenceOption = Annotated[float, typer.Option(help="Minimum confidence of a detected person, from 0 to 1.")]
CropsOption = Annotated[
    int,
    typer.Option(
        help="Number of crops to keep of each track (one person followed through a video); 0: keep all, no tracking.",
        min=0,
    ),
]
CameraOption = Annotated[str | None, typer.Option(help="Name of the camera, for filters.")]
StartOption = Annotated[
    datetime | None,
    typer.Option(
        help="Time of the video's first frame, in UTC.",
        formats=["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"],
    ),
]
AllowAddressOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Address and port, such as 10.0.0.5:80, that URLs of a table may lead to although it is not public; "
        "repeatable."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        help="Name of the source in the gallery, in place of its full path: what is added under the same name again "
        "is the same source."
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        help="Column that identifies the rows of a table, such as a product number; by default the path or URL of the "
        "image."
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        help="Encoding of a table of text, such as latin-1; by default UTF-8, or as its byte order mark says."
    ),
]
BatchOption = Annotated[int, typer.Option(help="Number of persons embedded at once.", min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
WorkersOption = Annotated[
    int,
    typer.Option(help="Number of sources indexed in parallel, each by its own process; more than 1 needs Ray.", min=1),
]


@user_errors()
def index(
    context: typer.Context,
    source: SourceOption,
    gallery: GalleryOption,
    model: ModelOption,
    every: EveryOption = 1,
    per_second: PerSecondOption = None,
    detect: DetectOption = None,
    min_confidence: ConfidenceOption = 0.5,
    crops_per_track: CropsOption = 3,
    camera: CameraOption = None,
    start: StartOption = None,
    name: NameOption = None,
    key: KeyOption = None,
    encoding: EncodingOption = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional column as name:type, such as price:float; the type is string, integer, float, boolean or "
            "time; repeatable."
        ),
    ] = None,
    batch_size: BatchOption = 64,
    workers: WorkersOption = 1,
    allow_address: AllowAddressOption = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an existing gallery, in one step at the end: it can be searched until then, and stays as it "
            "is if the command fails. An interrupted command goes on with the persons found so far when repeated.",
        ),
    ] = False,
    image_fit: Annotated[
        str | None,
        typer.Option(
            help="How images are brought to the size that the model reads: squash, pad or crop; by default what suits "
            "the model. The gallery keeps it."
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help=RUNTIME_HELP)] = "torch",
    as_json: JsonOption = False,
) -> None:
    """Embed the persons of folders, videos, archives or tables into a new gallery. What cannot be read is counted and
    left out; the exit code is then 3. At Ctrl-C the persons found so far are kept.

    \b
    gadms index --source persons/ --gallery my_gallery --model my_model
    gadms index --source cctv.mp4 --gallery my_gallery --model my_model --per-second 2 --camera gate-2
    gadms index --source products.csv --gallery my_shop --model my_model --column price:float
    """
    from modeling_gadms.encoders.loading import load_model_and_processor
    from modeling_gadms.gallery.person_gallery import PersonGallery
    from modeling_gadms.indexing.indexer import SourceOptions

    video = (detect, every, per_second, crops_per_track, camera, start)
    options = SourceOptions(*video, batch_size, name, key, encoding, tuple(allow_address or ()))
    sources = _open_sources(source, options)
    columns = {name: kind for frames in sources.values() for name, kind in getattr(frames, "columns", {}).items()}
    columns |= _parse_columns(column or [])
    loaded, processor = load_model_and_processor(model, runtime=runtime, image_fit=image_fit)
    work = (options, min_confidence, workers, model, as_json)
    if overwrite:
        places = [name if "://" in name else os.path.abspath(name) for name in source]
        resume = json.dumps([places, asdict(options), min_confidence], default=str)
        with PersonGallery.rebuild(gallery, loaded, processor, columns=columns, resume=resume) as new:
            left_out = _index(new, sources, *work, lambda *_: _replacement_kept(gallery, new))
    else:
        new = PersonGallery.create(gallery, loaded, processor, columns=columns)
        left_out = _index(new, sources, *work, _to_go_on(context, gallery))
        if not len(new):
            raise ValueError(f"No person was found in {', '.join(source)}; the gallery {gallery} is empty")
    if not as_json:
        typer.echo(f'Now try: gadms search --gallery {shlex.quote(gallery)} "a person in a red jacket"')
    _end(left_out)


@user_errors()
def add(
    context: typer.Context,
    gallery: GalleryArgument,
    source: SourceOption,
    model: GalleryModelOption = None,
    every: EveryOption = 1,
    per_second: PerSecondOption = None,
    detect: DetectOption = None,
    min_confidence: ConfidenceOption = 0.5,
    crops_per_track: CropsOption = 3,
    camera: CameraOption = None,
    start: StartOption = None,
    name: NameOption = None,
    key: KeyOption = None,
    encoding: EncodingOption = None,
    batch_size: BatchOption = 64,
    workers: WorkersOption = 1,
    allow_address: AllowAddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the persons of more sources to a gallery, or repeat an interrupted run: existing persons are skipped. What
    cannot be read is counted and left out; the exit code is then 3. At Ctrl-C the persons found so far are kept.

    \b
    gadms gallery add my_gallery --source gate3.mp4 --per-second 2 --camera gate-3 --start "2026-11-25 08:00"
    """
    from modeling_gadms.gallery.person_gallery import open_with_model
    from modeling_gadms.indexing.indexer import SourceOptions

    video = (detect, every, per_second, crops_per_track, camera, start)
    options = SourceOptions(*video, batch_size, name, key, encoding, tuple(allow_address or ()))
    sources = _open_sources(source, options)
    opened, _ = open_with_model(gallery, model)
    kept = _to_go_on(context, gallery)
    _end(_index(opened, sources, options, min_confidence, workers, model, as_json, kept))


def _open_sources(names: list[str], options: "SourceOptions") -> "Sources":
    """Open sources before the work starts. Some may be broken, but not all."""
    from modeling_gadms.indexing.indexer import BrokenSourceError

    if options.name is not None and len(names) > 1:
        raise ValueError(
            f"--name ({options.name}) is for one source, and {len(names)} are given: add them one after another"
        )
    opened: Sources = {}
    for name in names:
        try:
            opened[name] = options.open(name)
        except BrokenSourceError as broken:
            opened[name] = broken
    broken_ones = {name: source for name, source in opened.items() if isinstance(source, BrokenSourceError)}
    if len(broken_ones) == len(opened):
        raise _nothing_read(broken_ones)
    return opened


def _index(
    gallery: "PersonGallery",
    sources: "Sources",
    options: "SourceOptions",
    min_confidence: float,
    workers: int,
    model: str | None,
    as_json: bool,
    kept: Callable[[int, list[str]], str],
) -> str:
    """Index sources and print their reports.

    Args:
        kept: what to say if the run ends early, from the number of persons added and the sources not finished.

    Returns:
        `str`: what could not be read, such as "1 of 2 sources and 3 images"; empty if everything could.
    """
    from modeling_gadms.gallery.records import counted
    from modeling_gadms.indexing.indexer import BrokenSourceError
    from modeling_gadms.media.detection import PersonBoxFilter
    from modeling_gadms.media.names import escape_name

    before, unfinished = len(gallery), list(sources)
    broken: dict[str, BrokenSourceError] = {}
    seen = unread = 0
    box_filter = PersonBoxFilter(min_confidence=min_confidence)
    try:
        # Workers of Ray cannot be asked to stop; they are ended, and lose the work of 30 seconds.
        with stop_requests() if workers == 1 else nullcontext(StopRequest()) as stop:
            for name, result in _reports(gallery, sources, options, box_filter, workers, model, stop):
                if isinstance(result, BrokenSourceError):
                    report, problem = result.report, result.problem
                    broken[name] = result
                else:
                    report, problem = result, None
                seen += report.seen
                unread += report.unread
                shown = escape_name(name)
                if as_json:
                    content = {"source": shown, **asdict(report), "error": problem}
                    print_json(content)
                elif report.seen:
                    typer.echo(f"{shown}: {report}" if len(sources) > 1 else str(report))
                if problem is not None and (report.seen or len(sources) > 1):
                    typer.echo(f"Left out: {name}: {result}", err=True)
                if report.cancelled and stop.signal:
                    raise typer.Exit(128 + stop.signal)
                unfinished.remove(name)
        if len(broken) == len(sources) and not seen:
            raise _nothing_read(broken)
    except BaseException:
        if text := kept(len(gallery) - before, unfinished):
            typer.echo(text, err=True)
        raise
    left_out = [f"{len(broken)} of {counted(len(sources), 'source')}"] if broken else []
    left_out += [counted(unread, "image")] if unread else []
    return " and ".join(left_out)


def _end(left_out: str) -> None:
    """End a run that is done, with an exit code of its own if something was left out."""
    if left_out:
        typer.echo(f"Warning: could not be read: {left_out}; the exit code is {LEFT_OUT}", err=True)
        raise typer.Exit(LEFT_OUT)


def _reports(
    gallery: "PersonGallery",
    sources: "Sources",
    options: "SourceOptions",
    box_filter: "PersonBoxFilter",
    workers: int,
    model: str | None,
    stop: StopRequest,
) -> "Iterator[tuple[str, IndexReport | BrokenSourceError]]":
    """Index one source after the other, or all by Ray."""
    from modeling_gadms.indexing.indexer import BrokenSourceError, SourceIndexer
    from modeling_gadms.indexing.ray_indexing import index_with_ray
    from modeling_gadms.media import detection

    if workers > 1:
        yield from index_with_ray(
            gallery.location, list(sources), workers=workers, model=model, options=options, box_filter=box_filter
        ).items()
        return
    indexer = SourceIndexer(gallery, lambda: detection.SsdMobileNetDetector(box_filter=box_filter))
    for name, frames in sources.items():
        result: IndexReport | BrokenSourceError
        try:
            if isinstance(frames, BrokenSourceError):
                raise frames
            result = indexer(frames, options, cancelled=lambda: bool(stop))
        except BrokenSourceError as broken:
            result = broken
        yield name, result


def _nothing_read(broken: "Mapping[str, BrokenSourceError]") -> ValueError:
    if len(broken) == 1:
        return ValueError(str(*broken.values()))
    problems = "; ".join(f"{name}: {problem}" for name, problem in broken.items())
    return ValueError(f"None of the {len(broken)} sources can be read: {problems}")


def _replacement_kept(gallery: str, new: "PersonGallery") -> str:
    """What to say if a run that replaces a gallery ends early."""
    from modeling_gadms.gallery.records import counted

    text = f"The gallery {gallery} is as it was"
    if persons := len(new):
        kept = f"{counted(persons, 'person')} of the new one {'is' if persons == 1 else 'are'} kept in {new.location}"
        text += f"; {kept}: to go on, repeat the command"
    return text


def _to_go_on(context: typer.Context, gallery: str) -> Callable[[int, list[str]], str]:
    """What to say if a run that adds to a gallery ends early: what is kept, and the command that goes on."""
    from modeling_gadms.gallery.records import counted

    repeated = inspect.signature(add).parameters.keys() - {"context", "gallery", "source", "as_json"}
    options: list[str] = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name)
        value = context.params.get(option.name)
        if option.name not in repeated or source is None or source.name != "COMMANDLINE":
            continue
        if isinstance(value, bool):
            options.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            values = value if isinstance(value, list) else [value]
            options += [word for each in values for word in (option.opts[0], str(each))]

    def kept(persons: int, unfinished: list[str]) -> str:
        if not persons:
            return ""
        sources = [word for name in unfinished for word in ("--source", name)]
        command = shlex.join(["gadms", "gallery", "add", gallery, *sources, *options])
        go_on = f"; to go on: {command}" if unfinished else ""
        return f"Kept: {counted(persons, 'person')} of this run in the gallery {gallery}{go_on}"

    return kept


def _parse_columns(columns: list[str]) -> dict[str, str]:
    """Parse additional columns written as `name:type`."""
    declared = {}
    for text in columns:
        name, colon, kind = text.partition(":")
        if not colon:
            raise ValueError(f"The column {text!r} has no type: write it as name:type, such as price:float")
        declared[name] = kind
    return declared
