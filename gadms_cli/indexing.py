"""The commands `gadms index` and `gadms gallery add`, which add the persons of sources to a gallery."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from .options import RUNTIME_HELP, GalleryArgument, GalleryModelOption, GalleryOption, ModelOption
from .printing import print_json
from .user_errors import user_errors


if TYPE_CHECKING:
    from modeling_gadms.gallery.person_gallery import PersonGallery
    from modeling_gadms.indexing.indexer import IndexReport, SourceOptions
    from modeling_gadms.media.video import FrameSource

SourceOption = Annotated[
    list[str],
    typer.Option(
        help="Folder of images, video, WebDataset archive (.tar), or table (.csv, .parquet, .jsonl) with a column "
        "image, url or image_path; repeatable."
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
BatchOption = Annotated[int, typer.Option(help="Number of persons embedded at once.", min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
WorkersOption = Annotated[
    int,
    typer.Option(help="Number of sources indexed in parallel, each by its own process; more than 1 needs Ray.", min=1),
]


@user_errors()
def index(
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
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional column as name:type, such as price:float; the type is string, integer, float, boolean or "
            "time; repeatable."
        ),
    ] = None,
    batch_size: BatchOption = 64,
    workers: WorkersOption = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing gallery.")] = False,
    runtime: Annotated[str, typer.Option(help=RUNTIME_HELP)] = "torch",
    as_json: JsonOption = False,
) -> None:
    """Embed the persons of folders, videos, archives or tables into a new gallery.

    \b
    gadms index --source persons/ --gallery my_gallery --model my_model
    gadms index --source cctv.mp4 --gallery my_gallery --model my_model --per-second 2 --camera gate-2
    gadms index --source products.csv --gallery my_shop --model my_model --column price:float
    """
    from modeling_gadms.encoders.loading import load_model_and_processor
    from modeling_gadms.gallery.person_gallery import PersonGallery
    from modeling_gadms.indexing.indexer import SourceOptions

    # Invalid sources must fail before an existing gallery is replaced.
    options = SourceOptions(detect, every, per_second, crops_per_track, camera, start, batch_size)
    sources = [options.open(one) for one in source]
    columns = _parse_columns(column or [])
    loaded, processor = load_model_and_processor(model, runtime=runtime)
    made = PersonGallery.create(gallery, loaded, processor, columns=columns, overwrite=overwrite)
    _index(made, source, sources, options, min_confidence, workers, model, as_json)
    if len(made) == 0:
        raise ValueError(f"No person was found in {', '.join(source)}; the gallery {gallery} is empty")
    if not as_json:
        typer.echo(f'Now try: gadms search --gallery {gallery} "a person in a red jacket"')


@user_errors()
def add(
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
    batch_size: BatchOption = 64,
    workers: WorkersOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Add the persons of more sources to a gallery, or repeat an interrupted run: existing persons are skipped.

    \b
    gadms gallery add my_gallery --source gate3.mp4 --per-second 2 --camera gate-3 --start "2026-11-25 08:00"
    """
    from modeling_gadms.gallery.person_gallery import open_with_model
    from modeling_gadms.indexing.indexer import SourceOptions

    options = SourceOptions(detect, every, per_second, crops_per_track, camera, start, batch_size)
    sources = [options.open(one) for one in source]
    opened, _ = open_with_model(gallery, model)
    _index(opened, source, sources, options, min_confidence, workers, model, as_json)


def _index(
    gallery: "PersonGallery",
    names: list[str],
    sources: "list[FrameSource]",
    options: "SourceOptions",
    min_confidence: float,
    workers: int,
    model: str | None,
    as_json: bool,
) -> None:
    from modeling_gadms.indexing.indexer import SourceIndexer
    from modeling_gadms.indexing.ray_indexing import index_with_ray
    from modeling_gadms.media import detection

    box_filter = detection.PersonBoxFilter(min_confidence=min_confidence)
    reports: Iterator[IndexReport | str]
    if workers == 1:
        indexer = SourceIndexer(gallery, lambda: detection.SsdMobileNetDetector(box_filter=box_filter))
        reports = (indexer(frames, options) for frames in sources)  # each is printed before the next is made
    else:
        by_name = index_with_ray(
            gallery.location, names, workers=workers, model=model, options=options, box_filter=box_filter
        )
        reports = (by_name[name] for name in names)
    failed = []
    for name, report in zip(names, reports, strict=True):
        if isinstance(report, str):
            failed.append(f"{name}: {report}")
        elif as_json:
            print_json({"source": name, **asdict(report)})
        else:
            typer.echo(f"{name}: {report}" if len(names) > 1 else str(report))
    if failed:
        raise ValueError(f"{len(failed)} of {len(names)} sources failed: {'; '.join(failed)}")


def _parse_columns(columns: list[str]) -> dict[str, str]:
    """Parse additional columns written as `name:type`."""
    declared = {}
    for text in columns:
        name, colon, kind = text.partition(":")
        if not colon:
            raise ValueError(f"The column {text!r} has no type: write it as name:type, such as price:float")
        declared[name] = kind
    return declared
