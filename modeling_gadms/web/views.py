"""HTML fragments and frames that the web demo shows. All text from files and users is escaped."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw

from ..explain.caption_tokens import Explanation, score_colour
from ..gallery.contact_sheet import place_and_time
from ..gallery.maintenance import GalleryInfo
from ..gallery.person_gallery import SearchResult
from ..indexing.isolation import load_frame
from ..indexing.jobs import IndexJob, JobState
from ..media.images import IMAGE_SUFFIXES, to_jpeg
from ..media.names import unescape_name
from ..media.video import VIDEO_SUFFIXES


MAX_FRAME = 20_000
"""Highest frame number that is shown. Videos are decoded from the beginning, because seeking is inexact."""
_BOX_COLOUR = (255, 196, 0)


def result_label(result: SearchResult) -> str:
    """Return the label of a thumbnail: score, camera and time."""
    seen = f"{result.time:%Y-%m-%d %H:%M:%S}" if result.time else place_and_time(result)
    parts = [f"{result.score:.3f}", result.camera or Path(result.source).name, seen]
    return " · ".join(part for part in parts if part)


def facts_html(result: SearchResult) -> str:
    """Render all data of a result as a table."""
    track = result.track_summary
    facts = {
        "Score": f"{result.score:.3f}",
        "Camera": result.camera,
        "Time": f"{result.time:%Y-%m-%d %H:%M:%S} UTC" if result.time else None,
        "Source": result.source,
        "Place": place_and_time(result) or None,
        "Track": f"{track.persons} crops" + _span(track.start_seconds, track.end_seconds) if track else None,
        "Detector": f"{result.box.confidence:.2f}" if result.box else None,
        **result.columns,
        "Id": result.id,
    }
    return _table({name: str(value) for name, value in facts.items() if value is not None})


def tokens_html(explanation: Explanation) -> str:
    """Render a caption with each token on a background colour that shows its score."""
    pieces = []
    for token in explanation.tokens:
        space = " " if token.starts_word else ""
        pieces.append(
            f'{space}<span class="token" title="{token.score:.2f}" style="background: rgb{score_colour(token.score)}">'
            f"{escape(token.text)}</span>"
        )
    scale = "The darker a word, the more relevant it is to this image (GASS)."
    if len({token.score for token in explanation.tokens}) == 1:
        scale = "All words are equally relevant to this image (GASS)."
    scores = ", ".join(f"{escape(token.text)} {token.score:.2f}" for token in explanation.tokens)
    return (
        f'<p class="caption">{"".join(pieces)}</p><p>Cosine similarity {explanation.similarity:.3f}. {scale}</p>'
        f'<p class="for-readers">{scores}</p>'
    )


def figure_html(image: Image.Image, caption: str) -> str:
    """Render an image with a caption, which also serves as its text alternative."""
    content = base64.b64encode(to_jpeg(image.convert("RGB"), 88)).decode()
    text = escape(caption)
    return f'<figure><img src="data:image/jpeg;base64,{content}" alt=""><figcaption>{text}</figcaption></figure>'


def jobs_html(jobs: Sequence[IndexJob]) -> str:
    """Render the indexing jobs with their state and progress."""
    if not jobs:
        return "<p>Nothing has been added yet.</p>"
    rows = [
        f"<tr><td>{escape(Path(job.source).name)}</td><td>{job.created:%Y-%m-%d %H:%M} UTC</td>"
        f"<td>{job.state.value}</td><td>{_progress(job)}</td></tr>"
        for job in jobs
    ]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Source", "Added", "State", "Progress"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def status_html(info: GalleryInfo) -> str:
    """Render the contents of a gallery. Of a local model only the folder's name is shown, not its path."""
    path = Path(info.model.name)
    model = replace(info.model, name=path.name) if path.is_absolute() else info.model
    cameras = ", ".join(f"{name} ({count:,})" for name, count in info.cameras.items())
    return _table(
        {
            "Persons": f"{info.persons:,}",
            "Tracks": f"{info.tracks:,}",
            "Sources": f"{len(info.sources):,}",
            "Cameras": cameras or "none named",
            "Size": f"{info.size_bytes / 1e6:,.1f} MB",
            "In the vector index": f"{info.indexed_persons:,}; the others are scanned",
            "Changed": f"{info.changed:%Y-%m-%d %H:%M}",
            "Model": str(model),
        }
    )


def frame_with_box(result: SearchResult, folders: Sequence[Path]) -> Image.Image | None:
    """Return the frame of a result with the person's box drawn, or `None` if it is not available.

    Only files below `folders` are shown, because a user may have chosen the source's name.
    """
    path = _file_of(result.source, folders)
    if path is None:
        return None
    try:
        suffix = path.suffix.lower()
        is_shown = suffix in IMAGE_SUFFIXES if result.frame is None else suffix in VIDEO_SUFFIXES
        frame = load_frame(path, result.frame) if is_shown and (result.frame or 0) <= MAX_FRAME else None
    except (ValueError, OSError):  # the file has changed since it was indexed
        return None
    if frame is not None and result.box is not None:
        box = result.box
        line = max(2, frame.width // 250)
        ImageDraw.Draw(frame).rectangle((box.left, box.top, box.right, box.bottom), outline=_BOX_COLOUR, width=line)
    return frame


def _file_of(source: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        path = (folder / unescape_name(source)).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    return None


def _progress(job: IndexJob) -> str:
    if job.state == JobState.FAILED:
        return escape(job.error or "")
    if job.report is not None:
        report = job.report
        skipped = sum(report.skipped.values())
        return f"{report.persons:,} persons from {report.used:,} images" + (
            f", {skipped:,} skipped" if skipped else ""
        )
    if job.progress is None:
        return ""
    progress = job.progress
    text = f"{progress.found:,} persons in {progress.seen:,}"
    if not progress.expected:
        return f"{text} images"
    label = f"Progress of {escape(Path(job.source).name)}"
    bar = f'<progress value="{progress.seen}" max="{progress.expected}" aria-label="{label}"></progress>'
    return f"{bar} {text} of {progress.expected:,} images"


def _span(start: float | None, end: float | None) -> str:
    return "" if start is None or end is None else f", {start:.1f} to {end:.1f} s"


def _table(rows: dict[str, str]) -> str:
    lines = [f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows.items()]
    return f"<table><tbody>{''.join(lines)}</tbody></table>"
