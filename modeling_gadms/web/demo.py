"""The web demo: search a gallery by description, see why, and add videos. `examples/demo.py` starts it."""

import hashlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..encoders.query_checks import query_remarks
from ..explain.caption_tokens import explain_caption
from ..explain.image_patches import draw_heat_map, image_relevance
from ..gallery.filter import literal
from ..gallery.person_gallery import PersonGallery, Query, SearchResult
from ..indexing.indexer import SourceOptions
from ..indexing.jobs import UPLOAD_SUFFIXES, VIDEO_SUFFIXES, IndexJobs, JobsFullError, safe_name
from ..media.detection import PersonDetector, SsdMobileNetDetector
from ..modeling_gadms import GADMSModel
from ..processing_gadms import GADMSProcessor
from .views import facts_html, frame_with_box, jobs_html, label_of, picture_html, status_html, tokens_html


NOTICE = (
    "**Permitted use.** Search only recordings that you may lawfully search, for a purpose that the persons in them "
    "were told of. Do not use it to follow or identify individuals without a legal basis, nor to judge anybody: a "
    "result is a likeness of clothes, often wrong, and no evidence of who somebody is."
)
MAX_FRAMES = 36_000
POLL_SECONDS = 0.5
_ANY_CAMERA = "Any"
# Fonts of the reader's own machine: nothing is asked of another server.
THEME = gr.themes.Default(
    primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(
    # White on the theme's own orange is hard to read, and so is its small print.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)
CSS = """
.gradio-container { max-width: 1100px !important; }
#results .grid-wrap, #track .grid-wrap {
  height: auto !important; min-height: 0 !important; max-height: none !important;
}
#results .grid-container, #track .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) !important;
}
#results .caption-label, #track .caption-label { white-space: normal; max-width: 100%; }
.caption { font-size: 1.2rem; line-height: 2.2; }
.token { color: #1c1c1e; padding: 2px 5px; border-radius: 4px; }
.for-readers { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
table { border-collapse: collapse; width: 100%; overflow-wrap: anywhere; }
th, td { text-align: left; padding: 4px 10px 4px 0; vertical-align: top; }
.or { color: var(--body-text-color) !important; }
button[role=tab].selected { color: var(--body-text-color) !important; }
figure { margin: 0; }
figure img { max-width: 100%; max-height: 420px; }
figcaption { opacity: 0.85; }
th { white-space: nowrap; }
progress { width: 8rem; accent-color: #d9480f; }
"""


class Demo:
    """The page and what its controls do.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        model ([`GADMSModel`]), processor ([`GADMSProcessor`]): the gallery's.
        uploads (`Path`, *optional*): folder in which added videos are kept, so that their frames can be shown.
            Without it nothing can be added, as is right for a page that strangers see.
        media (`Sequence[Path]`): further folders whose files may be shown.
        detector (`Callable[[], PersonDetector]`): makes what finds persons in videos.
    """

    def __init__(
        self,
        gallery: PersonGallery,
        model: GADMSModel,
        processor: GADMSProcessor,
        *,
        uploads: Path | None,
        media: Sequence[Path] = (),
        detector: Callable[[], PersonDetector] = SsdMobileNetDetector,
    ):
        self.gallery, self.model, self.processor = gallery, model, processor
        self.uploads = uploads
        self.folders = [*media]
        if uploads is not None:
            uploads.mkdir(parents=True, exist_ok=True)
            self.folders.append(uploads)
        self.jobs = IndexJobs(gallery, detector, max_frames=MAX_FRAMES)
        self.page = self._page()

    # -----------------------------------------------------------------------------------------------------------------
    # What the controls do.
    # -----------------------------------------------------------------------------------------------------------------
    def search(
        self,
        text: str,
        without: str,
        image: Image.Image | None,
        camera: str,
        where: str,
        top_k: float,
        group: bool,
    ) -> tuple[Any, ...]:
        """Persons for a description, a picture or both: pictures with labels, the results, and what to say."""
        unwanted = [part.strip() for part in (without or "").split(",") if part.strip()]
        text = (text or "").strip()
        if not text and image is None:
            return self._shown([], "Describe a person, or give a picture.")
        return self._answer(Query(text or None, image, without=unwanted), camera, where, top_k, group)

    def more_like(self, results: list[SearchResult], chosen: int | None, top_k: float, group: bool) -> tuple[Any, ...]:
        """Others like the person that is looked at."""
        if chosen is None or chosen >= len(results):
            return self._shown(results, "Choose a person first.")
        return self._answer(Query(like=results[chosen].id), _ANY_CAMERA, "", top_k, group)

    def look_at(self, results: list[SearchResult], text: str, event: gr.SelectData) -> tuple[Any, ...]:
        """One result: its frame, its track, what is known of it, and why it was found."""
        index = int(event.index)
        result = results[index]
        crop = Image.open(io.BytesIO(result.thumbnail))
        frame = frame_with_box(result, self.folders)
        crops = self.gallery.crops(result.source, result.track) if result.track is not None else []
        tokens, heat = "<p>Describe a person to see which words and which parts of the picture count.</p>", ""
        if text and text.strip():
            tokens = tokens_html(explain_caption(self.model, self.processor, crop, text))
            scores = image_relevance(self.model, self.processor, crop, text).scores
            heat = picture_html(draw_heat_map(crop, scores), "The parts that carry the similarity (Grad-ECLIP)")
        where = "The frame, with the person's box" if frame and result.box else "The picture"
        return (
            index,
            gr.update(visible=True),
            picture_html(frame or crop, where if frame else "The person; the frame is not on this machine"),
            facts_html(result),
            tokens,
            heat,
            gr.update(value=[_picture(person, _moment(person)) for person in crops], visible=len(crops) > 1),
        )

    def add(self, file: str | None, camera: str, per_second: float) -> tuple[Any, str]:
        """Index a file; its name has its digest, so that two files of one name stay two."""
        if self.uploads is None:
            return gr.update(), "Nothing can be added here."
        if not file:
            return gr.update(), "Choose a video, a picture or a .tar of pictures first."
        try:
            name = safe_name(Path(file).name)
        except ValueError as error:
            return gr.update(value=None), f"Not added: {error}"
        with open(file, "rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
        path = self.uploads / digest / name
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, path)
        is_video = name.lower().endswith(VIDEO_SUFFIXES)
        options = SourceOptions(camera=camera.strip() or None, per_second=per_second if is_video else None)
        try:
            self.jobs.submit(path, options, root=self.uploads)
        except JobsFullError as error:
            return gr.update(), f"Not added: {error}"
        return gr.update(value=None), f"{name} is being added."

    def cancel(self) -> str:
        """Stop what is being added."""
        going = [job for job in self.jobs.all() if not job.state.is_over]
        for job in going:
            self.jobs.cancel(job.id)
        return "Stopping; what was found until now is kept." if going else "Nothing is being added."

    def cameras(self) -> Any:
        """The choices of the camera filter."""
        return gr.update(choices=[_ANY_CAMERA, *self.gallery.info().cameras])

    def close(self) -> None:
        """Stop indexing; what was found is kept."""
        self.jobs.close(30)

    def _answer(self, query: Query, camera: str, where: str, top_k: float, group: bool) -> tuple[Any, ...]:
        conditions = [f"camera = {literal(camera)}"] if camera and camera != _ANY_CAMERA else []
        conditions += [f"({where.strip()})"] if where and where.strip() else []
        try:
            results = self.gallery.search(
                query, int(top_k), where=" AND ".join(conditions) or None, group_tracks=bool(group)
            )
        except ValueError as error:
            return self._shown([], f"That cannot be searched for: {error}")
        if not results:
            return self._shown([], "Nobody in the gallery meets these conditions.")
        remarks = query_remarks(self.processor, query.text) if query.text else []
        return self._shown(results, " ".join([f"{len(results)} results, the most similar first.", *remarks]))

    def _shown(self, results: list[SearchResult], message: str) -> tuple[Any, ...]:
        pictures = [_picture(result, label_of(result)) for result in results]
        gallery = gr.update(value=pictures, visible=bool(results), selected_index=None)
        return gallery, results, message, None, gr.update(visible=False)

    # -----------------------------------------------------------------------------------------------------------------
    # The page.
    # -----------------------------------------------------------------------------------------------------------------
    def _page(self) -> gr.Blocks:
        with gr.Blocks(title="Find a person by description", analytics_enabled=False) as page:
            gr.Markdown("# Find a person by description")
            gr.Markdown(NOTICE, elem_id="notice")
            with gr.Tabs():
                with gr.Tab("Search", id="search"):
                    camera = self._search_tab()
                if self.uploads is not None:
                    with gr.Tab("Add", id="add"):
                        self._add_tab()
                with gr.Tab("Gallery", id="gallery") as tab:
                    status = gr.HTML(elem_id="status")
                    tab.select(lambda: status_html(self.gallery.info()), None, status, api_visibility="private")
            page.load(self.cameras, None, camera, api_visibility="private")
        return page

    def _search_tab(self) -> gr.Dropdown:
        results, chosen = gr.State([]), gr.State(None)
        with gr.Row():
            text = gr.Textbox(
                label="Description",
                placeholder="a woman in a red coat carrying a black backpack",
                max_length=1_000,
                scale=4,
                elem_id="description",
            )
            button = gr.Button("Search", variant="primary", scale=1, min_width=120, elem_id="search-button")
        with gr.Accordion("More ways to search, and filters", open=False):
            with gr.Row():
                image = gr.Image(
                    label="Picture of such a person", type="pil", sources=["upload", "clipboard"], height=220
                )
                with gr.Column():
                    without = gr.Textbox(label="Without", placeholder="a hat, a bag", max_length=300)
                    camera = gr.Dropdown([_ANY_CAMERA], value=_ANY_CAMERA, label="Camera")
                    where = gr.Textbox(
                        label="Filter", placeholder="time > '2026-11-25 08:00' AND confidence > 0.7", max_length=1_000
                    )
            with gr.Row():
                top_k = gr.Slider(1, 100, value=12, step=1, label="Results")
                group = gr.Checkbox(True, label="One result for each track")
        message = gr.Markdown("Describe a person to begin.", elem_id="message")
        found = _thumbnails("Persons found", "results", visible=False)
        with gr.Column(visible=False, elem_id="detail") as detail:
            with gr.Row():
                frame = gr.HTML(elem_id="frame")
                with gr.Column():
                    facts = gr.HTML(elem_id="facts")
                    like = gr.Button("More like this", elem_id="like-button")
            gr.Markdown("## Why")
            with gr.Row():
                tokens = gr.HTML(elem_id="tokens")
                heat = gr.HTML(elem_id="heat")
            track = _thumbnails("The same track", "track")
        asked = [text, without, image, camera, where, top_k, group]
        shown = [found, results, message, chosen, detail]
        gr.on([button.click, text.submit], self.search, asked, shown, api_visibility="private")
        found.select(
            self.look_at,
            [results, text],
            [chosen, detail, frame, facts, tokens, heat, track],
            api_visibility="private",
        )
        like.click(self.more_like, [results, chosen, top_k, group], shown, api_visibility="private")
        return camera

    def _add_tab(self) -> None:
        gr.Markdown(
            "A video is searched for persons; each track is kept once, by its best pictures. A picture, or a `.tar` "
            "of pictures, is taken for one person each."
        )
        file = gr.File(label="Video, picture or .tar", file_types=list(UPLOAD_SUFFIXES), elem_id="file")
        with gr.Row():
            camera = gr.Textbox(label="Name of the camera", max_length=100)
            per_second = gr.Slider(0.5, 10, value=1, step=0.5, label="Frames of each second")
        with gr.Row():
            add = gr.Button("Add", variant="primary", elem_id="add-button")
            cancel = gr.Button("Stop", elem_id="cancel-button")
        said = gr.Markdown("", elem_id="said")
        progress = gr.HTML(jobs_html([]), elem_id="jobs")
        timer = gr.Timer(POLL_SECONDS)
        add.click(self.add, [file, camera, per_second], [file, said], api_visibility="private")
        cancel.click(self.cancel, None, said, api_visibility="private")
        timer.tick(
            lambda: jobs_html(self.jobs.all()), None, progress, show_progress="hidden", api_visibility="private"
        )


def _thumbnails(label: str, name: str, *, visible: bool = True) -> gr.Gallery:
    """Pictures to choose from, none of which opens in large by itself."""
    return gr.Gallery(
        label=label,
        columns=6,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        visible=visible,
        interactive=False,
        buttons=[],
        elem_id=name,
    )


def _picture(result: SearchResult, label: str) -> tuple[Image.Image, str]:
    return Image.open(io.BytesIO(result.thumbnail)), label


def _moment(result: SearchResult) -> str:
    return f"{result.time_seconds:.1f} s" if result.time_seconds is not None else label_of(result)
