"""A training step of the model: scores, masks, interaction encoder, and gradients of every objective."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from modeling_gadms import GADMSForPreTraining, GADMSModel
from modeling_gadms.losses_gadms import similarity_distribution_matching_loss
from modeling_gadms.modeling_gadms import GADMSForPreTrainingOutput
from modeling_gadms.packing_gadms import pack_captions
from tests.modeling_gadms.random_weights import randomised


def training_loss(model: GADMSForPreTraining, outputs: GADMSForPreTrainingOutput) -> torch.Tensor:
    """The sum of all available loss terms."""
    person_ids = torch.arange(len(outputs.image_embeds))
    loss = similarity_distribution_matching_loss(
        outputs.image_embeds, outputs.text_embeds, person_ids, temperature=outputs.temperature
    )
    for term in (outputs.mtp_loss, outputs.identity_loss):
        if term is not None:
            loss = loss + term
    return loss


@pytest.fixture
def model(tiny_model) -> GADMSForPreTraining:
    return randomised(tiny_model())


# A training step.


def test_a_training_step_gives_one_typed_output(model, batch):
    outputs = model.train()(**batch)
    batch_size, length = batch["input_ids"].shape
    assert type(outputs) is GADMSForPreTrainingOutput
    assert outputs.image_embeds.shape == outputs.text_embeds.shape == (batch_size, 16)
    torch.testing.assert_close(outputs.image_embeds.norm(dim=1), torch.ones(batch_size))
    torch.testing.assert_close(outputs.text_embeds.norm(dim=1), torch.ones(batch_size))
    assert outputs.temperature.shape == outputs.mtp_loss.shape == outputs.num_predicted_tokens.shape == ()
    assert outputs.identity_loss is None
    assert outputs.token_scores.shape == (batch_size, length) and outputs.token_scores.dtype == torch.float32
    for mask in (outputs.own_tokens, outputs.noise_mask, outputs.informative_mask):
        assert mask.shape == (batch_size, length) and mask.dtype == torch.bool
        assert not (mask & ~outputs.own_tokens).any()
    assert outputs.num_predicted_tokens == outputs.informative_mask.sum()


@pytest.mark.parametrize("how", ["eval", "masking=False", "token_score=none"])
def test_without_masking_captions_are_embedded_clean(tiny_model, batch, how):
    model = randomised(tiny_model(token_score="none" if how == "token_score=none" else "gass"))
    model.train(how != "eval")
    outputs = model(**batch, masking=False if how == "masking=False" else None)
    expected = model.gadms(**batch)
    torch.testing.assert_close(outputs.text_embeds, expected.text_embeds)
    torch.testing.assert_close(outputs.image_embeds, expected.image_embeds)
    for name in ("mtp_loss", "num_predicted_tokens", "token_scores", "noise_mask", "informative_mask"):
        assert getattr(outputs, name) is None


def test_masking_can_be_asked_for_in_evaluation(model, batch):
    assert model.eval()(**batch, masking=True).noise_mask is not None


@pytest.mark.parametrize("masking", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_queries_are_encoded_beside_the_captions(tiny_config, processor, batch, masking, attention):
    """Longer and shorter than the captions; neither changes the other."""
    config = tiny_config(noise_mask_rate=1.0, informative_mask_rate=1.0, mask_sharpness=1e6)  # masks no draw decides
    config._attn_implementation = attention
    model = randomised(GADMSForPreTraining(config)).train()
    expected = model(**batch, masking=masking)
    for texts in (["hat", "a red coat", "bag"], ["a person " + "in a red coat and " * 4 + "boots", "hat"]):
        tokens = processor(text=texts)
        outputs = model(
            **batch,
            masking=masking,
            query_input_ids=tokens["input_ids"],
            query_attention_mask=tokens["attention_mask"],
        )
        alone = model.gadms.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        torch.testing.assert_close(outputs.query_embeds, F.normalize(alone, dim=-1))
        torch.testing.assert_close(outputs.text_embeds, expected.text_embeds)
        if masking:
            torch.testing.assert_close(outputs.mtp_loss, expected.mtp_loss)


def test_alignment_sees_the_noise_masked_caption(tiny_model, batch):
    """And the images as they are."""
    model = randomised(tiny_model(noise_mask_threshold=0.0, noise_mask_rate=0.5)).train()
    torch.manual_seed(0)
    outputs = model(**batch)
    assert outputs.noise_mask.any(dim=1)[:3].all()
    masked = batch["input_ids"].clone()
    masked[outputs.noise_mask] = model.config.mask_token_id
    expected = model.gadms(masked, batch["pixel_values"], batch["attention_mask"])
    torch.testing.assert_close(outputs.text_embeds, expected.text_embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.image_embeds, expected.image_embeds, rtol=1e-5, atol=1e-5)


def test_without_noise_masking_alignment_sees_the_caption(tiny_model, batch):
    model = randomised(tiny_model(noise_masking=False)).train()
    outputs = model(**batch)
    assert outputs.noise_mask is None and outputs.informative_mask is not None
    torch.testing.assert_close(outputs.text_embeds, model.gadms(**batch).text_embeds, rtol=1e-5, atol=1e-5)


def test_without_token_prediction_nothing_of_it_is_built(tiny_model, batch):
    model = tiny_model(masked_token_prediction=False).train()
    assert model.fusion is None and model.token_head is None
    outputs = model(**batch)
    assert outputs.mtp_loss is None and outputs.informative_mask is None and outputs.noise_mask is not None


def test_without_both_maskings_embeddings_are_clean(tiny_model, batch):
    model = tiny_model(masked_token_prediction=False, noise_masking=False).train()
    outputs = model(**batch)
    torch.testing.assert_close(outputs.text_embeds, model.gadms(**batch).text_embeds)
    assert outputs.token_scores is None, "nobody needs them, and they cost a pass of the text encoder"


@pytest.mark.parametrize("token_score", ["gass", "cosine"])
def test_the_step_uses_scores_of_its_own_weights_and_images(tiny_model, batch, token_score):
    """Released code masks by scores that are an epoch old."""
    model = randomised(tiny_model(token_score=token_score)).train()
    with torch.no_grad():
        first = model(**batch).token_scores
        randomised(model, seed=1)
        second = model(**batch).token_scores
        assert not torch.allclose(first, second, atol=0.05)
        image_embeds = model.gadms.get_image_features(batch["pixel_values"]).pooler_output
        expected = model.gadms.score_tokens(batch["input_ids"], batch["attention_mask"], image_embeds, token_score)
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-5)
    swapped = dict(batch) | {"pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.allclose(model(**swapped).token_scores, second, atol=0.01)


@pytest.mark.parametrize("token_score", ["gass", "cosine", "random"])
def test_masking_rates_of_a_step_match_the_formulas(tiny_model, batch, token_score):
    """Over 400 copies of each pair, whose tokens share their scores."""
    model = randomised(tiny_model(token_score=token_score)).train()
    copies = 400
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model(**{name: value.repeat_interleave(copies, dim=0) for name, value in batch.items()})
    scores = outputs.token_scores
    for mask, rate, exponent in (
        (outputs.noise_mask, 0.2, lambda s: (1 - s) - 0.9),
        (outputs.informative_mask, 0.3, lambda s: s - 0.1),
    ):
        if token_score == "random":
            probability = torch.full(mask.shape, rate)
        else:
            probability = rate / (1 + torch.exp(-20 * exponent(scores)))
        probability = torch.where(outputs.own_tokens, probability, 0.0)
        counts = mask.reshape(len(batch["input_ids"]), copies, -1).sum(dim=1)
        expected = probability.reshape(len(batch["input_ids"]), copies, -1).sum(dim=1)
        deviation = (expected * (1 - expected / copies)).sqrt()
        assert ((counts - expected).abs() <= 5 * deviation + 1).all()
        assert counts.sum() > 100
    both = (outputs.noise_mask & outputs.informative_mask).float().sum()
    assert both < 0.5 * outputs.informative_mask.sum()  # two draws, not one


def test_random_masking_scores_nothing(tiny_model, batch, monkeypatch):
    model = tiny_model(token_score="random").train()
    monkeypatch.setattr(GADMSModel, "score_tokens", lambda *args: pytest.fail("scored"))
    assert model(**batch).token_scores is None


def test_images_are_encoded_once_and_both_captions_together(model, batch):
    """Text: once to score, once for the two masked captions in one batch, the short ones sharing rows."""
    sizes = {"image": [], "text": []}
    model.gadms.vision_model.encoder.register_forward_hook(
        lambda *args: sizes["image"].append(len(args[-1].last_hidden_state))
    )
    model.gadms.text_model.encoder.register_forward_hook(
        lambda *args: sizes["text"].append(len(args[-1].last_hidden_state))
    )
    model.train()(**batch)
    assert sizes == {"image": [4], "text": [4, 6]}


def test_the_token_head_runs_on_masked_positions_alone(model, batch):
    rows = []
    model.token_head.decoder.register_forward_hook(lambda module, arguments, result: rows.append(len(result)))
    outputs = model.train()(**batch)
    assert rows == [int(outputs.informative_mask.sum())]
    assert 0 < rows[0] < batch["input_ids"].numel()


def literal_attention(query, key, value, heads):
    head_dim, outputs = query.shape[1] // heads, []
    for head in range(heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        outputs.append((query[:, part] @ key[:, part].T / head_dim**0.5).softmax(dim=1) @ value[:, part])
    return torch.cat(outputs, dim=1)


def literal_fusion_and_head(model: GADMSForPreTraining, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Token logits of one unpadded caption, from the raw weights."""
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    heads = model.config.fusion_num_attention_heads

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    images = norm("fusion.image_norm", image)
    in_weights = weights["fusion.cross_attention.in_proj_weight"].chunk(3)
    in_biases = weights["fusion.cross_attention.in_proj_bias"].chunk(3)
    query, key, value = (
        x @ w.T + b
        for x, w, b in zip((norm("fusion.text_norm", text), images, images), in_weights, in_biases, strict=True)
    )
    x = linear("fusion.cross_attention.out_proj", literal_attention(query, key, value, heads))
    for index in range(model.config.fusion_num_hidden_layers):
        layer = f"fusion.layers.{index}"
        normed = norm(f"{layer}.layer_norm1", x)
        query, key, value = (linear(f"{layer}.self_attn.{name}_proj", normed) for name in "qkv")
        x = x + linear(f"{layer}.self_attn.out_proj", literal_attention(query, key, value, heads))
        inner = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
        x = x + linear(f"{layer}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    x = linear("token_head.dense", norm("fusion.post_norm", x))
    return linear("token_head.decoder", norm("token_head.layer_norm", x * torch.sigmoid(1.702 * x)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("with_attention_mask", [True, False])
def test_mtp_loss_by_a_loop_over_masked_tokens(tiny_config, batch, attention, with_attention_mask):
    config = tiny_config(fusion_num_hidden_layers=2, informative_mask_rate=0.8)
    model = randomised(GADMSForPreTraining._from_config(config, attn_implementation=attention)).double().train()
    inputs = {name: value.double() if name == "pixel_values" else value for name, value in batch.items()}
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    if not with_attention_mask:
        longest = max(lengths)  # without a mask the interaction encoder sees padding: captions of one length
        keep = [row for row, length in enumerate(lengths) if length == longest]
        inputs = {name: value[keep] for name, value in inputs.items()}
        lengths = [longest] * len(keep)
        del inputs["attention_mask"]
    outputs = model(**inputs)
    image_tokens = model.gadms.get_image_features(inputs["pixel_values"]).last_hidden_state
    losses = []
    for row, length in enumerate(lengths):
        caption, mask = inputs["input_ids"][row, :length], outputs.informative_mask[row, :length]
        masked = torch.where(mask, model.config.mask_token_id, caption)
        text_tokens = model.gadms.get_text_features(masked[None]).last_hidden_state[0]
        logits = literal_fusion_and_head(model, text_tokens, image_tokens[row])
        for position in mask.nonzero().flatten().tolist():
            losses.append(-logits[position].log_softmax(dim=0)[caption[position]])
    assert len(losses) > 3
    torch.testing.assert_close(outputs.mtp_loss, sum(losses) / len(losses))


def test_scoring_does_not_change_the_gradient_of_the_loss(model, batch, monkeypatch):
    model.train()

    def gradients():
        torch.manual_seed(3)
        model.zero_grad()
        training_loss(model, model(**batch)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    scored = gradients()
    with torch.no_grad():
        scores = model(**batch).token_scores
    monkeypatch.setattr(GADMSModel, "score_tokens", lambda *args: scores)
    constant = gradients()
    assert scored.keys() == constant.keys()
    for name, gradient in scored.items():
        torch.testing.assert_close(gradient, constant[name], rtol=0, atol=0)


@pytest.mark.parametrize("score", ["gass", "cosine", "random", "none"])
@pytest.mark.parametrize("noise_masking", [True, False])
@pytest.mark.parametrize("token_prediction", [True, False])
def test_every_objective_trains_every_parameter_it_uses(tiny_model, batch, score, noise_masking, token_prediction):
    model = tiny_model(
        token_score=score,
        noise_masking=noise_masking,
        masked_token_prediction=token_prediction,
        learn_temperature=True,
        num_identities=4,
        informative_mask_rate=0.9,
    ).train()
    training_loss(model, model(**batch, person_ids=torch.arange(4))).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    if score == "none" and token_prediction:
        assert unused and all(name.startswith(("fusion.", "token_head.")) for name in unused)
    else:
        assert not unused
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
            if not name.endswith("k_proj.bias"):  # the same for every key: softmax cancels it
                assert parameter.grad.any(), name


def test_a_step_that_masks_nothing_still_reaches_every_parameter(tiny_model, batch):
    """Distributed training waits for the gradient of each."""
    model = tiny_model(informative_mask_rate=0.0, noise_mask_rate=0.0).train()
    outputs = model(**batch)
    assert outputs.num_predicted_tokens == 0 and outputs.mtp_loss == 0
    training_loss(model, outputs).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_an_optimizer_step_moves_every_trained_parameter(tiny_model, batch):
    model = tiny_model(informative_mask_rate=0.9).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    training_loss(model, model(**batch)).backward()
    optimizer.step()
    unmoved = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert unmoved <= {"gadms.logit_scale"}


@pytest.mark.parametrize("score", ["gass", "cosine", "random", "none"])
def test_a_batch_of_one(tiny_model, batch, score):
    model = tiny_model(token_score=score).train()
    one = {name: value[:1] for name, value in batch.items()}
    outputs = model(**one)
    training_loss(model, outputs).backward()
    assert outputs.image_embeds.shape == (1, 16)


@pytest.mark.parametrize("score", ["gass", "cosine", "random"])
def test_captions_of_one_token(tiny_model, processor, images, score):
    model = randomised(tiny_model(token_score=score)).train()
    inputs = processor(images=images[:2], text=["a", "b"])
    assert inputs["input_ids"].shape == (2, 3)
    outputs = model(**inputs)
    training_loss(model, outputs).backward()
    if score != "random":
        assert outputs.token_scores.tolist() == [[0, 0.5, 0], [0, 0.5, 0]]


def test_without_an_attention_mask_a_step_runs(model, batch):
    outputs = model.train()(batch["input_ids"], batch["pixel_values"])
    assert outputs.mtp_loss.isfinite() and not (outputs.noise_mask & ~outputs.own_tokens).any()


@pytest.mark.parametrize("frozen", ["text_model", "vision_model", "text_projection"])
def test_a_frozen_part_gets_no_gradient_and_the_rest_trains(tiny_model, batch, frozen):
    model = randomised(tiny_model(informative_mask_rate=0.9)).train()
    getattr(model.gadms, frozen).requires_grad_(False)
    training_loss(model, model(**batch)).backward()
    for name, parameter in model.named_parameters():
        expected = frozen not in name and not name.endswith("logit_scale")
        assert (parameter.grad is not None) == expected, name


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_step_with_gradient_checkpointing_equals_one_without(model, batch, reentrant):
    model.train()

    def step():
        torch.manual_seed(11)
        model.zero_grad()
        loss = training_loss(model, model(**batch))
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain_loss, plain = step()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert all(layer.gradient_checkpointing for layer in model.gadms.text_model.encoder.layers)
    loss, checkpointed = step()
    torch.testing.assert_close(loss, plain_loss)
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_step_in_autocast_keeps_scores_in_float32(model, batch):
    model.train()
    with torch.no_grad():
        expected = model(**batch).token_scores
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image_embeds = model.gadms.get_image_features(batch["pixel_values"]).pooler_output.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch)
        loss = training_loss(model, outputs)
    loss.backward()
    assert outputs.token_scores.dtype == torch.float32
    exact = model.gadms.score_tokens(batch["input_ids"], batch["attention_mask"], image_embeds)
    torch.testing.assert_close(outputs.token_scores, exact, rtol=0, atol=1e-5)
    assert (outputs.token_scores - expected).abs().mean() < 0.1
    assert loss.dtype == torch.float32 and loss.isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_step_in_another_precision(model, batch, dtype):
    model = model.to(dtype).train()
    outputs = model(**batch)
    training_loss(model, outputs).backward()
    assert outputs.token_scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert outputs.noise_mask.dtype == torch.bool
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Packed captions.


def padded_captions(lengths: list[int], eos: int, seed: int = 0, width: int | None = None):
    """Random tokens, EOS last, and zeros behind it."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.arange(width or max(lengths))
    last = torch.tensor(lengths)[:, None] - 1
    input_ids = torch.randint(1, 30, (len(lengths), len(position)), generator=generator)
    input_ids = input_ids.masked_fill(position == last, eos).masked_fill(position > last, 0)
    return input_ids, (position <= last).long()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "lengths", [[9], [24, 24], [3, 3, 3], [5, 24, 7, 12, 11, 3, 18], [10, 6, 8, 8, 9, 7, 23, 4, 4]]
)
def test_packed_captions_and_their_gradients_are_those_of_each_caption_alone(tiny_config, attention, lengths):
    model = randomised(GADMSModel._from_config(tiny_config(), attn_implementation=attention)).double()
    input_ids, attention_mask = padded_captions(lengths, model.config.text_config.eos_token_id)
    # transformers' eager attention takes its softmax in float32.
    precision = {"rtol": 1e-4, "atol": 1e-5} if attention == "eager" else {"rtol": 1e-7, "atol": 1e-9}
    weights = torch.linspace(0.5, 2.0, 16, dtype=torch.float64)  # a gradient that tells the channels apart

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    packed = model.get_packed_text_features(input_ids, attention_mask)
    assert packed.last_hidden_state.shape == (*input_ids.shape, 16)
    alone = [model.get_text_features(row[None, :length]) for row, length in zip(input_ids, lengths, strict=True)]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            packed.last_hidden_state[row, :length], alone[row].last_hidden_state[0], **precision
        )
        torch.testing.assert_close(packed.pooler_output[row], alone[row].pooler_output[0], **precision)
    own = packed.last_hidden_state[attention_mask.bool()]
    actual = gradients((own * weights).sum() + (packed.pooler_output.square() * weights).sum())
    expected = gradients(
        sum((one.last_hidden_state * weights).sum() + (one.pooler_output.square() * weights).sum() for one in alone)
    )
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(actual[name], gradient, **precision), name


def test_rows_of_packed_captions_are_nearly_full():
    """Captions of 22 to 52 tokens in rows of at most 77: two a row, and not a token of padding."""
    input_ids, attention_mask = padded_captions([22, 52, 48, 26, 31, 43, 35, 39], eos=31)
    packed = pack_captions(input_ids, attention_mask, capacity=77, dtype=torch.float32)
    assert packed.input_ids.shape == (4, 74)
    own = attention_mask.bool()
    assert torch.equal(packed.input_ids.flatten()[packed.places][own], input_ids[own])
    assert packed.places[own].unique().numel() == own.sum() == 4 * 74
    positions = torch.arange(52).expand_as(input_ids)
    assert torch.equal(packed.position_ids.flatten()[packed.places][own], positions[own])
    visible = packed.attention_mask == 0  # each token sees the earlier ones of its caption and itself
    assert torch.equal(visible.sum(dim=-1)[:, 0], packed.position_ids + 1)


@pytest.mark.parametrize("hidden", [(0, 0), (0, 5), (2, 3)])
def test_a_token_that_the_attention_mask_hides_inside_a_caption_is_hidden_in_a_row_too(model, hidden):
    input_ids, attention_mask = padded_captions([12, 9, 6], model.config.text_config.eos_token_id)
    attention_mask[hidden] = 0
    packed = model.gadms.get_packed_text_features(input_ids, attention_mask)
    padded = model.gadms.get_text_features(input_ids, attention_mask)
    seen = attention_mask.bool()
    torch.testing.assert_close(packed.last_hidden_state[seen], padded.last_hidden_state[seen])
    torch.testing.assert_close(packed.pooler_output, padded.pooler_output)


def test_without_an_attention_mask_captions_are_not_packed(model):
    input_ids, _ = padded_captions([12, 9, 6], model.config.text_config.eos_token_id)
    torch.testing.assert_close(
        model.gadms.get_packed_text_features(input_ids).last_hidden_state,
        model.gadms.get_text_features(input_ids).last_hidden_state,
        rtol=0,
        atol=0,
    )


# Temperature, identities, scores.


def test_a_fixed_temperature_is_the_configured_one_and_not_trained(tiny_model):
    model = tiny_model(temperature=0.03).gadms
    assert model.temperature.item() == pytest.approx(0.03) and model.temperature.dtype == torch.float32
    assert not model.logit_scale.requires_grad and not model.temperature.requires_grad
    assert model.to(torch.bfloat16).temperature.item() == pytest.approx(0.03, rel=1e-6)


def test_a_learned_temperature_starts_as_configured_is_trained_and_bounded(tiny_model, batch):
    model = tiny_model(temperature=0.07, learn_temperature=True).train()
    assert model.gadms.temperature.item() == pytest.approx(0.07, rel=1e-5)
    training_loss(model, model(**batch)).backward()
    assert model.gadms.logit_scale.grad.abs() > 0
    with torch.no_grad():
        model.gadms.logit_scale.fill_(math.log(1000))
    assert model.gadms.temperature.item() == pytest.approx(0.01)  # CLIP's bound: logits of at most 100


def test_a_learned_temperature_is_saved(tmp_path, tiny_model):
    model = tiny_model(learn_temperature=True)
    with torch.no_grad():
        model.gadms.logit_scale.fill_(math.log(1 / 0.05))
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.temperature.item() == pytest.approx(0.05, rel=1e-5) and loaded.logit_scale.requires_grad


def test_the_identity_loss_classifies_both_embeddings(tiny_model, batch):
    model = randomised(tiny_model(num_identities=5)).train()
    person_ids = torch.tensor([4, 0, 2, 2])
    outputs = model(**batch, person_ids=person_ids, masking=False)
    image = model.gadms.get_image_features(batch["pixel_values"]).pooler_output
    text = model.gadms.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    weight, bias = model.classifier.weight, model.classifier.bias
    expected = sum(F.cross_entropy(x @ weight.T + bias, person_ids) for x in (image, text)) / 2
    torch.testing.assert_close(outputs.identity_loss, expected)


def test_identities_outside_the_classifier_are_refused(tiny_model, batch):
    with pytest.raises(ValueError, match="identities 0 to 4"):
        tiny_model(num_identities=5)(**batch, person_ids=torch.tensor([0, 1, 2, 5]))


def test_person_ids_without_a_classifier_are_left_aside(model, batch):
    assert model(**batch, person_ids=torch.tensor([900, 1, 2, 5])).identity_loss is None


def test_score_tokens_takes_the_configured_or_the_named_method(tiny_model, batch):
    model = randomised(tiny_model(token_score="cosine")).gadms
    arguments = (batch["input_ids"], batch["attention_mask"], torch.randn(4, 16))
    assert torch.equal(model.score_tokens(*arguments), model.score_tokens(*arguments, method="cosine"))
    assert not torch.allclose(model.score_tokens(*arguments), model.score_tokens(*arguments, method="gass"))
    with pytest.raises(ValueError, match="'random'.*'gass' or 'cosine'"):
        model.score_tokens(*arguments, method="random")


def test_gass_reads_the_configured_layers_and_scales(tiny_model, batch):
    arguments = (batch["input_ids"], batch["attention_mask"], torch.randn(4, 16))
    results = []
    for fields in ({"score_layers": 1}, {"score_layers": 3}, {"score_scales": (1,)}, {"score_scales": (3,)}):
        results.append(randomised(tiny_model(**fields)).gadms.score_tokens(*arguments))
    for first in range(4):
        for second in range(first):
            assert not torch.allclose(results[first], results[second], atol=1e-3)
