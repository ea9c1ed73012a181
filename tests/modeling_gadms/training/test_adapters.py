"""Adapters on both encoders: which layers they are on, what they compute, and how they merge into whole models."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from modeling_gadms import GADMSForPreTraining, GADMSModel
from modeling_gadms.encoders.fingerprint import model_fingerprint
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.adapters import TARGETS, AdapterArguments, add_adapter, merge_adapter
from modeling_gadms.training.footprint import count_parameters, describe_parameters
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments, load_run_config


METHODS = ("lora", "dora")


@pytest.fixture
def adapt(model_folder):
    """A function that loads the base for a data set of three persons and adds an adapter to it."""

    def make(*, base: Path = model_folder, seed: int = 1, **arguments):
        torch.manual_seed(seed)
        start = ModelArguments(from_pretrained=str(base), config={"num_identities": 3})
        model, _ = build_model_and_processor(start, [])
        return add_adapter(model, AdapterArguments(**({"rank": 4} | arguments)), str(base))

    return make


def disturb(wrapped: nn.Module) -> nn.Module:
    """As if it had been trained: every trained number is another one."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return wrapped.eval()


@pytest.fixture
def adapter_folder(adapt, processor, tmp_path):
    """A function that saves a disturbed adapter, and gives the wrapped model and the folder."""

    def save(**options) -> tuple[nn.Module, Path]:
        wrapped = disturb(adapt(**options))
        folder = tmp_path / "adapter"
        wrapped.save_pretrained(folder)
        processor.save_pretrained(folder)
        return wrapped, folder

    return save


def merged_by_hand(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The definition: W + (alpha / r) B A, and for DoRA each row of that brought to its learned length."""
    state = {name.removeprefix("gadms."): value for name, value in load_file(base / "model.safetensors").items()}
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    for name, lora_a in weights.items():
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            target = stem.removeprefix("base_model.model.gadms.") + ".weight"
            merged = state[target] + config["lora_alpha"] / config["r"] * weights[f"{stem}.lora_B.weight"] @ lora_a
            if config["use_dora"]:
                lengths = weights[f"{stem}.lora_magnitude_vector"]
                merged = merged * (lengths / merged.norm(dim=1))[:, None]
            state[target] = merged
    return state


# ---------------------------------------------------------------------------------------------------------------------
# The section of a run file.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def run_file(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {from_pretrained: some/model}\ndata: {dataset: synthetic_persons}\n"
        f"training: {{output_dir: {tmp_path}/out, use_cpu: true}}\n"
        "adapter: {method: dora, rank: 4, encoders: [image], targets: [q_proj, fc2]}\n"
    )
    return path


def test_a_section_asks_for_an_adapter(run_file):
    expected = AdapterArguments(method="dora", rank=4, encoders=["image"], targets=["q_proj", "fc2"])
    assert load_run_config(run_file).adapter == expected


def test_overrides_reach_the_section(run_file):
    assert load_run_config(run_file, ["adapter.rank=8", "adapter.alpha=1.5"]).adapter.rank == 8


def test_without_the_section_all_weights_are_trained(run_file):
    run_file.write_text(run_file.read_text().partition("adapter:")[0])
    assert load_run_config(run_file).adapter is None
    assert load_run_config(run_file, ["adapter.rank=8"]).adapter == AdapterArguments(rank=8), "an override begins one"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("adapter.rnk=8", "unknown key `rnk` in section `adapter` of .*did you mean `rank`"),
        ("adapter.rank=eight", "`rank` in section `adapter` of .* is 'eight'; it must be int"),
        ("adapter.method=ia3", "`method` in section `adapter` of .* is 'ia3'; it must be lora | dora"),
        ("adapter.rank=0", "adapter.rank = 0 must be at least 1"),
        ("adapter.alpha=0", "adapter.alpha = 0 must be positive"),
        ("adapter.dropout=1.0", "adapter.dropout = 1.0 must lie between 0 and 1"),
        ("adapter.encoders=[vision]", r"adapter.encoders = \['vision'\] must be some of text, image"),
        ("adapter.encoders=[]", r"adapter.encoders = \[\] must be some of text, image"),
        ("adapter.targets=[q_proj, q_proj]", "must be some of q_proj, .*, each once"),
        ("model.from_pretrained=null", "these weights would be random: set model.from_pretrained"),
        ("model.text_config.hidden_act=gelu", "model.text_config.hidden_act is given by the base"),
    ],
)
def test_a_mistake_in_the_section_is_told(run_file, override, message):
    with pytest.raises(ValueError, match=message):
        load_run_config(run_file, [override])


def test_clip_is_to_be_converted_first(run_file):
    overrides = ["model.from_pretrained=null", "model.from_clip=openai/clip-vit-base-patch16"]
    with pytest.raises(ValueError, match="`gadms convert openai/clip-vit-base-patch16 FOLDER`"):
        load_run_config(run_file, overrides)


def test_dropout_of_the_encoders_may_be_set(run_file):
    load_run_config(run_file, ["model.text_config.attention_dropout=0.1"])


# ---------------------------------------------------------------------------------------------------------------------
# Wrapping.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoders", [("text", "image"), ("text",), ("image",)])
@pytest.mark.parametrize("targets", [tuple(TARGETS), ("out_proj",), ("q_proj", "fc1")])
def test_an_adapter_is_on_the_layers_that_were_asked_for_and_on_no_other(adapt, tiny_model, encoders, targets):
    towers = [{"text": "text_model", "image": "vision_model"}[encoder] for encoder in encoders]
    expected = {
        name
        for name, module in tiny_model().gadms.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] in towers and name.split(".")[-1] in targets
    }
    wrapped = adapt(encoders=encoders, targets=targets)
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    found = {name.partition(".gadms.")[2].partition(".lora_")[0] for name in trained if ".gadms." in name}
    assert found == expected and len(found) == len(targets) * (3 * ("text" in encoders) + 2 * ("image" in encoders))


def test_all_linear_layers_of_both_encoders_are_adapted_by_default(adapt, tiny_model):
    model = tiny_model().gadms
    blocks = [*model.text_model.encoder.layers, *model.vision_model.encoder.layers]
    expected = sum(isinstance(module, nn.Linear) for block in blocks for module in block.modules())
    assert sum(name.endswith("lora_A.default.weight") for name, _ in adapt().named_parameters()) == expected


def test_the_scale_is_twice_the_rank_unless_it_is_given(adapt):
    scales = [adapt(rank=8, **given).peft_config["default"].lora_alpha for given in ({}, {"alpha": 3.0})]
    assert scales == [16, 3.0]


def test_the_base_is_written_down_as_an_absolute_folder(adapt, model_folder, monkeypatch):
    monkeypatch.chdir(model_folder.parent)
    config = adapt(base=Path(model_folder.name)).peft_config["default"]
    assert config.base_model_name_or_path == str(model_folder.resolve()) and config.revision is None


@pytest.mark.parametrize("method", METHODS)
def test_before_a_step_a_model_computes_what_its_base_computes(adapt, model_folder, batch, method):
    base = GADMSModel.from_pretrained(model_folder).eval()
    with torch.no_grad():
        expected, found = base(**batch), adapt(method=method).eval()(**batch)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, rtol=0, atol=1e-6)


def test_counts_of_parameters_are_those_of_the_layers(adapt, tiny_model):
    wrapped, whole = adapt(rank=4), tiny_model(num_identities=3)
    matrices = sum(
        4 * sum(module.weight.shape)
        for name, module in whole.gadms.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    )
    new = [whole.fusion, whole.token_head, whole.classifier]
    trained = matrices + sum(parameter.numel() for module in new for parameter in module.parameters())
    total = matrices + sum(parameter.numel() for parameter in whole.parameters())
    assert count_parameters(wrapped) == (trained, total)
    assert describe_parameters(wrapped) == f"{trained:,} of {total:,} parameters are trained ({trained / total:.2%})"


def test_new_modules_can_stay_as_the_base_has_them(adapt):
    trained = {
        name for name, parameter in adapt(train_new_modules=False).named_parameters() if parameter.requires_grad
    }
    assert not any(".fusion." in name or ".token_head." in name for name in trained)
    assert any(".classifier." in name for name in trained), "the persons are new to any base"


def test_new_modules_cannot_stay_at_random(adapt, tiny_model, model_folder):
    tiny_model().gadms.save_pretrained(model_folder)
    with pytest.raises(ValueError, match="has no fusion: it would stay random; set adapter.train_new_modules=true"):
        adapt(train_new_modules=False)


def test_an_adapter_is_no_start_of_another_training(adapter_folder):
    _, folder = adapter_folder()
    with pytest.raises(ValueError, match=f"is an adapter, .*`gadms convert {folder} FOLDER`"):
        build_model_and_processor(ModelArguments(from_pretrained=str(folder)), [])


# ---------------------------------------------------------------------------------------------------------------------
# Adapted models compute what their definition says, scores included.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_embeddings_and_scores_through_adapted_layers_are_those_of_weights_merged_by_hand(
    adapter_folder, model_folder, batch, method
):
    wrapped, folder = adapter_folder(method=method)
    assert any("lora_magnitude_vector" in name for name, _ in wrapped.named_parameters()) == (method == "dora")
    model = GADMSModel.from_pretrained(model_folder).eval()
    model.load_state_dict(
        {name: value for name, value in merged_by_hand(model_folder, folder).items() if name in model.state_dict()}
    )
    with torch.no_grad():
        expected, found = model(**batch), wrapped(**batch)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, rtol=0, atol=1e-5)
    base = GADMSModel.from_pretrained(model_folder).eval()
    inputs = (batch["input_ids"], batch["attention_mask"], expected.image_embeds)
    for score in ("gass", "cosine"):
        scores = wrapped.train().get_base_model().gadms.score_tokens(*inputs, method=score)
        torch.testing.assert_close(scores, model.score_tokens(*inputs, method=score), rtol=0, atol=1e-5)
        assert (scores - base.score_tokens(*inputs, method=score)).abs().max() > 0.01, "the adapter is not trivial"


def test_scores_ignore_dropout_of_the_adapter_and_leave_it_on(adapter_folder, batch):
    wrapped, _ = adapter_folder(dropout=0.5)
    model = wrapped.train().get_base_model().gadms
    inputs = (batch["input_ids"], batch["attention_mask"], torch.ones(4, 16))
    assert torch.equal(model.score_tokens(*inputs), model.score_tokens(*inputs))
    assert all(module.training for module in wrapped.modules())


# ---------------------------------------------------------------------------------------------------------------------
# Loading and merging.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_a_folder_of_an_adapter_loads_as_a_whole_model(adapter_folder, model_folder, method):
    _, folder = adapter_folder(method=method)
    model, processor = load_model_and_processor(folder)
    assert type(model) is GADMSModel and not model.training and not hasattr(model, "peft_config")
    assert model.name_or_path == str(folder), "what a gallery remembers"
    expected = merged_by_hand(model_folder, folder)
    state = model.cpu().state_dict()
    assert state.keys() <= expected.keys(), "no trace of the adapter's own layers"
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_and_saved_model_is_the_same_one_as_the_adapter_on_its_base(
    adapter_folder, model_folder, tmp_path, method
):
    _, folder = adapter_folder(method=method)
    merge_adapter(folder, tmp_path / "merged")
    adapter, merged, base = (
        model_fingerprint(*load_model_and_processor(place)) for place in (folder, tmp_path / "merged", model_folder)
    )
    assert adapter == merged != base


def test_merging_keeps_what_training_adds_where_the_base_has_it(adapter_folder, model_folder, tmp_path, batch):
    wrapped, folder = adapter_folder()
    (folder / "run.json").write_text('{"seed": 5}')
    report = merge_adapter(folder, tmp_path / "new" / "merged")
    assert (report.model_class, report.layers, report.dropped) == ("GADMSForPreTraining", 30, ())
    assert report.replaced == ("classifier", "fusion", "token_head") and "30 adapted layers" in report.to_text()
    merged = GADMSForPreTraining.from_pretrained(tmp_path / "new" / "merged").eval()
    assert merged.classifier.out_features == 3
    inputs = batch | {"person_ids": torch.tensor([0, 1, 2, 0])}
    outputs = []
    for model in (merged, wrapped):
        torch.manual_seed(0)  # of the masks
        with torch.no_grad():
            outputs.append(model(**inputs, masking=True))
    for name in ("image_embeds", "text_embeds", "mtp_loss", "identity_loss"):
        torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "new" / "merged" / "run.json").read_text()) == {"seed": 5}
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "merged"], "nothing else is left behind"


def test_a_retrieval_model_stays_one_and_what_it_leaves_out_is_told(
    adapter_folder, tiny_model, model_folder, tmp_path
):
    tiny_model().gadms.save_pretrained(model_folder)
    _, folder = adapter_folder()
    report = merge_adapter(folder, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["architectures"] == ["GADMSModel"]
    assert report.dropped == ("classifier", "fusion", "token_head") and report.replaced == ()
    assert "dropped, as the base is a GADMSModel: classifier, fusion, token_head" in report.to_text()
    load_model_and_processor(tmp_path / "merged")


def test_an_adapter_on_one_encoder_leaves_the_other_as_it_is(adapter_folder, model_folder):
    _, folder = adapter_folder(encoders=("image",), targets=("v_proj",))
    state = load_model_and_processor(folder)[0].cpu().state_dict()
    base = GADMSModel.from_pretrained(model_folder).state_dict()
    changed = {name for name, value in base.items() if not torch.equal(value, state[name])}
    assert changed == {f"vision_model.encoder.layers.{layer}.self_attn.v_proj.weight" for layer in range(2)}


def test_the_base_is_read_in_float32_whatever_it_was_saved_in(adapter_folder, model_folder, tmp_path):
    GADMSForPreTraining.from_pretrained(model_folder).to(torch.bfloat16).save_pretrained(model_folder)
    wrapped, folder = adapter_folder()
    merge_adapter(folder, tmp_path / "merged")
    for place in (folder, tmp_path / "merged"):
        model, _ = load_model_and_processor(place)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    weight = model.cpu().text_model.encoder.layers[0].mlp.fc1.weight
    layer = wrapped.get_base_model().gadms.text_model.encoder.layers[0].mlp.fc1
    torch.testing.assert_close(weight, layer.base_layer.weight + layer.get_delta_weight("default"), rtol=0, atol=1e-6)


def test_a_merge_never_writes_over_what_is_there(adapter_folder, model_folder):
    _, folder = adapter_folder()
    before = (model_folder / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="already exists; give a new or an empty folder"):
        merge_adapter(folder, model_folder)
    assert (model_folder / "model.safetensors").read_bytes() == before


def test_a_merge_that_fails_leaves_nothing(adapter_folder, tmp_path):
    _, folder = adapter_folder()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "processor_config.json").unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, OSError)):
        merge_adapter(folder, tmp_path / "merged")
    assert sorted(tmp_path.iterdir()) == before


def test_only_an_adapter_is_merged(model_folder, tmp_path):
    with pytest.raises(ValueError, match="holds no adapter"):
        merge_adapter(model_folder, tmp_path / "merged")


def test_modules_that_do_not_fit_the_base_are_told(adapter_folder, tiny_model, model_folder, tmp_path):
    _, folder = adapter_folder()
    shutil.rmtree(model_folder)
    tiny_model(fusion_intermediate_size=24).save_pretrained(model_folder)
    with pytest.raises(ValueError, match=r"does not fit .*fusion\..* has shape \(\d+(, \d+)?,?\), not"):
        merge_adapter(folder, tmp_path / "merged")
