"""The web demo in Chromium: search, filters, explanations, search by image, adding and cancelling a video.

Screenshots are written to the folder `GADMS_SCREENSHOTS`, by default `runs/screenshots`. Those in the README show the
model that `make demo` trains:

    GADMS_DEMO_MODEL=runs/demo/model GADMS_SCREENSHOTS=docs/images pytest tests/examples/test_demo.py -k pedestrian
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from modeling_gadms import GADMSModel
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery import person_gallery as gallery_module
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.indexing.indexer import index_frames
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.media.drawing import hide_head
from modeling_gadms.media.video import FrameReader
from modeling_gadms.web.demo import NOTICE, Demo
from tests.vtest import vtest_video


ROOT = Path(__file__).parents[2]
expect.set_options(timeout=120_000)  # on a busy machine an explanation takes more than the default five seconds
SCREENSHOTS = Path(os.environ.get("GADMS_SCREENSHOTS", ROOT / "runs" / "screenshots"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<img src=x onerror=\"document.title='taken'\">.png"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


class Detector:
    """Finds a person in each frame. After three frames it waits for `allowed`."""

    def __init__(self) -> None:
        self.allowed = threading.Event()
        self.allowed.set()
        self.frames = 0

    def __call__(self, images):
        self.frames += 1
        if self.frames > 3:
            assert self.allowed.wait(300)
        return [[PersonBox(20, 10, 60, 110, 0.9)] for _ in images]


def write_video(path: Path, frames: int = 30) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(frames):
        frame = np.full((120, 160, 3), 90, dtype=np.uint8)
        cv2.rectangle(frame, (20, 10), (60, 110), (0, 0, 200), -1)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def served(tmp_path, tiny_config, processor) -> Iterator[SimpleNamespace]:
    """The demo with nine images of three cameras and one track in a video."""
    torch.manual_seed(0)
    model = GADMSModel(tiny_config()).eval()
    gallery = PersonGallery.create(tmp_path / "gallery", model, processor)
    rng = np.random.default_rng(0)
    names = [EVIL, *(f"p{number}.png" for number in range(1, 9))]
    gallery.add(
        PersonRecord(
            Image.fromarray(rng.integers(0, 255, (64, 32, 3), dtype=np.uint8)), name, camera=f"gate-{number % 3}"
        )
        for number, name in enumerate(names)
    )
    media = tmp_path / "media"
    media.mkdir()
    frames = FrameReader(write_video(media / "walk.avi"), root=media)
    index_frames(gallery, frames, detector=Detector(), camera="film", progress=False)
    detector = Detector()
    demo = Demo(gallery, model, processor, uploads=tmp_path / "uploads", media=[media], detector=lambda: detector)
    with launched(demo) as address:
        yield SimpleNamespace(address=address, gallery=gallery, detector=detector, demo=demo)
        detector.allowed.set()


@contextmanager
def launched(demo: Demo) -> Iterator[str]:
    """Serve the demo on a free port. Yields its address."""
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    try:
        yield address
    finally:
        demo.close()
        demo.page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(served, browser, request) -> Iterator[Page]:
    """A page that must send no request to other servers. A screenshot of its last state is kept."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    strangers: list[str] = []
    page.on("request", lambda sent: strangers.append(sent.url) if not _is_own(sent.url, served.address) else None)
    page.goto(served.address)
    expect(page.get_by_label("Description")).to_be_visible()
    yield page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not strangers


def _is_own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def search(page: Page, text: str) -> None:
    page.get_by_label("Description").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#message")).not_to_contain_text("to begin")


# Gradio fades updated components in. The contrast is only right once they are opaque.
IS_OPAQUE = """() => {
    for (let part = document.querySelector("#tokens .token"); part; part = part.parentElement)
        if (getComputedStyle(part).opacity !== "1") return false;
    return true;
}"""


def serious(page: Page) -> list[str]:
    page.wait_for_function(IS_OPAQUE)
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


def test_a_description_gives_ranked_persons_and_a_click_shows_why(page, served):
    assert not serious(page), "before anything is asked"
    expect(page.locator("#notice")).to_contain_text("Permitted use")
    assert "Permitted use" in NOTICE
    expect(page.locator("#message")).to_contain_text("Describe a person to begin")
    search(page, "a man in a red coat")
    expect(page.locator("#message")).to_contain_text("10 results")
    expected = served.gallery.search("a man in a red coat", 12)
    labels = page.locator("#results .caption-label").all_inner_texts()
    assert [label.split(" · ")[:2] for label in labels] == [
        [f"{result.score:.3f}", result.camera] for result in expected
    ]
    rank = next(result.rank for result in expected if result.camera == "film")
    page.locator("#results button").nth(rank - 1).click()
    expect(page.locator("#tokens .token").first).to_be_visible()
    assert page.locator("#tokens .token").all_inner_texts() == ["a", "man", "in", "a", "red", "coat"]
    expect(page.locator("#facts")).to_contain_text("walk.avi")
    expect(page.locator("#frame figcaption")).to_contain_text("Frame with the person's box")
    assert page.locator("#frame img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [160, 120]
    expect(page.locator("#heat figcaption")).to_contain_text("Grad-ECLIP")
    expect(page.locator("#track button img")).to_have_count(3)
    assert not serious(page)


def test_similar_persons_leave_out_the_one_they_are_like(page, served):
    search(page, "a man")
    page.locator("#results button").first.click()
    expect(page.locator("#facts table")).to_be_visible()
    chosen = page.locator("#facts td").last.inner_text()
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#message")).to_contain_text("9 results")
    expect(page.locator("#detail")).to_be_hidden()
    page.locator("#results button").first.click()
    expect(page.locator("#facts td").last).not_to_have_text(chosen)


def test_a_choice_that_the_results_no_longer_hold_is_none(served):
    results = served.gallery.search("a man", 3)
    for chosen in (None, 3):
        shown, kept, said, _, _ = served.demo.more_like(results, chosen, 12, True)
        assert "Choose a person first" in said and kept == results


def test_filters_narrow_and_bad_ones_are_explained(page):
    page.get_by_role("button", name="More ways to search").click()
    page.get_by_label("Filter").fill("camera = 'gate-1'")
    search(page, "a man")
    expect(page.locator("#message")).to_contain_text("3 results")
    page.get_by_label("Filter").fill("camera = 'nowhere'")
    search(page, "a man")
    expect(page.locator("#message")).to_contain_text("No person in the gallery matches these filters")
    expect(page.locator("#results")).to_be_hidden()
    page.get_by_label("Filter").fill("camera = 'a'; DROP TABLE persons")
    search(page, "a man")
    expect(page.locator("#message")).to_contain_text("Invalid search")
    page.get_by_label("Filter").fill("")
    page.get_by_label("Camera", exact=True).click()
    page.get_by_role("option", name="gate-2").click()
    search(page, "a man")
    expect(page.locator("#message")).to_contain_text("3 results")
    assert not serious(page)


def test_an_empty_search_says_what_to_do(page):
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#message")).to_contain_text("Describe a person, or choose an example image")


def test_a_picture_finds_its_like(page, served, tmp_path):
    (person,) = [result for result in served.gallery.search("a", 20) if result.source == "p4.png"]
    (tmp_path / "query.jpg").write_bytes(person.thumbnail)
    page.get_by_role("button", name="More ways to search").click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "query.jpg")
    expect(page.get_by_label("Example image").locator("img").or_(page.locator(".image-frame img"))).to_be_visible()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#message")).to_contain_text("10 results")
    page.locator("#results button").first.click()
    expect(page.locator("#facts")).to_contain_text("p4.png")
    expect(page.locator("#tokens")).to_contain_text("Enter a description to see which words")


def test_a_video_is_added_with_progress_and_found(page, served, tmp_path):
    served.detector.allowed.clear()
    page.get_by_role("tab", name="Add").click()
    expect(page.locator("#jobs")).to_contain_text("Nothing has been added yet")
    page.get_by_label("Camera name").fill("gate-9")
    page.locator("#file input[type=file]").set_input_files(write_video(tmp_path / "new gate.avi", 100))
    expect(page.locator("#file")).to_contain_text("new gate")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#add-message")).to_contain_text("is being added")
    expect(page.locator("#jobs")).to_contain_text("3 persons in 3 of 10 images")
    assert page.locator("#jobs progress").get_attribute("value") == "3"
    assert not serious(page)
    served.detector.allowed.set()
    expect(page.locator("#jobs")).to_contain_text("done")
    expect(page.locator("#jobs")).to_contain_text("3 persons from 10 images")
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#status")).to_contain_text("gate-9 (3)")
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("button", name="More ways to search").click()
    page.get_by_label("Filter").fill("camera = 'gate-9'")
    search(page, "a man")
    expect(page.locator("#message")).to_contain_text("1 results")
    page.locator("#results button").first.click()
    expect(page.locator("#frame figcaption")).to_contain_text("Frame with the person's box")


def test_adding_is_stopped_and_keeps_what_was_found(page, served, tmp_path):
    served.detector.allowed.clear()
    page.get_by_role("tab", name="Add").click()
    page.locator("#file input[type=file]").set_input_files(write_video(tmp_path / "v.avi", 100))
    expect(page.locator("#file")).to_contain_text("v.avi")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#jobs")).to_contain_text("3 persons in 3 of 10")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#add-message")).to_contain_text("Persons found so far are kept")
    served.detector.allowed.set()
    expect(page.locator("#jobs")).to_contain_text("cancelled")
    assert len(served.gallery) > 12


def test_files_that_are_none_are_refused(page, tmp_path):
    page.get_by_role("tab", name="Add").click()
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#add-message")).to_contain_text("Choose a video")
    (tmp_path / "letter.avi").write_text("Dear Sir or Madam")
    page.locator("#file input[type=file]").set_input_files(tmp_path / "letter.avi")
    expect(page.locator("#file")).to_contain_text("letter.avi")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#add-message")).to_contain_text("Not added: letter.avi")
    expect(page.locator("#add-message")).not_to_contain_text("/")
    assert not serious(page)


def test_two_files_of_one_name_stay_two(served, tmp_path):
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        Image.new("RGB", (16, 32), colour).save(tmp_path / colour / "p.png")
        _, said = served.demo.add(str(tmp_path / colour / "p.png"), "", 1)
        assert said == "p.png is being added."
    assert len({job.source for job in served.demo.jobs.all()}) == 2


def test_names_of_strangers_are_text(page):
    page.get_by_role("button", name="More ways to search").click()
    page.get_by_label("Filter").fill("camera = 'gate-0'")
    search(page, "<img src=x onerror=\"document.title='taken'\">")
    for place in range(3):
        page.locator("#results button").nth(place).click()
        expect(page.locator("#facts table")).to_be_visible()
        page.wait_for_timeout(300)
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#status table")).to_be_visible()
    assert page.title() == "Find a person by description"
    assert not page.locator("img[src=x]").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_and_the_keyboard(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    page.reload()
    description = page.get_by_label("Description")
    expect(description).to_be_visible()
    description.focus()
    page.keyboard.type("a woman with a bag")
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text("10 results")
    first = page.locator("#results button").first
    for _ in range(40):
        page.keyboard.press("Tab")
        if first.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#tokens .token").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert not serious(page)


@pytest.mark.slow
def test_the_pedestrian_video_is_indexed_and_searched_in_the_page(
    browser, tmp_path, tiny_config, processor, monkeypatch
):
    trained = os.environ.get("GADMS_DEMO_MODEL")
    torch.manual_seed(0)
    model, of_model = load_model_and_processor(trained) if trained else (GADMSModel(tiny_config()).eval(), processor)
    thumbnail = gallery_module._thumbnail  # the screenshots are published in the README
    monkeypatch.setattr(gallery_module, "_thumbnail", lambda image: thumbnail(hide_head(image)))
    demo = Demo(PersonGallery.create(tmp_path / "g", model, of_model), model, of_model, uploads=tmp_path / "uploads")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with launched(demo) as address:
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_role("tab", name="Add").click()
        page.get_by_label("Camera name").fill("street")
        page.locator("#file input[type=file]").set_input_files(vtest_video())
        expect(page.locator("#file")).to_contain_text("vtest")
        if not trained:
            page.locator("input[aria-label*='Frames per second'][type=number]").fill("0.5")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("#jobs")).to_contain_text("done", timeout=500_000)
        frames = 80 if trained else 40
        expect(page.locator("#jobs")).to_contain_text(f"from {frames} images")
        page.get_by_role("tab", name="Search").click()
        search(page, "a woman in a red jacket and blue jeans")
        expect(page.locator("#message")).to_contain_text("12 results")
        expect(page.locator("#results button img")).to_have_count(12)
        page.wait_for_timeout(1_000)
        page.screenshot(path=SCREENSHOTS / "demo-search.jpg", type="jpeg", quality=85, full_page=True)
        page.locator("#results button").first.click()
        expect(page.locator("#heat figcaption")).to_contain_text("Grad-ECLIP")
        expect(page.locator("#facts")).to_contain_text("street")
        expect(page.locator("#frame figcaption")).to_contain_text("Frame with the person's box")
        page.wait_for_timeout(1_000)
        page.locator("#detail").screenshot(path=SCREENSHOTS / "demo-why.jpg", type="jpeg", quality=85)
    assert 50 < len(demo.gallery) < 80 * 10


def test_frames_outside_the_folders_that_may_be_shown_are_not(served, tmp_path):
    from modeling_gadms.web.views import frame_with_box

    (tmp_path / "secret.png").write_bytes(served.gallery.search("a", 1)[0].thumbnail)
    uploads = tmp_path / "uploads"
    (uploads / "inside.png").write_bytes((tmp_path / "secret.png").read_bytes())
    (uploads / "link.png").symlink_to(tmp_path / "secret.png")
    found = served.gallery.search("a", 1)[0]
    found = SimpleNamespace(**{**vars(found), "frame": None})  # of an image, whichever is found first
    for source in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "x/../../secret.png", "gone.png"):
        assert frame_with_box(SimpleNamespace(**{**vars(found), "source": source}), [uploads]) is None, source
    assert frame_with_box(SimpleNamespace(**{**vars(found), "source": "inside.png"}), [uploads]) is not None
