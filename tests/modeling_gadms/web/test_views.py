"""HTML fragments of the web demo. Their rendering is tested in a browser."""

import re
from datetime import UTC, datetime

import pytest

from modeling_gadms.explain.caption_tokens import Explanation, ScoredToken
from modeling_gadms.gallery.maintenance import GalleryInfo
from modeling_gadms.gallery.records import GalleryModel
from modeling_gadms.web.views import status_html, tokens_html


def tokens(**scores: float) -> str:
    return tokens_html(Explanation([ScoredToken(text, score, True) for text, score in scores.items()], 0.25))


def test_colours_deepen_with_the_score():
    text = tokens(a=0.0, red=1.0, coat=0.5)
    assert re.findall(r"rgb\((\d+), (\d+), (\d+)\)", text) == [
        ("255", "250", "240"),
        ("240", "120", "40"),
        ("248", "185", "140"),
    ]
    assert "The darker a word" in text and "Cosine similarity 0.250" in text
    assert "a 0.00, red 1.00, coat 0.50" in text


def test_scores_that_are_all_equal_are_told():
    text = tokens(a=0.5, red=0.5, coat=0.5)
    assert "All words are equally relevant to this image" in text and "The darker" not in text


@pytest.mark.parametrize(
    ("name", "shown"), [("/home/me/secret/my_model", "my_model ("), ("me/my-model", "me/my-model (")]
)
def test_folders_of_the_model_are_not_shown(name, shown):
    model = GalleryModel(name, "fedcba98")
    info = GalleryInfo(
        "g", 7, 2, 1_500_000, 3, datetime(2026, 11, 25, 8, tzinfo=UTC), 512, model, {}, 0, {"a.mp4": 7}, {"<b>": 7}
    )
    text = status_html(info)
    assert shown in text and "secret" not in text
    assert "&lt;b&gt; (7)" in text and "1.5 MB" in text
