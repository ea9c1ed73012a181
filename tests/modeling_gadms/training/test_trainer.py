"""The trainer on one process: objective, logs, parameter groups, accumulation, evaluation, best checkpoint."""

from collections import Counter
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForPreTraining, TrainerCallback

from modeling_gadms import GADMSProcessor
from modeling_gadms.losses_gadms import (
    image_query_contrastive_loss,
    image_text_contrastive_loss,
    similarity_distribution_matching_loss,
)
from modeling_gadms.training.callbacks import StopIfNotFinite, refuse_weights_not_finite
from modeling_gadms.training.data import DatasetColumns, ImageCaptionPairs, PairCollator, PersonAugmentation
from modeling_gadms.training.trainer import EVALUATION_METRICS, GADMSTrainer, GADMSTrainingArguments, retrieval_metrics


CAPTIONS = [
    "A man in a red coat and blue jeans.",
    "A woman with a black backpack and a white hat.",
    "A green shirt, grey trousers and brown boots.",
    "Person.",
    "Someone in yellow carries a bag.",
]
# Masks that scores decide alone, whatever is drawn.
SHARP = {"noise_mask_rate": 1.0, "informative_mask_rate": 1.0, "mask_sharpness": 1e6}


@pytest.fixture
def processor(tokenizer) -> GADMSProcessor:
    return GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))


def make_pairs(num_rows: int, *, num_persons: int | None = None, seed: int = 0, **options) -> ImageCaptionPairs:
    """Noise images, kept as pixels, with two captions each."""
    rows = {
        "image": list(range(num_rows)),
        # A number in each, so that no two captions tie.
        "caption1": [f"{CAPTIONS[row % len(CAPTIONS)]} {row}" for row in range(num_rows)],
        "caption2": [f"{row} {CAPTIONS[(2 * row + 1) % len(CAPTIONS)]}" for row in range(num_rows)],
        "person_id": [row % (num_persons or num_rows) for row in range(num_rows)],
    }
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num_rows, 3, 32, 16), dtype=torch.uint8, generator=generator)
    columns = DatasetColumns(person_id="person_id")
    return ImageCaptionPairs(datasets.Dataset.from_dict(rows), columns, pixel_cache=pixels, **options)


@pytest.fixture
def make_trainer(tmp_path, processor):
    """A function that makes a trainer; keyword arguments that are none of its parameters go to the arguments."""

    def make(model, train_dataset=None, *, eval_dataset=None, augmentation=None, callbacks=None, **training):
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "max_steps": 3,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return GADMSTrainer(
            model,
            GADMSTrainingArguments(**(defaults | training)),
            processing_class=processor,
            train_dataset=make_pairs(12) if train_dataset is None else train_dataset,
            eval_dataset=eval_dataset,
            augmentation=augmentation,
            callbacks=callbacks,
        )

    return make


def training_logs(trainer: GADMSTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class ForwardPasses(TrainerCallback):
    """Keeps inputs and outputs of each training forward pass."""

    def __init__(self, model: nn.Module):
        self.seen: list[SimpleNamespace] = []

        def keep(module, arguments, inputs, outputs):
            if module.training:
                self.seen.append(SimpleNamespace(inputs=inputs, outputs=outputs))

        model.register_forward_hook(keep, with_kwargs=True)


# Objectives


OBJECTIVES = {
    "gass": {},
    "cosine": {"token_score": "cosine"},
    "random": {"token_score": "random"},
    "none": {"token_score": "none"},
    "itc": {"alignment": "itc", "learn_temperature": True},
    "no prediction": {"masked_token_prediction": False},
    "no noise mask": {"noise_masking": False},
    "identity": {"num_identities": 12},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_moves_every_parameter_of_the_objective(name, make_trainer, tiny_model):
    fields = {"informative_mask_rate": 0.9, "learn_temperature": True} | OBJECTIVES[name]
    model = tiny_model(**fields)
    before = snapshot(model)
    trainer = make_trainer(model, max_steps=4, learning_rate=1e-2, lr_scheduler_type="constant")
    trainer.train()
    # Without scores nothing is predicted, and what predicts does not learn.
    idle = ("fusion.", "token_head.") if name == "none" else ()
    for key, value in snapshot(model).items():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, before[key]) == key.startswith(idle or "-"), key
    for entry in training_logs(trainer):
        assert ("mtp_loss" in entry) == (name not in ("none", "no prediction"))
        assert ("identity_loss" in entry) == (name == "identity")
        assert ("noise_mask_rate" in entry) == (name not in ("none", "no noise mask"))


def test_training_lowers_the_loss_on_a_set_that_can_be_learned(make_trainer, tiny_model):
    model = tiny_model(alignment="itc", learn_temperature=True, temperature=0.07)
    pairs = make_pairs(5)  # five captions, five images
    trainer = make_trainer(model, pairs, per_device_train_batch_size=5, max_steps=60, learning_rate=3e-3)
    trainer.train()
    losses = [entry["alignment_loss"] for entry in training_logs(trainer)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_logged_terms_are_those_of_the_model_outputs(make_trainer, tiny_model):
    model = tiny_model(num_identities=4, identity_weight=0.7, mtp_weight=0.3, temperature=0.1)
    passes = ForwardPasses(model)
    trainer = make_trainer(model, make_pairs(12, num_persons=4), callbacks=[passes])
    trainer.train()
    logs = training_logs(trainer)
    assert len(logs) == len(passes.seen) == 3
    for entry, seen in zip(logs, passes.seen, strict=True):
        outputs = seen.outputs
        alignment = similarity_distribution_matching_loss(
            outputs.image_embeds, outputs.text_embeds, seen.inputs["person_ids"], temperature=0.1
        )
        expected = {
            "alignment_loss": alignment,
            "mtp_loss": outputs.mtp_loss,
            "identity_loss": outputs.identity_loss,
            "loss": alignment + 0.3 * outputs.mtp_loss + 0.7 * outputs.identity_loss,
            "temperature": 0.1,
            "noise_mask_rate": outputs.noise_mask.sum() / outputs.own_tokens.sum(),
            "informative_mask_rate": outputs.informative_mask.sum() / outputs.own_tokens.sum(),
            "truncated_captions": 0.0,
        }
        assert {name: entry[name] for name in expected} == pytest.approx(
            {name: torch.as_tensor(value).item() for name, value in expected.items()}, rel=1e-5
        )


def test_the_query_loss_is_that_of_the_images_that_fit(make_trainer, tiny_model):
    """A query fits the images whose captions state all of it, and those of its person."""
    model = tiny_model(temperature=0.1, mtp_weight=0.0)
    passes = ForwardPasses(model)
    batches = []
    trainer = make_trainer(model, make_pairs(12, num_persons=6, short_queries=3), callbacks=[passes], query_weight=0.5)
    collate = trainer.data_collator
    trainer.data_collator = lambda pairs: batches.append(pairs) or collate(pairs)
    trainer.train()
    for entry, seen, pairs in zip(training_logs(trainer), passes.seen, batches, strict=True):
        fits = torch.tensor(
            [
                [
                    pair["person_id"] == other["person_id"]
                    or all(any(words <= fact for fact in other["stated"]) for words in query.statements)
                    for other in pairs
                ]
                for pair in pairs
                for query in pair["queries"]
            ]
        )
        assert len(fits) < fits.sum() < fits.numel()
        outputs = seen.outputs
        expected = image_query_contrastive_loss(
            outputs.image_embeds, outputs.query_embeds, fits.T, fits, temperature=0.1
        )
        assert entry["query_loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert entry["loss"] == pytest.approx(entry["alignment_loss"] + 0.5 * expected.item(), rel=1e-5)


@pytest.mark.parametrize("alignment", ["sdm", "itc"])
def test_the_loss_of_a_batch_is_that_of_the_trainer(make_trainer, tiny_model, processor, alignment):
    model = tiny_model(alignment=alignment, num_identities=12, identity_weight=0.7, mtp_weight=0.3, **SHARP).train()
    batch = PairCollator(processor)([make_pairs(4, num_persons=3)[index] for index in range(4)])
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(make_trainer(model).compute_loss(model, batch).item(), rel=1e-6)
    batch.pop("person_ids")
    assert model(**batch).loss.item() > 0 and model(**batch | {"return_loss": False}).loss is None


def test_a_log_over_several_steps_holds_their_mean(make_trainer, tiny_model):
    logs = []
    for steps in (1, 2):
        trainer = make_trainer(tiny_model(), max_steps=4, logging_steps=steps)
        trainer.train()
        logs.append(training_logs(trainer))
    single, double = logs
    assert (len(single), len(double)) == (4, 2)
    for index, entry in enumerate(double):
        for name in ("loss", "alignment_loss", "mtp_loss"):
            mean = (single[2 * index][name] + single[2 * index + 1][name]) / 2
            assert entry[name] == pytest.approx(mean, rel=1e-5), name


def test_a_masking_rate_over_several_steps_is_a_share_of_all_their_tokens(make_trainer, tiny_model):
    """Not a mean of the batches' shares, in which a token of a short batch would count more."""
    model = tiny_model(token_score="random", noise_mask_rate=0.5, informative_mask_rate=0.5)
    passes = ForwardPasses(model)
    trainer = make_trainer(model, per_device_train_batch_size=1, max_steps=12, logging_steps=12, callbacks=[passes])
    trainer.train()
    (entry,) = training_logs(trainer)
    assert len({int(seen.outputs.own_tokens.sum()) for seen in passes.seen}) > 1, "of different lengths"
    own = sum(int(seen.outputs.own_tokens.sum()) for seen in passes.seen)
    for name in ("noise_mask", "informative_mask"):
        masked = sum(int(seen.outputs[name].sum()) for seen in passes.seen)
        assert entry[f"{name}_rate"] == pytest.approx(masked / own, rel=1e-6)


def test_masking_rates_lie_between_zero_and_alpha(make_trainer, tiny_model):
    trainer = make_trainer(tiny_model(noise_mask_rate=0.3, informative_mask_rate=0.4), max_steps=60, logging_steps=60)
    trainer.train()
    (entry,) = training_logs(trainer)
    assert 0 < entry["noise_mask_rate"] <= 0.3
    assert 0 < entry["informative_mask_rate"] <= 0.4


def test_random_masking_rates_are_alpha(make_trainer, tiny_model):
    model = tiny_model(token_score="random", noise_mask_rate=0.3, informative_mask_rate=0.6)
    trainer = make_trainer(model, max_steps=60, logging_steps=60)
    trainer.train()
    (entry,) = training_logs(trainer)
    assert entry["noise_mask_rate"] == pytest.approx(0.3, abs=0.04)  # about 2,000 tokens
    assert entry["informative_mask_rate"] == pytest.approx(0.6, abs=0.04)


def test_truncated_captions_are_counted(make_trainer, tiny_model, processor):
    pairs = make_pairs(4)
    pairs._texts = datasets.Dataset.from_dict(
        {"caption1": ["word " * 500, *"abc"], "caption2": ["word " * 500, *"abc"]}
    )
    trainer = make_trainer(tiny_model(), pairs, max_steps=1)
    trainer.train()
    assert training_logs(trainer)[0]["truncated_captions"] == 0.25


def test_masking_and_alignment_follow_the_schedule(make_trainer, tiny_model):
    model = tiny_model(temperature=0.1)
    passes = ForwardPasses(model)
    after_step = []

    class KeepFusion(TrainerCallback):
        def on_step_end(self, *arguments, **kwargs):
            after_step.append(model.token_head.decoder.weight.detach().clone())

    start = model.token_head.decoder.weight.detach().clone()
    callbacks = [passes, KeepFusion()]
    trainer = make_trainer(model, max_steps=4, masking_start=0.5, contrastive_start=0.25, callbacks=callbacks)
    trainer.train()
    logs = training_logs(trainer)
    assert ["mtp_loss" in entry for entry in logs] == [False, False, True, True]
    assert [seen.outputs.noise_mask is not None for seen in passes.seen] == [False, False, True, True]
    losses = (image_text_contrastive_loss, *[similarity_distribution_matching_loss] * 3)
    for entry, seen, loss in zip(logs, passes.seen, losses, strict=True):
        outputs, ids = seen.outputs, seen.inputs["person_ids"]
        expected = loss(outputs.image_embeds, outputs.text_embeds, ids, temperature=0.1).item()
        assert entry["alignment_loss"] == pytest.approx(expected, rel=1e-5)
    assert torch.equal(after_step[1], start) and not torch.equal(after_step[2], start)


def test_augmentation_reaches_training_batches_alone(make_trainer, tiny_model, processor):
    model = tiny_model()
    seen = {True: [], False: []}
    model.register_forward_pre_hook(
        lambda module, arguments, inputs: seen[module.training].append(inputs["pixel_values"]), with_kwargs=True
    )
    pairs = make_pairs(4)
    augmentation = PersonAugmentation(processor, crop_padding=4)
    trainer = make_trainer(model, pairs, eval_dataset=pairs, augmentation=augmentation, max_steps=1)
    trainer.train()
    trainer.evaluate()
    plain = PairCollator(processor)([pairs[index] for index in range(4)])["pixel_values"]
    assert torch.equal(seen[False][0], plain)
    changed = [not any(torch.equal(image, other) for other in plain) for image in seen[True][0]]
    assert all(changed)


@pytest.mark.parametrize("workers", [0, 2])
def test_captions_are_drawn_anew_each_epoch(workers, make_trainer, tiny_model, processor):
    model = tiny_model(token_score="none")
    passes = ForwardPasses(model)
    pairs = make_pairs(20)
    trainer = make_trainer(
        model, pairs, max_steps=-1, num_train_epochs=3, dataloader_num_workers=workers, callbacks=[passes]
    )
    trainer.train()
    by_epoch = []
    for epoch in range(3):
        ids = [row for seen in passes.seen[5 * epoch : 5 * epoch + 5] for row in seen.inputs["input_ids"]]
        by_epoch.append(Counter(processor.tokenizer.decode(row, skip_special_tokens=True) for row in ids))
        pairs.set_epoch(epoch)
        drawn = [pairs[index]["caption"] for index in range(20)]
        clean = [processor.tokenizer.decode(processor.tokenizer(text)["input_ids"], True) for text in drawn]
        assert by_epoch[-1] == Counter(clean)
    assert by_epoch[0] != by_epoch[1] != by_epoch[2]


# Gradient accumulation


def test_accumulation_is_the_mean_of_the_micro_batches_gradients(make_trainer, tiny_model, processor):
    pairs = make_pairs(8, num_persons=3)
    start = tiny_model(temperature=0.1, **SHARP).double()
    oracle = tiny_model(temperature=0.1, **SHARP).double()
    collate = PairCollator(processor)

    def gradients(rows: list[int]) -> dict[str, torch.Tensor]:
        """Of one contrastive batch, by the definition of the loss."""
        oracle.zero_grad()
        batch = collate([pairs[row] for row in rows])
        outputs = oracle.train()(batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
        loss = similarity_distribution_matching_loss(
            outputs.image_embeds, outputs.text_embeds, batch["person_ids"], temperature=outputs.temperature
        )
        (loss + oracle.config.mtp_weight * outputs.mtp_loss).backward()
        return {name: p.grad.clone() for name, p in oracle.named_parameters() if p.grad is not None}

    first, second, whole = gradients([0, 1, 2, 3]), gradients([4, 5, 6, 7]), gradients(list(range(8)))
    trainer = make_trainer(
        start,
        pairs,
        gradient_accumulation_steps=2,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
    )
    trainer.train()
    update = {name: oracle.get_parameter(name).detach() - p.detach() for name, p in start.named_parameters()}
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    for name, expected in mean.items():
        torch.testing.assert_close(update[name], expected, rtol=1e-6, atol=1e-9)
    # It is not the gradient of the batch of eight, which is another contrastive problem.
    name = "gadms.visual_projection.weight"
    assert not torch.allclose(mean[name], whole[name], rtol=1e-2)


def test_the_logged_loss_under_accumulation_is_the_mean_of_the_micro_batches(make_trainer, tiny_model):
    model = tiny_model(**SHARP)
    trainer = make_trainer(model, make_pairs(8), gradient_accumulation_steps=2, max_steps=1)
    trainer.train()
    (entry,) = training_logs(trainer)
    expected = entry["alignment_loss"] + model.config.mtp_weight * entry["mtp_loss"]
    assert entry["loss"] == pytest.approx(expected, rel=1e-5)


# Parameter groups


def test_parameter_groups_hold_what_their_names_promise(make_trainer, tiny_model):
    model = tiny_model(num_identities=12, learn_temperature=True)
    trainer = make_trainer(model, learning_rate=1e-3, weight_decay=0.05, new_module_lr_multiplier=5.0)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    got = {
        (group["lr"], group["weight_decay"]): {names[id(parameter)] for parameter in group["params"]}
        for group in optimizer.param_groups
    }

    # What is decayed, told by the modules and not by their names.
    undecayed = {"gadms.logit_scale"}
    for module_name, module in model.named_modules():
        for parameter_name, _ in module.named_parameters(prefix=module_name, recurse=False):
            if isinstance(module, nn.LayerNorm) or parameter_name.endswith("bias"):
                undecayed.add(parameter_name)
    new = {name for name in names.values() if not name.startswith("gadms.")}
    old = set(names.values()) - new
    assert got == {
        (1e-3, 0.05): old - undecayed,
        (1e-3, 0.0): old & undecayed,
        (5e-3, 0.05): new - undecayed,
        (5e-3, 0.0): new & undecayed,
    }
    # Spot checks, written out.
    assert "fusion.cross_attention.in_proj_weight" in got[5e-3, 0.05]
    assert "fusion.cross_attention.in_proj_bias" in got[5e-3, 0.0]
    assert "fusion.post_norm.weight" in got[5e-3, 0.0]
    assert "classifier.weight" in got[5e-3, 0.05]
    assert "token_head.layer_norm.weight" in got[5e-3, 0.0]
    assert "gadms.vision_model.pre_layrnorm.weight" in got[1e-3, 0.0]
    assert "gadms.text_model.embeddings.token_embedding.weight" in got[1e-3, 0.05]
    assert "gadms.logit_scale" in got[1e-3, 0.0]


def test_muon_trains_the_matrices_of_the_layers(make_trainer, tiny_model):
    model = tiny_model()
    trainer = make_trainer(model, learning_rate=1e-3, muon_learning_rate=0.02, new_module_lr_multiplier=2.0)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["muon"]
    }
    layers = {name for name in names.values() if ".layers." in name}
    assert set(rates) == {name for name in layers if name.endswith("weight") and "norm" not in name}
    assert {name for name, rate in rates.items() if rate == 0.04} == {name for name in rates if "fusion" in name}
    assert set(rates.values()) == {0.02, 0.04} and len(optimizer.param_groups) == 6
    with pytest.raises(
        ValueError, match="muon_learning_rate needs AdamW for the other parameters, and optim is .*sgd"
    ):
        make_trainer(tiny_model(), muon_learning_rate=0.02, optim="sgd").create_optimizer()


def test_frozen_parameters_are_in_no_group(make_trainer, tiny_model):
    model = tiny_model()  # a temperature that is not learned
    model.gadms.vision_model.requires_grad_(False)
    optimizer = make_trainer(model).create_optimizer()
    grouped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_the_scheduler_keeps_the_ratio_of_the_learning_rates(make_trainer, tiny_model):
    rates = []

    class KeepRates(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            rates.append(sorted({group["lr"] for group in optimizer.param_groups}))

    trainer = make_trainer(
        tiny_model(),
        max_steps=6,
        warmup_steps=2,
        lr_scheduler_type="cosine",
        new_module_lr_multiplier=5.0,
        callbacks=[KeepRates()],
    )
    trainer.train()
    for low, high in rates[:-1]:
        assert high == pytest.approx(5 * low)
    assert len({low for low, *_ in rates}) > 3  # and it does move them


def test_the_optimizer_that_is_given_is_taken(tiny_model, processor, tmp_path):
    model = tiny_model()
    args = GADMSTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", new_module_lr_multiplier=5.0)
    trainer = GADMSTrainer(
        model,
        args,
        processing_class=processor,
        train_dataset=make_pairs(12),
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.5, "momentum": 0.9}),
    )
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (0.5 if name.startswith("gadms.") else 2.5), name


# Values that are not finite


class Spoil(TrainerCallback):
    """Sets a weight to a value before the forward pass of a step, or after the last use of it in that step."""

    def __init__(self, weight: torch.Tensor, step: int, value: float, moment: str):
        self.weight, self.step, self.value, self.moment = weight, step, value, moment

    def _spoil(self, state, moment: str) -> None:
        if (state.global_step + 1, moment) == (self.step, self.moment):
            self.weight.data.view(-1)[0] = self.value

    def on_step_begin(self, args, state, control, **kwargs):
        self._spoil(state, "before")

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._spoil(state, "after")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("logs", [{"logging_strategy": "no"}, {"logging_steps": 1}, {"logging_nan_inf_filter": True}])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(make_trainer, tiny_model, tmp_path, value, logs):
    model = tiny_model()
    spoil = Spoil(model.gadms.visual_projection.weight, 3, value, "before")
    saves = {"save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(model, max_steps=6, callbacks=[spoil], learning_rate=1e-3, **saves, **logs)
    with pytest.raises(FloatingPointError, match=r"loss is NaN or infinite in step 3\..*learning_rate \(now 0.001\)"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-2"]
    assert all("loss" not in entry or np.isfinite(entry["loss"]) for entry in trainer.state.log_history)
    with pytest.raises(FloatingPointError, match="weight tensors hold NaN or infinite values, such as gadms"):
        trainer.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("saves", [{}, {"save_strategy": "steps", "save_steps": 1}])
def test_weights_that_the_last_step_spoils_end_the_run_and_are_not_saved(make_trainer, tiny_model, tmp_path, saves):
    model = tiny_model()
    spoil = Spoil(model.token_head.decoder.bias, 3, float("inf"), "after")
    trainer = make_trainer(model, callbacks=[spoil], **saves)
    with pytest.raises(FloatingPointError, match="after step 3, 1 of .* such as token_head.decoder.bias"):
        trainer.train()
    assert all(np.isfinite(entry["loss"]) for entry in training_logs(trainer)), "no loss of it was seen"
    assert not (tmp_path / "run" / "checkpoint-3").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_single_weight_is_found_whatever_its_precision(tiny_model, dtype):
    model = tiny_model(learn_temperature=True).to(dtype)
    model.classifier = nn.Linear(16, 0)  # an empty weight
    args = SimpleNamespace(fp16=True, learning_rate=1e-3)
    refuse_weights_not_finite(model, args, 1)
    weight = model.gadms.text_model.encoder.layers[0].mlp.fc1.weight.data
    weight[0, 0], weight[0, 1] = torch.finfo(dtype).max, torch.finfo(dtype).min  # large, and finite
    refuse_weights_not_finite(model, args, 1)
    for parameter in (weight.view(-1)[5:6], model.gadms.logit_scale.data.view(1)):
        for value in (float("nan"), float("inf"), -float("inf")):
            before = parameter.clone()
            parameter.fill_(value)
            with pytest.raises(FloatingPointError, match=r"after step 7, 1 of .*training.fp16=false"):
                refuse_weights_not_finite(model, args, 7)
            parameter.copy_(before)


def test_a_step_does_not_wait_for_the_device_to_look_at_the_loss(make_trainer):
    """A tensor on the device `meta` has no value: whoever reads it gets an error."""
    watch = StopIfNotFinite()
    for step in (1, 2):
        watch.note(torch.zeros((), device="meta"), step)
    assert not GADMSTrainingArguments("runs", use_cpu=True).logging_nan_inf_filter, "it reads each loss"


def test_what_is_kept_for_the_log_does_not_grow_without_one(make_trainer, tiny_model):
    trainer = make_trainer(tiny_model(), max_steps=6, logging_strategy="no")
    trainer.train()
    assert {values.shape for values in trainer._terms.values()} == {(2,)}


# Publishing


def test_a_push_by_the_base_class_is_refused_with_what_to_do(make_trainer, tiny_model):
    with pytest.raises(ValueError, match="push_to_hub = True .*gadms publish model .*/run/model me/persons"):
        make_trainer(tiny_model(), push_to_hub=True, hub_model_id="me/persons")
    with pytest.raises(NotImplementedError, match="publish_model"):
        make_trainer(tiny_model()).push_to_hub()


# Resumed runs


def test_a_run_with_other_batches_is_not_resumed(make_trainer, tiny_model, tmp_path):
    saves = {"save_strategy": "steps", "save_steps": 2, "max_steps": -1, "num_train_epochs": 2}
    make_trainer(tiny_model(), **saves).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    for change in ({"per_device_train_batch_size": 2}, {"gradient_accumulation_steps": 2}):
        # Starting the epoch again does not help: step 2 would be another part of an epoch.
        with pytest.raises(ValueError, match="cannot resume at step 2, .*number of pairs in a step was 4 and is"):
            make_trainer(tiny_model(), **saves, **change, ignore_data_skip=True).train(checkpoint)
    with pytest.raises(ValueError, match="number of pairs was 12 and is 20.*model.from_pretrained=.*checkpoint-2"):
        make_trainer(tiny_model(), make_pairs(20), **saves).train(checkpoint)
    with pytest.raises(ValueError, match="data_seed was 42 and is 7.*training.ignore_data_skip=true"):
        make_trainer(tiny_model(), data_seed=7, **saves).train(checkpoint)
    same_step = {"per_device_train_batch_size": 4, "data_seed": 7, "ignore_data_skip": True}
    make_trainer(tiny_model(), **saves, **same_step).train(checkpoint)


# Evaluation


def naive_metrics(similarity: np.ndarray, query_ids: list[int], gallery_ids: list[int]) -> dict[str, float]:
    """R@1, 5 and 10 and mAP, query by query as one would by hand."""
    hits, precisions = {1: [], 5: [], 10: []}, []
    for row, person in zip(similarity, query_ids, strict=True):
        order = sorted(range(len(row)), key=lambda index: -row[index])
        right = [gallery_ids[index] == person for index in order]
        for k in hits:
            hits[k].append(any(right[:k]))
        found = [sum(right[: rank + 1]) / (rank + 1) for rank in range(len(right)) if right[rank]]
        precisions.append(sum(found) / len(found))
    return {f"r{k}": 100 * np.mean(values) for k, values in hits.items()} | {"map": 100 * np.mean(precisions)}


def test_evaluation_ranks_every_caption_against_every_image_once(make_trainer, tiny_model, processor):
    # Nine images of four persons; 18 captions fill no whole number of batches of four.
    pairs = make_pairs(9, num_persons=4, captions_per_image="all", seed=3)
    model = tiny_model()
    metrics = make_trainer(model, eval_dataset=pairs).evaluate()

    model.eval()
    batch = PairCollator(processor)([pairs[index] for index in range(18)])
    with torch.no_grad():
        outputs = model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
    gallery = outputs.image_embeds[::2]  # the images of consecutive pairs of captions
    similarity = (outputs.text_embeds @ gallery.T).numpy()
    persons = [row % 4 for row in range(9)]
    queries = [person for person in persons for _ in range(2)]
    expected = {f"eval_{name}": value for name, value in naive_metrics(similarity, queries, persons).items()}
    back = naive_metrics(similarity.T, persons, queries)
    expected |= {f"eval_image_to_text_{name}": value for name, value in back.items()}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert {"eval_minp", "eval_image_to_text_minp"} <= metrics.keys()


def test_prediction_covers_every_row(make_trainer, tiny_model):
    pairs = make_pairs(9, captions_per_image="all")  # 18 captions fill no whole number of batches of four
    trainer = make_trainer(tiny_model())
    prediction = trainer.predict(pairs)
    person_ids, image_indices = prediction.label_ids
    assert image_indices.tolist() == [row for row in range(9) for _ in range(2)]
    assert person_ids.tolist() == image_indices.tolist()
    assert [len(embeds) for embeds in prediction.predictions] == [18, 18]
    assert {f"test_{name}" for name in EVALUATION_METRICS} <= prediction.metrics.keys()
    assert trainer.args.dataloader_drop_last


def test_the_gallery_holds_an_image_once_whatever_the_order_of_the_rows():
    """A copy of the right image ahead of it would count as a second hit and raise mINP and mAP."""
    images = np.eye(3)[[0, 1, 0, 2, 1, 2]]
    texts = np.array([[1, 0.5, 0], [0.5, 1, 0], [0.2, 1, 0], [0, 0.1, 1], [0, 1, 0.3], [0.9, 0, 1]])
    ids, indices = np.array([5, 6, 5, 5, 6, 5]), np.array([10, 11, 10, 12, 11, 12])
    prediction = SimpleNamespace(predictions=(images, texts), label_ids=(ids, indices))
    got = retrieval_metrics(prediction)
    expected = naive_metrics(texts @ np.eye(3), ids.tolist(), [5, 6, 5])
    assert {name: got[name] for name in expected} == pytest.approx(expected)


def test_eval_loss_is_there_and_repeats(make_trainer, tiny_model):
    model = tiny_model(num_identities=3)  # evaluation persons are unknown to the classifier
    trainer = make_trainer(model, make_pairs(12, num_persons=3), eval_dataset=make_pairs(6, captions_per_image="all"))
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] == second["eval_loss"] > 0
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != first["eval_loss"]


def test_eval_loss_is_the_alignment_of_unmasked_captions(make_trainer, tiny_model, processor):
    pairs = make_pairs(4, captions_per_image="all")
    model = tiny_model(temperature=0.1)
    metrics = make_trainer(model, eval_dataset=pairs, per_device_eval_batch_size=8).evaluate()
    model.eval()
    batch = PairCollator(processor)([pairs[index] for index in range(8)])
    with torch.no_grad():
        outputs = model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
    expected = similarity_distribution_matching_loss(
        outputs.image_embeds, outputs.text_embeds, batch["person_ids"], temperature=0.1
    )
    assert metrics["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_evaluation_leaves_training_as_it_was(make_trainer, tiny_model):
    """Also its data loader: the last, smaller batch is dropped in training alone."""
    models = [tiny_model(**SHARP), tiny_model(**SHARP)]
    for model, strategy in zip(models, ("no", "steps"), strict=True):
        trainer = make_trainer(
            model, make_pairs(10), eval_dataset=make_pairs(3), eval_strategy=strategy, eval_steps=1, max_steps=5
        )
        trainer.train()
        assert trainer.args.dataloader_drop_last
    for name, value in snapshot(models[0]).items():
        assert torch.equal(value, models[1].get_parameter(name)), name


def test_the_best_checkpoint_is_that_of_the_best_validation_r1(make_trainer, tiny_model, tmp_path):
    model = tiny_model()
    at_evaluation = []
    scripted = iter([20.0, 60.0, 40.0])
    trainer = make_trainer(
        model,
        eval_dataset=make_pairs(6),
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
        learning_rate=1e-2,
    )

    def metrics(prediction):
        at_evaluation.append(snapshot(model))
        # Everything else gets better and better: only r1 may decide.
        return {**retrieval_metrics(prediction), "r1": next(scripted), "r5": 10.0 * len(at_evaluation)}

    trainer.compute_metrics = metrics
    trainer.train()
    assert trainer.state.best_metric == 60.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best, last = at_evaluation[1], at_evaluation[2]
    name = "gadms.visual_projection.weight"
    assert not torch.equal(best[name], last[name])
    for name, value in snapshot(model).items():
        assert torch.equal(value, best[name]), name
    saved = AutoModelForPreTraining.from_pretrained(trainer.state.best_model_checkpoint)
    assert all(torch.equal(value, best[name]) for name, value in snapshot(saved).items())


def test_a_checkpoint_holds_the_processor(make_trainer, tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(), max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    processor = GADMSProcessor.from_pretrained(tmp_path / "run" / "checkpoint-1")
    assert processor.image_size == (32, 16)


# Precision and odd sizes


def test_a_bfloat16_step_has_a_float32_loss(make_trainer, tiny_model):
    model = tiny_model()
    passes = ForwardPasses(model)
    trainer = make_trainer(model, bf16=True, callbacks=[passes], eval_dataset=make_pairs(3))
    trainer.train()
    for entry, seen in zip(training_logs(trainer), passes.seen, strict=True):
        assert np.isfinite(entry["loss"]) and np.isfinite(entry["grad_norm"])
        assert seen.outputs.token_scores.dtype == torch.float32
        # Similarities over a temperature of 0.02 need more bits than bfloat16 has.
        expected = similarity_distribution_matching_loss(
            seen.outputs.image_embeds.float(),
            seen.outputs.text_embeds.float(),
            seen.inputs["person_ids"],
            temperature=0.02,
        ).item()
        assert entry["alignment_loss"] == pytest.approx(expected, rel=1e-5)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_a_batch_of_one_has_nothing_to_align_and_still_predicts(make_trainer, tiny_model):
    model = tiny_model(informative_mask_rate=0.9)
    before = snapshot(model)
    trainer = make_trainer(model, make_pairs(3), per_device_train_batch_size=1)
    trainer.train()
    logs = training_logs(trainer)
    assert [entry["alignment_loss"] for entry in logs] == pytest.approx([0.0] * 3, abs=1e-6)
    assert all(np.isfinite(entry["loss"]) for entry in logs)
    name = "token_head.decoder.weight"
    assert not torch.equal(before[name], snapshot(model)[name])


def test_gradient_checkpointing_changes_nothing(make_trainer, tiny_model):
    models = [tiny_model(**SHARP).double() for _ in range(2)]
    for model, checkpointing in zip(models, (False, True), strict=True):
        make_trainer(model, gradient_checkpointing=checkpointing).train()
    for name, value in snapshot(models[0]).items():
        torch.testing.assert_close(models[1].get_parameter(name).detach(), value, rtol=0, atol=1e-9)


def test_the_order_of_the_rows_comes_from_the_seed_alone(make_trainer, tiny_model):
    """Not from the global generator, which differs between processes."""
    orders = []
    for seed in (42, 42, 43):
        model = tiny_model()
        passes = ForwardPasses(model)
        trainer = make_trainer(model, seed=seed, callbacks=[passes])
        torch.manual_seed(len(orders))
        trainer.train()
        orders.append([seen.inputs["person_ids"].tolist() for seen in passes.seen])
    assert orders[0] == orders[1] != orders[2]


def test_a_processor_of_another_model_is_refused(make_trainer, tiny_model, tokenizer, tmp_path):
    args = GADMSTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    wide = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 32))
    with pytest.raises(ValueError, match=r"do not fit: its processor makes images of \(32, 32\) pixels"):
        GADMSTrainer(tiny_model(), args, processing_class=wide)


def test_one_process_with_several_gpus_is_refused(make_trainer, tiny_model, monkeypatch):
    monkeypatch.setattr(GADMSTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="one process has 2 GPUs, .*accelerate launch"):
        make_trainer(tiny_model())


def test_fsdp_is_refused(make_trainer, tiny_model, monkeypatch):
    with pytest.raises(ValueError, match="FSDP shards parameters.*DistributedDataParallel"):
        make_trainer(tiny_model(), fsdp=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch --use_fsdp` says it
    with pytest.raises(ValueError, match="FSDP shards parameters"):
        make_trainer(tiny_model())


def test_deepspeed_that_shards_parameters_is_refused(tmp_path, tiny_model, processor):
    args = GADMSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    args.deepspeed_plugin = SimpleNamespace(zero_stage=3)  # DeepSpeed itself is not installed
    with pytest.raises(ValueError, match="DeepSpeed ZeRO-3 shards parameters"):
        GADMSTrainer(tiny_model(), args, processing_class=processor)


BEST = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}


@pytest.mark.parametrize("decides", [{"load_best_model_at_end": True}, {"save_strategy": "best"}])
def test_a_best_model_by_an_unknown_metric_is_refused(make_trainer, tiny_model, decides):
    arguments = BEST | decides
    with pytest.raises(ValueError, match="'rank1' is not a metric.*choose one of loss, r1, r5"):
        make_trainer(tiny_model(), eval_dataset=make_pairs(3), metric_for_best_model="rank1", **arguments)
    for name in ("r5", "eval_image_to_text_map", "loss"):
        make_trainer(tiny_model(), eval_dataset=make_pairs(3), metric_for_best_model=name, **arguments)


def test_a_metric_that_decides_nothing_is_not_checked(make_trainer, tiny_model):
    make_trainer(tiny_model(), metric_for_best_model="rank1")


def test_the_metrics_that_may_decide_are_those_of_an_evaluation(make_trainer, tiny_model):
    metrics = make_trainer(tiny_model(), eval_dataset=make_pairs(3)).evaluate()
    assert {f"eval_{name}" for name in EVALUATION_METRICS} <= metrics.keys()
    assert {name for name in metrics if name.endswith(("r1", "r5", "r10", "map", "minp"))} == {
        f"eval_{name}" for name in EVALUATION_METRICS if name != "loss"
    }


def test_a_training_set_smaller_than_a_batch_is_refused(make_trainer, tiny_model):
    with pytest.raises(ValueError, match="3 training pairs do not fill one batch of 4 .*per_device_train_batch_size"):
        make_trainer(tiny_model(), make_pairs(3))


def test_identities_beyond_the_classifier_are_refused(make_trainer, tiny_model):
    trainer = make_trainer(tiny_model(num_identities=3), make_pairs(12))
    with pytest.raises(ValueError, match="the classifier has identities 0 to 2"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masking_start": -0.1}, "masking_start = -0.1 must be a fraction"),
        ({"contrastive_start": 2}, "contrastive_start = 2 must be a fraction"),
        ({"new_module_lr_multiplier": -1}, "new_module_lr_multiplier = -1 must be positive"),
        ({"query_weight": 0}, "query_weight = 0 must be positive"),
        ({"muon_learning_rate": -0.1}, "muon_learning_rate = -0.1 must be positive"),
        ({"remove_unused_columns": True}, "remove_unused_columns = True"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        GADMSTrainingArguments(output_dir=str(tmp_path), **arguments)
