"""The processor: images without cropping, captions of any length and alphabet, EOS always kept."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPConfig

from modeling_gadms import GADMSProcessor
from modeling_gadms.masking_gadms import caption_token_mask
from modeling_gadms.training.tokenizer import train_tokenizer


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def literal_pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Stretch, scale to [0, 1], normalise: (3, height, width)."""
    height, width = size
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return ((np.asarray(resized) / 255.0 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# Images.


@pytest.mark.parametrize("size", [(16, 32), (50, 50), (300, 20), (1, 1), (1, 200), (640, 480)])
def test_any_image_becomes_the_models_rectangle(processor, size):
    image = noise_image(*size)
    pixel_values = processor(images=image)["pixel_values"]
    assert pixel_values.shape == (1, 3, 32, 16) and pixel_values.dtype == torch.float32
    np.testing.assert_allclose(pixel_values[0], literal_pixels(image, (32, 16)), atol=1e-5)


def test_nothing_is_cropped(processor):
    """A crop would cut off heads or shoes: each corner of a wide and of a high picture stays in its corner."""
    for width, height in ((90, 30), (30, 200)):
        image = Image.new("RGB", (width, height))
        quarter = (width // 4, height // 4)
        colors = {(0, 0): "red", (1, 0): "lime", (0, 1): "blue", (1, 1): "white"}
        for (x, y), color in colors.items():
            image.paste(
                color, (x * (width - quarter[0]), y * (height - quarter[1]), *_end(x, y, width, height, quarter))
            )
        pixels = processor(images=image)["pixel_values"][0]
        for (x, y), color in colors.items():
            expected = literal_pixels(Image.new("RGB", (1, 1), color), (1, 1))[:, 0, 0]
            np.testing.assert_allclose(pixels[:, -y, -x], expected, atol=0.05)


def _end(x: int, y: int, width: int, height: int, quarter: tuple[int, int]) -> tuple[int, int]:
    return (width if x else quarter[0], height if y else quarter[1])


def test_several_images_of_different_sizes_make_one_batch(processor):
    images = [noise_image(20, 40, 1), noise_image(77, 31, 2), noise_image(8, 8, 3)]
    batch = processor(images=images)["pixel_values"]
    assert batch.shape == (3, 3, 32, 16)
    for row, image in zip(batch, images, strict=True):
        np.testing.assert_allclose(row, literal_pixels(image, (32, 16)), atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "HSV"])
def test_other_colour_modes_are_converted(processor, mode):
    image = noise_image(20, 40).convert("RGB" if mode == "LA" else mode)
    image = noise_image(20, 40).convert("L").convert("LA") if mode == "LA" else image
    pixel_values = processor(images=image)["pixel_values"]
    np.testing.assert_allclose(pixel_values[0], literal_pixels(image, (32, 16)), atol=1e-5)


def test_default_rectangle_is_384_by_128(tmp_path):
    train_tokenizer(["a man"], vocab_size=600, max_length=24).save_pretrained(tmp_path)
    CLIPConfig().save_pretrained(tmp_path)
    processor = GADMSProcessor.from_clip(tmp_path)
    assert processor.image_size == (384, 128)
    assert processor(images=noise_image(50, 50))["pixel_values"].shape == (1, 3, 384, 128)


# Captions.


def test_captions_are_framed_and_padded_to_the_longest_of_the_call(processor):
    """Released code pads everything to 77 tokens."""
    tokenizer = processor.tokenizer
    inputs = processor(text=["a man", "a man in a red coat"])
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    assert (input_ids[:, 0] == tokenizer.bos_token_id).all()
    lengths = attention_mask.sum(dim=1).tolist()
    assert lengths[1] == input_ids.shape[1] < tokenizer.model_max_length and lengths[0] < lengths[1]
    for row, length in zip(input_ids, lengths, strict=True):
        assert row[length - 1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in row[: length - 1]
        assert (row[length:] == tokenizer.pad_token_id).all()
    assert processor(text="a man")["input_ids"].tolist() == [input_ids[0, : lengths[0]].tolist()]


@pytest.mark.parametrize(
    "caption", ["red " * 500, "\N{MAN}\N{ZERO WIDTH JOINER}\N{ROCKET}" * 100, "一个穿红色外套的男人" * 20, "x" * 5000]
)
def test_a_caption_that_is_too_long_is_cut_and_keeps_eos(processor, caption):
    tokenizer = processor.tokenizer
    inputs = processor(text=[caption, "a man"])
    assert inputs["input_ids"].shape == (2, tokenizer.model_max_length)
    assert inputs["attention_mask"][0].all()
    assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id
    assert inputs["input_ids"][0].tolist().count(tokenizer.eos_token_id) == 1
    assert inputs["input_ids"][0, -1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "caption",
    [
        "\N{FIRE}",
        "她背着黑色的背包。",
        "Ein Mann mit grünem Hut",
        "a b c",
        "'s",
        "!?",
        "\u200b",
        "\x00",
        "e\u0301t\u00e9",
    ],
)
def test_any_alphabet_makes_tokens(processor, caption):
    input_ids = processor(text=caption)["input_ids"]
    own_tokens = caption_token_mask(input_ids, processor.tokenizer.eos_token_id)
    assert own_tokens.sum() == input_ids.shape[1] - 2 > 0


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caption=st.text(min_size=1, max_size=40))
def test_every_caption_is_either_refused_or_has_own_tokens(processor, caption):
    if not caption.strip():
        with pytest.raises(ValueError, match="caption 0 is empty"):
            processor(text=caption)
        return
    input_ids = processor(text=caption)["input_ids"]
    assert 3 <= input_ids.shape[1] <= processor.tokenizer.model_max_length
    assert input_ids[0].tolist().count(processor.tokenizer.eos_token_id) == 1
    assert caption_token_mask(input_ids, processor.tokenizer.eos_token_id).sum() == input_ids.shape[1] - 2


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|startoftext|>", "<|mask|>", "<|ENDOFTEXT|>"])
@pytest.mark.parametrize("caption", ["{}", "a man {} in red", "{}{} red", "red{}coat"])
def test_special_tokens_in_a_caption_are_plain_text(processor, caption, special):
    """A typed `<|endoftext|>` would end the caption there, a typed `<|mask|>` hide a word."""
    tokenizer = processor.tokenizer
    caption = caption.format(special, special)
    input_ids = processor(text=caption, truncation=False)["input_ids"]
    assert input_ids[0].tolist() == tokenizer(caption)["input_ids"]
    assert not set(input_ids[0, 1:-1].tolist()) & set(tokenizer.all_special_ids)
    letters = "".join(tokenizer.decode(input_ids[0, 1:-1]).split())
    assert letters == "".join(caption.lower().split())


def test_special_tokens_are_plain_text_in_a_copy_and_in_a_loaded_processor(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    for other in (GADMSProcessor.from_pretrained(tmp_path), pickle.loads(pickle.dumps(processor))):
        input_ids = other(text="red <|endoftext|> coat")["input_ids"][0].tolist()
        assert input_ids == processor(text="red <|endoftext|> coat")["input_ids"][0].tolist()
        assert input_ids.count(other.tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("empty", ["", "   ", "\n\t", None])
def test_an_empty_caption_is_named_by_its_position(processor, empty):
    with pytest.raises(ValueError, match="caption 1 is empty"):
        processor(text=["a man", empty])


@pytest.mark.parametrize("given", [{}, {"text": []}, {"images": []}, {"images": [], "text": ["a"]}])
def test_nothing_to_prepare_is_refused(processor, given):
    with pytest.raises(ValueError, match="at least one"):
        processor(**given)


def test_padding_and_truncation_can_be_chosen_for_text_alone(processor):
    """As libraries call a processor of any modality."""
    inputs = processor(text=["a man", "red " * 50], text_kwargs={"padding": "max_length"})
    assert inputs["input_ids"].shape == (2, 24)
    assert len(processor(text=["red " * 50], text_kwargs={"truncation": False})["input_ids"][0]) > 50


def test_padding_truncation_and_tensors_can_be_chosen(processor):
    longest = processor(text="a man", padding="max_length")["input_ids"]
    assert longest.shape == (1, processor.tokenizer.model_max_length)
    ragged = processor(text=["a man", "a"], padding=False, return_tensors=None)["input_ids"]
    assert [type(row) for row in ragged] == [list, list] and len(ragged[0]) > len(ragged[1])
    assert processor(text="red " * 50, truncation=False)["input_ids"].shape[1] > 50
    assert isinstance(processor(text="a", return_tensors="np")["input_ids"], np.ndarray)


def test_images_and_captions_together(processor, batch):
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"}
    assert set(processor.model_input_names) == {"pixel_values", "input_ids", "attention_mask"}


# Tokens, saving.


def test_the_mask_token_follows_the_vocabulary(tmp_path):
    tokenizer = train_tokenizer(["a man in red"], vocab_size=600, max_length=24)
    size = len(tokenizer)
    assert tokenizer.mask_token_id is None and tokenizer.eos_token_id == size - 1
    tokenizer.save_pretrained(tmp_path)
    CLIPConfig().save_pretrained(tmp_path)
    processor = GADMSProcessor.from_clip(tmp_path, image_size=(32, 16))
    assert processor.tokenizer.mask_token_id == size and len(processor.tokenizer) == size + 1
    again = GADMSProcessor.from_tokenizer(processor.tokenizer, image_size=(64, 32))
    assert again.tokenizer.mask_token_id == size and len(again.tokenizer) == size + 1


def test_a_tokenizer_without_a_mask_token_is_refused_with_the_remedy(processor):
    tokenizer = train_tokenizer(["a man"], vocab_size=600, max_length=24)
    with pytest.raises(ValueError, match="no mask_token_id; add the token.*add_special_tokens"):
        GADMSProcessor(processor.image_processor, tokenizer)


def test_a_saved_processor_loads_equal(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    loaded = GADMSProcessor.from_pretrained(tmp_path)
    assert loaded.image_size == processor.image_size == (32, 16)
    assert loaded.tokenizer.model_max_length == processor.tokenizer.model_max_length
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    captions = ["a man in a red coat", "她", "red " * 100]
    ours, theirs = (p(text=captions, images=[noise_image(30, 60)] * 3) for p in (processor, loaded))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tokens_decode_to_the_caption(processor):
    input_ids = processor(text=["a man in a red coat", "blue jeans"])["input_ids"]
    assert processor.batch_decode(input_ids, skip_special_tokens=True) == ["a man in a red coat", "blue jeans"]
