"""The page without a browser: who may reach it, how it reads example pictures, and what it refuses to add."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from gradio.data_classes import ImageData
from PIL import Image

from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.indexing.jobs import JobState
from modeling_gadms.media.images import load_image
from modeling_gadms.web.demo import Demo
from tests.waiting import PATIENCE_SECONDS, wait_for


@pytest.fixture
def demo(tmp_path, model, processor) -> Iterator[Demo]:
    gallery = PersonGallery.create(tmp_path / "gallery", model, processor)
    rng = np.random.default_rng(0)
    gallery.add(
        PersonRecord(Image.fromarray(rng.integers(0, 255, (64, 32, 3), dtype=np.uint8)), f"{number}.png")
        for number in range(3)
    )
    made = Demo(gallery, model, processor, uploads=tmp_path / "uploads")
    yield made
    made.close()


def example_pictures(folder: Path) -> Iterator[Path]:
    """Pictures that a plain conversion to RGB changes: on black, clipped at 255, negative, lying on their side."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (64, 32, 4), dtype=np.uint8)
    pixels[:32, :, 3] = 0
    kinds = {
        "transparent.png": Image.fromarray(pixels),
        "sixteen.png": Image.fromarray(rng.integers(0, 65_536, (64, 32), dtype=np.uint16)),
        "palette.gif": Image.fromarray(pixels[..., :3]).quantize(8),
        "printed.jpg": Image.fromarray(pixels).convert("RGB").convert("CMYK"),
        "turned.jpg": Image.fromarray(pixels[..., :3]),
    }
    for name, image in kinds.items():
        exif = Image.Exif()
        exif[274] = 6
        image.save(folder / name, **({"exif": exif} if name == "turned.jpg" else {}))
        yield folder / name


def test_an_example_picture_is_read_as_the_command_line_reads_it(demo, tmp_path, monkeypatch):
    asked = []
    search = PersonGallery.search
    monkeypatch.setattr(PersonGallery, "search", lambda self, query, *_, **__: asked.append(query) or [])
    (component,) = [each for each in demo.page.blocks.values() if getattr(each, "elem_id", None) == "example"]
    for path in example_pictures(tmp_path):
        given = component.preprocess(ImageData(path=str(path), orig_name=path.name))
        demo.search("", "", given, "Any", "", 3, True)
        assert np.array_equal(asked[-1].image, load_image(path)), path.name
    assert len(asked) == 5
    monkeypatch.setattr(PersonGallery, "search", search)
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    _, results, message, _, _ = demo.search("", "", str(tmp_path / "letter.png"), "Any", "", 3, True)
    assert results == [] and message.startswith("The example image cannot be used: not an image")


def test_a_file_without_an_image_is_not_added_and_one_with_is(demo, tmp_path):
    (tmp_path / "letter.avi").write_text("Dear Sir or Madam")
    (tmp_path / "script.py").write_text("print()")
    Image.new("RGB", (20, 60), "red").save(tmp_path / "p.png")
    for name, said in (("letter.avi", "Not added: letter.avi"), ("script.py", "Not added: The file 'script.py'")):
        _, message = demo.add(str(tmp_path / name), "", 1)
        assert message.startswith(said) and "/" not in message
    _, message = demo.add(str(tmp_path / "p.png"), "gate-1", 1)
    assert message == "p.png is being added."
    wait_for(lambda: [job.state for job in demo.jobs.all()] == [JobState.DONE])
    assert demo.gallery.info().cameras == {"gate-1": 1}
    demo.jobs.close()
    _, message = demo.add(str(tmp_path / "p.png"), "gate-1", 1)
    assert message.startswith("Not added: No more files are taken")


def test_other_machines_reach_no_page_without_a_login(demo):
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(ValueError, match=f"{host} can be reached from other machines"):
            demo.launch(host)
    with pytest.raises(ValueError, match="must not take uploads"):
        demo.launch(public=True)


@pytest.mark.slow
def test_pages_of_other_sites_neither_read_nor_write(demo):
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    address = address.rstrip("/")

    def status(path: str, method: str = "GET", **headers: str) -> int:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        files = {"files": ("p.png", b"x")} if method == "POST" else None
        url = f"{address}{path}"
        return requests.request(method, url, headers=given, files=files, timeout=PATIENCE_SECONDS).status_code

    try:
        upload = "/gradio_api/upload"
        assert (status("/config"), status(upload, "POST"), status(upload, "POST", Origin=address)) == (200, 200, 200)
        for path in ("/", "/config", upload):
            assert status(path, Host="evil.example", Origin="http://evil.example") == 421
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
            assert status(upload, "POST", **headers) == 403
        assert status("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document") == 200
        assert status("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe") == 403
    finally:
        demo.page.close(verbose=False)
