"""Checks of text queries."""

import warnings

import pytest

from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.query_checks import check_query, query_warnings
from tests.dual_encoders import save_dual_encoder


def test_the_warning_starts_where_truncation_does(processor):
    limit = processor.tokenizer.model_max_length
    words = limit - 2  # beside the tokens of beginning and end
    assert len(processor.tokenizer(" ".join(["red"] * words))["input_ids"]) == limit, "'red' is one token"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_query(processor, "  " + "red " * words) == " ".join(["red"] * words)
    with pytest.warns(
        UserWarning, match=f"has {limit + 1} tokens and the model reads {limit}: its last 1 are ignored"
    ):
        check_query(processor, "red " * (words + 1))


def test_special_tokens_count_as_the_text_that_they_are(processor):
    plain = len(processor.tokenizer("red")["input_ids"])
    dropped = len(processor(text="<|endoftext|> " * 10, truncation=False)["input_ids"][0])
    assert dropped > plain + 100
    with pytest.warns(UserWarning, match=f"has {dropped} tokens"):
        check_query(processor, "<|endoftext|> " * 10)


def test_nothing_but_space_is_no_description(processor):
    with pytest.raises(ValueError, match="empty"):
        check_query(processor, "\t ")


@pytest.mark.parametrize(
    ("family", "known", "unknown", "languages"),
    [("CLIP", "a man, un café", "红色外套", "English"), ("Chinese-CLIP", "穿 T-shirt 的人", "a red coat", "Chinese")],
)
def test_a_script_that_the_model_was_not_trained_on_is_said(family, known, unknown, languages, tmp_path):
    processor = load_model_and_processor(save_dual_encoder(family, tmp_path))[1]
    assert query_warnings(processor, known) == query_warnings(processor, "1 2 3") == []
    (message,) = query_warnings(processor, unknown)
    assert message.startswith(f"{family} models were trained on captions in {languages}: ")
    multilingual = load_model_and_processor(save_dual_encoder("SigLIP 2", tmp_path / "other"))[1]
    assert query_warnings(multilingual, known) == query_warnings(multilingual, unknown) == []
