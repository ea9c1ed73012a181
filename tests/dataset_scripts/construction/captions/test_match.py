"""A caption that does not fit its picture is as none: it is asked for again, and rejected at last."""

import io

import pyarrow as pa
import pytest
import torch
from PIL import Image
from row_tables import ScriptedChat, answer_with, column, jpeg, new_rows, run_blocks, trails
from transformers import BertConfig, BertModel, CLIPConfig, CLIPImageProcessorPil, CLIPModel, ViTConfig, ViTModel

from dataset_scripts.construction.blocks import in_order, run_shard
from dataset_scripts.construction.captions.caption import (
    AskCaptioner,
    Attempt,
    CaptionSettings,
    DrawTemplate,
    VerifyCaption,
)
from dataset_scripts.construction.captions.chat.types import ChatSettings
from dataset_scripts.construction.captions.match import MatchCaption, MatchSettings, load_dual_encoder
from dataset_scripts.construction.captions.rules import CaptionRules
from modeling_gadms import GADMSModel


TEXTS = [
    "A man wears a red jacket, dark blue jeans and white sneakers, and carries a backpack.",
    "A woman in a green shirt, grey trousers and brown boots carries a yellow bag in her hand.",
    "Someone wears a black coat, a white hat and blue trousers, with brown shoes on the feet.",
]


@pytest.fixture(autouse=True)
def no_shared_model():
    load_dual_encoder.cache_clear()


@pytest.fixture
def clip_folder(tmp_path, tokenizer):
    """A random CLIP of 32x32 pixels, saved with all that belongs to it."""
    torch.manual_seed(3)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = size | {"vocab_size": len(tokenizer), "max_position_embeddings": 24}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = size | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    folder = tmp_path / "clip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shape = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=shape).save_pretrained(folder)
    return folder


@pytest.fixture
def gadms_folder(tmp_path, tiny_model, processor):
    folder = tmp_path / "gadms"
    tiny_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def rows(count: int = 3) -> pa.Table:
    crops = pa.array([jpeg(number) for number in range(count)], pa.large_binary())
    return new_rows(count, pa.table({"crop": crops, "caption1": TEXTS[:count]}))


def picture(number: int) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(number))).convert("RGB")


def clip_cosines(folder, tokenizer) -> list[float]:
    """CLIP's own: what its two halves give for one squashed picture and one caption alone."""
    model = CLIPModel.from_pretrained(folder).eval()
    process = CLIPImageProcessorPil.from_pretrained(folder)
    values = []
    for number, text in enumerate(TEXTS):
        inputs = dict(tokenizer(text, return_tensors="pt", truncation=True))
        squashed = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
        pixels = process(picture(number), return_tensors="pt", **squashed)["pixel_values"]
        with torch.no_grad():
            outputs = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels
            )
        values.append(float(outputs.logits_per_image) / model.logit_scale.exp().item())
    return values


def gadms_cosines(folder, processor) -> list[float]:
    model = GADMSModel.from_pretrained(folder).eval()
    values = []
    for number, text in enumerate(TEXTS):
        inputs = processor(images=[picture(number)], text=[text])
        with torch.no_grad():
            image = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
            words = model.get_text_features(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
        values.append(float(torch.nn.functional.cosine_similarity(image, words)))
    return values


@pytest.mark.parametrize("kind", ["clip", "gadms"])
def test_the_similarity_is_the_models_own_cosine(kind, clip_folder, gadms_folder, tokenizer, processor):
    folder, expected = {
        "clip": (clip_folder, clip_cosines(clip_folder, tokenizer)),
        "gadms": (gadms_folder, gadms_cosines(gadms_folder, processor)),
    }[kind]
    block = MatchCaption(Attempt("caption1", 1, 1), MatchSettings(str(folder), min_similarity=-1))
    done = in_order(run_blocks([block], rows()))
    assert column(done, "similarity1") == pytest.approx(expected, abs=6e-5)
    assert len(set(column(done, "similarity1"))) == 3 and column(done, "caption1") == TEXTS


def similarities(folder) -> list[float]:
    block = MatchCaption(Attempt("caption1", 1, 1), MatchSettings(str(folder), min_similarity=-1))
    return column(in_order(run_blocks([block], rows())), "similarity1")


def test_a_similarity_at_the_threshold_is_enough_and_one_below_is_not(clip_folder):
    measured = similarities(clip_folder)
    middle = sorted(measured)[1]
    block = MatchCaption(Attempt("caption1", 1, 1), MatchSettings(str(clip_folder), min_similarity=middle))
    done = in_order(run_blocks([block], rows())).to_pydict()
    fits = [value >= middle for value in measured]
    assert sorted(fits) == [False, True, True]
    assert [reason is None for reason in done["reason"]] == fits
    lowest = fits.index(False)
    assert done["reason"][lowest] == "does not match the image"
    assert done["detail"][lowest] == f"similarity {measured[lowest]}"
    assert done["caption1"][lowest] is None and done["similarity1"][lowest] is None
    assert [value for value in done["similarity1"] if value is not None] == [m for m in measured if m >= middle]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_pairs_are_encoded_in_the_batches_of_the_settings(clip_folder, batch_size):
    whole = similarities(clip_folder)
    settings = MatchSettings(str(clip_folder), -1, batch_size)
    block = MatchCaption(Attempt("caption1", 1, 1), settings)
    done = in_order(run_blocks([block], rows()))
    assert block.batch_size == batch_size
    assert column(done, "similarity1") == pytest.approx(whole, abs=1e-4)


def test_a_low_match_is_noted_and_asked_for_again(clip_folder, tmp_path, monkeypatch):
    """A stand-in for the model says which captions fit: the cosine itself is tested above."""
    measured = iter([torch.tensor([[1.0], [0.1], [1.0]]), torch.tensor([[0.5]])])
    monkeypatch.setattr("modeling_gadms.encoders.encoding.encode_images", lambda *_, **__: torch.tensor([[1.0]]))
    monkeypatch.setattr("modeling_gadms.encoders.encoding.encode_captions", lambda *_, **__: next(measured))
    chat = answer_with(monkeypatch, ScriptedChat(lambda request, number: TEXTS[number % 3]))
    settings, blocks = CaptionSettings(), []
    for number in (1, 2):
        attempt = Attempt("caption1", number, 2)
        server = ChatSettings("openai", "m", base_url="http://127.0.0.1:9/v1")
        blocks += [
            DrawTemplate(attempt, settings),
            AskCaptioner(attempt, settings, server, tmp_path / "journal"),
            VerifyCaption(attempt, CaptionRules()),
            MatchCaption(attempt, MatchSettings(str(clip_folder), 0.2)),
        ]
    done = in_order(run_blocks(blocks, rows().drop_columns(["caption1"])))
    assert column(done, "similarity1") == [1.0, 0.5, 1.0] and column(done, "rejected_by") == [None] * 3
    assert column(done, "caption1") == [TEXTS[0], TEXTS[0], TEXTS[2]]  # the fourth reply is the first text again
    assert [request.image for request in chat.asked[3:]] == [jpeg(1)]
    assert ("match 1", "does not match the image") in trails(done)["r1"]
    assert [name for name, _ in trails(done)["r0"]][-1] == "match 1"


def test_a_row_without_a_caption_is_not_matched(clip_folder):
    block = MatchCaption(Attempt("caption1", 1, 2), MatchSettings(str(clip_folder), -1))
    table = rows().set_column(rows().schema.get_field_index("caption1"), "caption1", pa.array([TEXTS[0], None, None]))
    block.prepare()
    done = in_order(run_shard(block, table))
    assert [bool(trail) for trail in trails(done).values()] == [True, False, False]


def test_one_model_is_loaded_for_all_columns_and_attempts(clip_folder):
    for column_name, number in (("caption1", 1), ("caption1", 2), ("caption2", 1)):
        MatchCaption(Attempt(column_name, number, 2), MatchSettings(str(clip_folder))).prepare()
    assert load_dual_encoder.cache_info().misses == 1


def test_a_model_that_is_no_dual_encoder_is_refused_by_name_and_kind(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    models = {"vit": ViTModel(ViTConfig(**size, image_size=16, patch_size=8)), "bert": BertModel(BertConfig(**size))}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} holds a model of type '{name}', not one of the supported"):
            load_dual_encoder(str(tmp_path / name))


def test_a_model_that_lacks_weights_is_refused(clip_folder):
    from safetensors.torch import load_file, save_file

    path = clip_folder / "model.safetensors"
    weights = load_file(path)
    del weights["text_projection.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of CLIPModel, such as text_projection.weight"):
        load_dual_encoder(str(clip_folder))


def test_a_model_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_dual_encoder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("values", [{"min_similarity": 1.1}, {"min_similarity": -2}, {"batch_size": 0}])
def test_settings_out_of_their_range_are_named(values):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"`{name}` .*not {value}"):
        MatchSettings("model", **values)
