"""Encoding: input order with any batches, restored model modes, errors that name the item."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.encoders.encoding import PREFETCHED_BATCHES, encode_captions, encode_images
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.waiting import PATIENCE_SECONDS


CAPTIONS = [
    "a man in a red coat and blue jeans, with a black backpack, holding an umbrella",
    "a woman",
    "a boy in a green shirt",
    "a girl in a long white dress with a yellow hat and brown shoes",
    "a woman in grey",
    "a man in black with white shoes and a red bag",
    "a man in a red coat",
    "an old woman with a brown bag and a long blue skirt",
    "a boy",
]


@pytest.fixture(scope="module")
def processor():
    return GADMSProcessor.from_tokenizer(train_tokenizer(CAPTIONS, vocab_size=600, max_length=24), image_size=(32, 16))


@pytest.fixture
def model(processor):
    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GADMSConfig(
        text_config={
            **sizes,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 24,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "attention_dropout": 0.5,
        },
        vision_config={**sizes, "image_size": (32, 16), "patch_size": 8, "attention_dropout": 0.5},
        projection_dim=8,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=2,
    )
    return GADMSModel(config)


@pytest.fixture(scope="module")
def images():
    noise = np.random.default_rng(0).integers(0, 256, (9, 40, 20, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def test_images_keep_their_order_with_any_batch_size(model, processor, images):
    with torch.no_grad():
        model.eval()
        one_by_one = [
            model.get_image_features(processor(images=[image], return_tensors="pt")["pixel_values"]).pooler_output[0]
            for image in images
        ]
    expected = torch.stack([features / features.norm() for features in one_by_one])
    for batch_size in (1, 4, 7, 100):
        embeds = encode_images(model, processor, iter(images), batch_size=batch_size, progress=False)
        torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=0)


def test_a_typed_end_of_text_does_not_end_the_caption(model, processor):
    captions = ["a man", "a man <|endoftext|>", "a man <|endoftext|> in red"]
    embeds = encode_captions(model, processor, captions, progress=False)
    assert torch.pdist(embeds).min() > 1e-3


def test_captions_keep_their_order_with_any_batch_size(model, processor):
    with torch.no_grad():
        model.eval()
        one_by_one = [
            model.get_text_features(**processor(text=[caption], return_tensors="pt")).pooler_output[0]
            for caption in CAPTIONS
        ]
    expected = torch.stack([features / features.norm() for features in one_by_one])
    for batch_size in (1, 4, 7, 100):
        embeds = encode_captions(model, processor, CAPTIONS, batch_size=batch_size, progress=False)
        torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=0)


def test_embeddings_are_float32_unit_vectors_free_of_the_graph(model, processor, images):
    model.to(torch.bfloat16)
    for embeds in (
        encode_images(model, processor, images, progress=False),
        encode_captions(model, processor, CAPTIONS, progress=False),
    ):
        assert embeds.shape == (9, 8) and embeds.dtype == torch.float32 and embeds.device.type == "cpu"
        torch.testing.assert_close(embeds.norm(dim=1), torch.ones(9))
        assert not embeds.requires_grad
        torch.nn.functional.linear(embeds, torch.ones(1, 8, requires_grad=True)).sum().backward()  # usable in training


def test_captions_of_similar_length_share_a_batch(model, processor, monkeypatch):
    shapes = []
    original = model.get_packed_text_features

    def spy(**inputs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return original(**inputs)

    monkeypatch.setattr(model, "get_packed_text_features", spy)
    encode_captions(model, processor, CAPTIONS, batch_size=3, progress=False)
    lengths = [length for _, length in shapes]
    assert len(shapes) == 3 and lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_images_are_prefetched_at_most_two_batches_ahead(model, processor, images, monkeypatch):
    read = []
    third_batch_began = threading.Event()
    original = model.get_image_features

    def source():
        for number in range(40):
            read.append(number)
            if len(read) > 8:
                third_batch_began.set()
            yield images[number % 9]

    def encode(**inputs):
        # The first batch waits until the third is being read: without prefetching, this would never end.
        assert third_batch_began.wait(timeout=PATIENCE_SECONDS)
        batches.append(len(read))
        time.sleep(0.05)  # for a thread that reads too much
        assert len(read) <= 4 * (len(batches) + PREFETCHED_BATCHES)
        return original(**inputs)

    batches = []
    monkeypatch.setattr(model, "get_image_features", encode)
    embeds = encode_images(model, processor, source(), batch_size=4, progress=False)
    assert len(batches) == 10 and len(embeds) == 40 and read == list(range(40))
    torch.testing.assert_close(embeds[:9], embeds[27:36], atol=1e-5, rtol=0)


def threads_that_read() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_an_error_of_the_source_is_raised_after_the_images_before_it(model, processor, images, monkeypatch):
    encoded = []
    original = model.get_image_features
    monkeypatch.setattr(model, "get_image_features", lambda **inputs: encoded.append(1) or original(**inputs))

    def source():
        yield from images[:5]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        encode_images(model, processor, source(), batch_size=2, progress=False)
    assert len(encoded) == 2
    assert threads_that_read() == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_thread_outlives_an_error_and_nothing_more_is_read(model, processor, images, monkeypatch, error):
    read = []

    def interrupted(**inputs):
        raise error

    monkeypatch.setattr(model, "get_image_features", interrupted)
    with pytest.raises(error) as raised:  # which keeps the frames, and so what they hold
        encode_images(
            model, processor, (read.append(1) or image for image in images * 9), batch_size=2, progress=False
        )
    assert threads_that_read() == []
    assert raised.value is not None and len(read) <= 2 * (1 + PREFETCHED_BATCHES)


def test_dropout_is_off_and_each_module_gets_its_mode_back(model, processor, images):
    model.train()
    model.vision_model.eval()  # a frozen encoder
    modes = [module.training for module in model.modules()]
    for encode, items in ((encode_images, images), (encode_captions, CAPTIONS)):
        first, second = (encode(model, processor, items, progress=False) for _ in range(2))
        assert torch.equal(first, second)
        assert [module.training for module in model.modules()] == modes


def test_the_mode_comes_back_after_an_error(model, processor):
    model.train()
    with pytest.raises(TypeError):
        encode_images(model, processor, ["person.png"], progress=False)
    assert model.training


def test_nothing_to_encode_gives_an_empty_matrix(model, processor):
    assert encode_images(model, processor, [], progress=False).shape == (0, 8)
    assert encode_captions(model, processor, [], progress=False).shape == (0, 8)


def test_progress_is_shown_on_request_only(model, processor, images, capsys):
    encode_images(model, processor, images, progress=False)
    encode_captions(model, processor, CAPTIONS, progress=False)
    assert capsys.readouterr().err == ""
    encode_images(model, processor, iter(images), total=9)
    encode_captions(model, processor, CAPTIONS)
    shown = capsys.readouterr().err
    assert "Encoding images: 100%" in shown and "Encoding captions: 100%" in shown and "9/9" in shown


@pytest.mark.parametrize(
    ("captions", "error", "message"),
    [
        (["a man", " \n", ""], ValueError, "caption 1 is empty"),
        (["a man", None], TypeError, r"caption 1 is a NoneType \(None\)"),
        ("a man", TypeError, "captions is one string"),
    ],
)
def test_a_caption_that_cannot_be_encoded_is_named(model, processor, captions, error, message):
    with pytest.raises(error, match=message):
        encode_captions(model, processor, captions, progress=False)


def test_an_item_that_is_no_image_is_named(model, processor, images):
    with pytest.raises(TypeError, match="image 3 is a str, not a PIL image"):
        encode_images(model, processor, [*images[:3], "person.png"], batch_size=2, progress=False)


def test_an_embedding_that_is_not_finite_is_named(model, processor, images):
    blank = Image.new("RGB", (20, 40))
    original = model.get_image_features

    def overflow_on_blank(pixel_values):
        outputs = original(pixel_values)
        outputs.pooler_output[pixel_values.flatten(1).std(dim=1) < 0.2] = float("inf")
        return outputs

    model.get_image_features = overflow_on_blank
    with pytest.raises(ValueError, match="embedding of image 4 is not finite"):
        encode_images(model, processor, [*images[:4], blank, *images[4:]], batch_size=3, progress=False)
    with torch.no_grad():
        model.text_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"embedding of caption \d is not finite"):
        encode_captions(model, processor, CAPTIONS, progress=False)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_that_is_not_positive_is_refused(model, processor, images, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be positive, not {batch_size}"):
        encode_images(model, processor, images, batch_size=batch_size, progress=False)
    with pytest.raises(ValueError, match=f"batch_size must be positive, not {batch_size}"):
        encode_captions(model, processor, CAPTIONS, batch_size=batch_size, progress=False)
