"""Half-precision weights: what is saved, what comes back, and what is computed in float32 all the same."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForPreTraining

from modeling_gadms import GADMSForPreTraining, GADMSModel
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from tests.captions import CAPTIONS


HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
# Half of the last digit's weight, relative: 8 and 11 bits of significand.
PRECISION = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.fixture
def half_folder(tmp_path, tiny_model, processor):
    """A function that saves a model with a learned temperature of 1 / 37 in half precision."""

    def save(dtype: torch.dtype):
        model = tiny_model(learn_temperature=True, temperature=1 / 37, num_identities=3)
        whole, half = tmp_path / "whole", tmp_path / "half"
        model.save_pretrained(whole)
        GADMSForPreTraining.from_pretrained(whole, dtype=dtype).save_pretrained(half)
        processor.save_pretrained(half)
        return half, model.eval()

    return save


@HALF
def test_weights_are_saved_in_half_precision_but_for_the_temperature(half_folder, dtype):
    folder, model = half_folder(dtype)
    with safe_open(folder / "model.safetensors", "pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}
        scale = file.get_tensor("gadms.logit_scale")
    assert dtypes.pop("gadms.logit_scale") == torch.float32
    assert set(dtypes.values()) == {dtype}
    assert torch.equal(scale, model.gadms.logit_scale.detach())


@HALF
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForPreTraining])
def test_half_precision_loads_as_it_was_saved(half_folder, auto_class, dtype):
    folder, model = half_folder(dtype)
    loaded = auto_class.from_pretrained(folder)
    assert loaded.dtype == dtype
    others = {parameter.dtype for name, parameter in loaded.named_parameters() if "logit_scale" not in name}
    assert others == {dtype}
    assert torch.equal(loaded.base_model.temperature, model.gadms.temperature)


@HALF
def test_loaded_as_float32_it_is_the_model_with_rounded_weights(half_folder, batch, dtype):
    folder, model = half_folder(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit_scale" not in name:
                parameter.copy_(parameter.to(dtype).float())
        loaded = GADMSModel.from_pretrained(folder, dtype=torch.float32).eval()
        there, here = loaded(**batch), model.gadms(**batch)
    assert torch.equal(there.logits_per_text, here.logits_per_text)


@HALF
def test_similarities_are_float32_and_near_those_of_float32_weights(half_folder, batch, dtype):
    folder, model = half_folder(dtype)
    half = GADMSModel.from_pretrained(folder).eval()
    with torch.no_grad():
        there, here = half(**batch), model.gadms(**batch)
    for name in ("logits_per_text", "logits_per_image", "image_embeds", "text_embeds"):
        assert there[name].dtype == torch.float32
    for name in ("image_embeds", "text_embeds"):
        # Rounding errors of a few layers add up to a few times that of one number.
        torch.testing.assert_close(there[name], here[name], rtol=0, atol=4 * PRECISION[dtype])
        torch.testing.assert_close(there[name].norm(dim=-1), torch.ones(len(there[name])))
    # No similarity is rounded to half precision on its way out.
    exact = there.text_embeds @ there.image_embeds.T * half.logit_scale.exp()
    torch.testing.assert_close(there.logits_per_text, exact)


@HALF
def test_token_scores_are_computed_in_float32(half_folder, batch, dtype):
    folder, model = half_folder(dtype)
    half = GADMSModel.from_pretrained(folder).eval()
    exact = GADMSModel.from_pretrained(folder, dtype=torch.float32).eval()
    images = torch.nn.functional.normalize(torch.randn(len(CAPTIONS), 16, generator=torch.manual_seed(0)), dim=-1)
    arguments = (batch["input_ids"], batch["attention_mask"], images)
    for method in ("gass", "cosine"):
        scores = half.score_tokens(*arguments, method=method)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, exact.score_tokens(*arguments, method=method))


@HALF
def test_search_and_training_take_a_half_precision_folder(half_folder, batch, images, dtype):
    folder, model = half_folder(dtype)
    loaded, processor = load_model_and_processor(folder)
    assert loaded.dtype == dtype
    for embeds in (
        encode_images(loaded, processor, images, progress=False),
        encode_captions(loaded, processor, CAPTIONS, progress=False),
    ):
        assert embeds.dtype == torch.float32
        assert torch.isfinite(embeds).all()
    outputs = GADMSForPreTraining.from_pretrained(folder).train()(**batch, person_ids=torch.tensor([0, 1, 2, 0]))
    assert outputs.image_embeds.dtype == outputs.temperature.dtype == torch.float32
    assert torch.isfinite(outputs.identity_loss)
    outputs.identity_loss.backward()
