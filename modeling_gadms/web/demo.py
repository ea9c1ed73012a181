"""The web demo, built on Gradio: search a gallery, explain results, add videos. `examples/demo.py` starts it."""

import hashlib
import io
import shutil
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from ..encoders.atomic_files import atomic_file
from ..encoders.onnx_model import RetrievalModel
from ..encoders.processors import RetrievalProcessor
from ..encoders.query_checks import query_warnings
from ..explain.caption_tokens import explain_caption
from ..explain.image_patches import ImageRelevance, draw_heat_map, image_relevance
from ..gallery.filter import literal
from ..gallery.person_gallery import PersonGallery, Query, SearchResult
from ..indexing.indexer import SourceOptions
from ..indexing.isolation import check_upload
from ..indexing.jobs import UPLOAD_SUFFIXES, IndexJob, IndexJobs, JobsFullError, public_message, safe_name
from ..media.detection import PersonDetector, SsdMobileNetDetector
from ..media.images import UnreadableImageError, load_image
from ..media.video import VIDEO_SUFFIXES
from ..serving.origins import ANY_HOST, LOOPBACK_HOSTS, SameOriginMiddleware, is_loopback
from .views import facts_html, figure_html, frame_with_box, jobs_html, result_label, status_html, tokens_html


NOTICE = (
    "**Permitted use.** Search only recordings that you may lawfully search, for a purpose that the recorded persons "
    "were informed of. Do not follow or identify individuals without a legal basis, and do not judge anybody by a "
    "result: results show similar clothing, are often wrong, and do not prove who a person is."
)
MAX_FRAMES = 36_000
POLL_SECONDS = 0.5
_ANY_CAMERA = "Any"
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
"""For each event: it has no endpoint in the page's API."""
# System fonts, so that the page requests nothing from other servers.
THEME = gr.themes.Default(
    primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(
    # The theme's default orange and grey have too little contrast.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)
CSS = """
.gradio-container { max-width: 1100px !important; margin-inline: auto !important; }
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
    """The page and its event handlers.

    Args:
        gallery ([`~modeling_gadms.gallery.person_gallery.PersonGallery`]): opened with its model.
        model, processor: the model of the gallery. What cannot be explained in its family is said on the page.
        uploads (`Path`, *optional*): folder that keeps added files, so that their frames can be shown. Without it
            the page has no "Add" tab, as is right for a public page.
        media (`Sequence[Path]`): further folders whose files may be shown.
        detector (`Callable[[], PersonDetector]`): creates the person detector for videos.
    """

    def __init__(
        self,
        gallery: PersonGallery,
        model: RetrievalModel,
        processor: RetrievalProcessor,
        *,
        uploads: Path | None,
        media: Sequence[Path] = (),
        detector: Callable[[], PersonDetector] = SsdMobileNetDetector,
    ):
        # Explained with images as the gallery has fitted them.
        self.gallery, self.model, self.processor = gallery, model, gallery.model.fit_images(processor)
        self.uploads = uploads
        self.folders = [*media]
        self.jobs: IndexJobs | None = None
        if uploads is not None:
            self.jobs = IndexJobs(gallery, detector, uploads, max_frames=MAX_FRAMES)
            for part in uploads.glob("*/.part-*"):  # of a program that was ended while it copied a file
                part.unlink()
            self.folders.append(uploads)
        self.page = self._page()

    def launch(
        self,
        host: str = "127.0.0.1",
        port: int | None = None,
        *,
        login: tuple[str, str] | None = None,
        allowed_hosts: Sequence[str] = (),
        public: bool = False,
        **options: Any,
    ) -> tuple[Any, str, str]:
        """Serve the page.

        Args:
            host (`str`), port (`int`, *optional*): address; by default a free port from 7860 on.
            login (`tuple[str, str]`, *optional*): user name and password.
            allowed_hosts (`Sequence[str]`): names of the page besides those of loopback, as behind a proxy. Without
                a login it answers to no others.
            public (`bool`): whether everybody may see the page, from everywhere, as in a Space. It must have no
                `uploads`.
            options: further arguments of `gradio.Blocks.launch`, whose result is returned.

        Raises:
            ValueError: if other machines reach the page, and it has neither a login nor is public; or if a public page
                has uploads.
        """
        if public and self.uploads is not None:
            raise ValueError("A public page must not take uploads")
        if not (public or login or is_loopback(host)):
            raise ValueError(f"{host} can be reached from other machines: give the page a login, or use 127.0.0.1")
        hosts = (ANY_HOST,) if login and not allowed_hosts else (*LOOPBACK_HOSTS, *allowed_hosts)
        guards = [] if public else [Middleware(SameOriginMiddleware, allowed_hosts=hosts)]
        return self.page.launch(
            server_name=host,
            server_port=port,
            auth=login,
            theme=THEME,
            css=CSS,
            footer_links=[],
            app_kwargs={"middleware": guards},
            **options,
        )

    # -----------------------------------------------------------------------------------------------------------------
    # Event handlers.
    # -----------------------------------------------------------------------------------------------------------------
    def search(
        self, text: str, without: str, image: str | None, camera: str, where: str, top_k: float, group: bool
    ) -> tuple[Any, ...]:
        """Search by description, by an image file or by both. Returns updates of the result components."""
        exclusions = [part.strip() for part in (without or "").split(",") if part.strip()]
        text = (text or "").strip()
        if not text and image is None:
            return self._show_results([], "Describe a person, or choose an example image.")
        try:
            example = None if image is None else load_image(image)
        except UnreadableImageError as error:
            return self._show_results([], f"The example image cannot be used: {error.reason.value} ({error.detail}).")
        return self._run_query(Query(text or None, example, without=exclusions), camera, where, top_k, group)

    def more_like(self, results: list[SearchResult], chosen: int | None, top_k: float, group: bool) -> tuple[Any, ...]:
        """Search for persons similar to the selected one."""
        if chosen is None or chosen >= len(results):
            return self._show_results(results, "Choose a person first.")
        return self._run_query(Query(like=results[chosen].id), _ANY_CAMERA, "", top_k, group)

    def show_details(self, results: list[SearchResult], text: str, event: gr.SelectData) -> tuple[Any, ...]:
        """Show the selected result: its frame, its track, its data, and the explanation of its score."""
        index = int(event.index)
        result = results[index]
        crop = Image.open(io.BytesIO(result.thumbnail))
        frame = frame_with_box(result, self.folders)
        crops = self.gallery.crops(result.source, result.track) if result.track is not None else []
        tokens, heat = "<p>Enter a description to see which words and image regions are relevant.</p>", ""
        if text and text.strip():
            explained = (self.model, self.processor, crop, text)
            tokens = _or_reason(lambda: tokens_html(explain_caption(*explained)))
            heat = _or_reason(lambda: _heat_map_html(crop, image_relevance(*explained)))
        caption = "Person crop; the source file is not available"
        if frame is not None:
            caption = "Frame with the person's box" if result.box else "Source image"
        return (
            index,
            gr.update(visible=True),
            figure_html(frame or crop, caption),
            facts_html(result),
            tokens,
            heat,
            gr.update(value=[_thumbnail(person, _time_label(person)) for person in crops], visible=len(crops) > 1),
        )

    def add(self, file: str | None, camera: str, per_second: float) -> tuple[Any, str]:
        """Index an uploaded file. A folder named by its digest keeps files with the same name apart."""
        if self.uploads is None or self.jobs is None:
            return gr.update(), "Adding is disabled on this page."
        if not file:
            return gr.update(), "Choose a video, an image or a .tar archive of images first."
        given = Path(file)
        is_video = given.suffix.lower() in VIDEO_SUFFIXES
        options = SourceOptions(camera=camera.strip() or None, per_second=per_second if is_video else None)
        try:
            name = safe_name(given.name)
            check_upload(given, options)
        except (ValueError, OSError) as error:
            return gr.update(value=None), f"Not added: {public_message(error, given.parent)}"
        with open(file, "rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
        path = self.uploads / digest / name
        try:
            with atomic_file(path) as part:
                shutil.copyfile(file, part)
            self.jobs.submit(path, options, root=self.uploads)
        except (JobsFullError, OSError) as error:
            return gr.update(), f"Not added: {public_message(error, self.uploads)}"
        return gr.update(value=None), f"{name} is being added."

    def cancel(self) -> str:
        """Cancel all unfinished indexing jobs."""
        unfinished = [job for job in self._all_jobs() if not job.state.is_over]
        for job in unfinished:
            if self.jobs is not None:
                self.jobs.cancel(job.id)
        return "Stopping. Persons found so far are kept." if unfinished else "Nothing is being added."

    def cameras(self) -> Any:
        """Update the choices of the camera filter."""
        return gr.update(choices=[_ANY_CAMERA, *self.gallery.info().cameras])

    def close(self) -> None:
        """Stop indexing. Persons found so far are kept, and the page goes on with the rest when it is next started."""
        if self.jobs is not None:
            self.jobs.close(30)

    def _all_jobs(self) -> list[IndexJob]:
        return [] if self.jobs is None else self.jobs.all()

    def _run_query(self, query: Query, camera: str, where: str, top_k: float, group: bool) -> tuple[Any, ...]:
        conditions = [f"camera = {literal(camera)}"] if camera and camera != _ANY_CAMERA else []
        conditions += [f"({where.strip()})"] if where and where.strip() else []
        try:
            results = self.gallery.search(
                query, int(top_k), where=" AND ".join(conditions) or None, group_tracks=bool(group)
            )
        except ValueError as error:
            return self._show_results([], f"Invalid search: {error}")
        if not results:
            return self._show_results([], "No person in the gallery matches these filters.")
        remarks = query_warnings(self.processor, query.text) if query.text else []
        return self._show_results(results, " ".join([f"{len(results)} results, the most similar first.", *remarks]))

    def _show_results(self, results: list[SearchResult], message: str) -> tuple[Any, ...]:
        thumbnails = [_thumbnail(result, result_label(result)) for result in results]
        gallery = gr.update(value=thumbnails, visible=bool(results), selected_index=None)
        return gallery, results, message, None, gr.update(visible=False)

    # -----------------------------------------------------------------------------------------------------------------
    # Layout.
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
                    tab.select(lambda: status_html(self.gallery.info()), None, status, **_PRIVATE)
            page.load(self.cameras, None, camera, **_PRIVATE)
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
                # As the file that was sent: Gradio itself would put transparency on black and clip 16 bits.
                image = gr.Image(
                    label="Example image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=220,
                    elem_id="example",
                )
                with gr.Column():
                    without = gr.Textbox(label="Without", placeholder="a hat, a bag", max_length=300)
                    camera = gr.Dropdown([_ANY_CAMERA], value=_ANY_CAMERA, label="Camera")
                    where = gr.Textbox(
                        label="Filter", placeholder="time > '2026-11-25 08:00' AND confidence > 0.7", max_length=1_000
                    )
            with gr.Row():
                top_k = gr.Slider(1, 100, value=12, step=1, label="Results")
                group = gr.Checkbox(True, label="One result per track")
        message = gr.Markdown("Describe a person to begin.", elem_id="message")
        found = _thumbnail_grid("Persons found", "results", visible=False)
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
            track = _thumbnail_grid("The same track", "track")
        inputs = [text, without, image, camera, where, top_k, group]
        outputs = [found, results, message, chosen, detail]
        gr.on([button.click, text.submit], self.search, inputs, outputs, **_PRIVATE)
        found.select(
            self.show_details, [results, text], [chosen, detail, frame, facts, tokens, heat, track], **_PRIVATE
        )
        like.click(self.more_like, [results, chosen, top_k, group], outputs, **_PRIVATE)
        return camera

    def _add_tab(self) -> None:
        gr.Markdown(
            "Persons in a video are detected and tracked; each track is stored by its best crops. An image, or each "
            "image of a `.tar` archive, is stored as one person."
        )
        file = gr.File(label="Video, image or .tar archive", file_types=list(UPLOAD_SUFFIXES), elem_id="file")
        with gr.Row():
            camera = gr.Textbox(label="Camera name", max_length=100)
            per_second = gr.Slider(0.5, 10, value=1, step=0.5, label="Frames per second")
        with gr.Row():
            add = gr.Button("Add", variant="primary", elem_id="add-button")
            cancel = gr.Button("Stop", elem_id="cancel-button")
        message = gr.Markdown("", elem_id="add-message")
        progress = gr.HTML(jobs_html([]), elem_id="jobs")
        timer = gr.Timer(POLL_SECONDS)
        add.click(self.add, [file, camera, per_second], [file, message], **_PRIVATE)
        cancel.click(self.cancel, None, message, **_PRIVATE)
        timer.tick(lambda: jobs_html(self._all_jobs()), None, progress, show_progress="hidden", **_PRIVATE)


def _thumbnail_grid(label: str, name: str, *, visible: bool = True) -> gr.Gallery:
    """A grid of selectable thumbnails, without Gradio's enlarged preview."""
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


def _heat_map_html(crop: Image.Image, relevance: ImageRelevance) -> str:
    return figure_html(draw_heat_map(crop, relevance.scores), "Image regions relevant to the description (Grad-ECLIP)")


def _or_reason(render: Callable[[], str]) -> str:
    """What a function renders, or the reason why it cannot."""
    try:
        return render()
    except (ValueError, TypeError) as error:
        return f"<p>{escape(str(error))}</p>"


def _thumbnail(result: SearchResult, label: str) -> tuple[Image.Image, str]:
    return Image.open(io.BytesIO(result.thumbnail)), label


def _time_label(result: SearchResult) -> str:
    return f"{result.time_seconds:.1f} s" if result.time_seconds is not None else result_label(result)
