r"""FLOP and bytes of a training step by arithmetic, the share of the machine's peak it reaches, and a GPU prediction.

    python -m benchmarks.cost.model            # 2 minutes on two cores
    python -m benchmarks.cost.model --quick    # a small model instead of ViT-B/16: 15 seconds

The arithmetic is in `arithmetic.py` and is checked here against PyTorch's FLOP counter. A step at ViT-B/16 with random
weights, each of its parts, and matrix products of several sizes run in turn; the fastest product is the machine's
peak. Writes results/cost_model.json and a section of RESULTS.md.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost.arithmetic import PARTS, Step, parameters, reference_costs, step_costs
from benchmarks.cost.prediction import BAND, BATCH, H100, predict
from benchmarks.cost.report import report
from benchmarks.measuring import command_of, in_turn, machine, parser, read_results, save
from modeling_gadms import GADMSConfig
from modeling_gadms.losses_gadms import masked_token_prediction_loss, similarity_distribution_matching_loss
from modeling_gadms.masking_gadms import apply_mask
from modeling_gadms.modeling_gadms import GADMSForPreTraining
from modeling_gadms.packing_gadms import pack_captions


THREADS = 2
SEED = 0
CAPTION_TOKENS = (20, 50)
"""Shortest and longest caption, BOS and EOS included."""
Calls = dict[str, Callable[[], Any]]


def vit_b_16() -> GADMSConfig:
    """The paper's model."""
    return GADMSConfig()


def vit_l_14() -> GADMSConfig:
    """Encoders of CLIP ViT-L/14. Patches of 14 pixels do not cover 384x128: 378x126, which is 27x9 of them."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return GADMSConfig(
        text_config={"vocab_size": 49_409, **text},
        vision_config={"image_size": (378, 126), "patch_size": 14, **vision},
        projection_dim=768,
        fusion_num_attention_heads=12,
        fusion_intermediate_size=3072,
    )


def small() -> GADMSConfig:
    """The model of `--quick`: large enough that matrix products take most of a step."""
    text = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 6}
    tokens = {"vocab_size": 8192, "bos_token_id": 8189, "eos_token_id": 8190, "pad_token_id": 8190}
    return GADMSConfig(
        text_config={**tokens, **text},
        vision_config={"image_size": (192, 64), "patch_size": 16, **vision},
        mask_token_id=8191,
        projection_dim=256,
        score_layers=3,
        fusion_num_hidden_layers=2,
        fusion_num_attention_heads=4,
        fusion_intermediate_size=1024,
    )


def make_captions(config: GADMSConfig, number: int, lengths: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens, of random lengths from the shortest to the longest, padded to the longest drawn.

    Returns:
        `input_ids` and `attention_mask`, each a `torch.LongTensor` of shape `(number, sequence_length)`.
    """
    generator = torch.Generator().manual_seed(SEED)
    text: Any = config.text_config
    length = torch.randint(lengths[0], lengths[1] + 1, (number,), generator=generator)[:, None]
    position = torch.arange(int(length.max()))
    # CLIP's special tokens are the last of its vocabulary; our mask token follows them.
    input_ids = torch.randint(3, text.vocab_size - 4, (number, len(position)), generator=generator)
    input_ids[:, 0] = text.bos_token_id
    input_ids[position == length - 1] = text.eos_token_id
    input_ids[position >= length] = text.pad_token_id
    return input_ids, (position < length).long()


def make_batch(config: GADMSConfig, pairs: int, lengths: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Random images, and captions of [`make_captions`]."""
    input_ids, attention_mask = make_captions(config, pairs, lengths)
    generator = torch.Generator().manual_seed(SEED)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(pairs, 3, *config.image_size, generator=generator),
        "person_ids": torch.arange(pairs),
    }


def described(config: GADMSConfig, attention_mask: torch.Tensor, predicted_tokens: int) -> Step:
    """The [`Step`] of the arithmetic for captions with this mask."""
    text: Any = config.text_config
    both = attention_mask.repeat(2, 1)
    packed = pack_captions(both, both, capacity=text.max_position_embeddings, dtype=torch.float32)
    (pairs, caption_tokens), (rows, row_tokens) = attention_mask.shape, packed.input_ids.shape
    return Step(pairs, caption_tokens, rows, row_tokens, predicted_tokens)


class TrainingStep:
    """A training step, and each of its parts alone.

    Args:
        config ([`GADMSConfig`]): of a model with random weights.
        batch (`dict[str, torch.Tensor]`): of [`make_batch`].
    """

    def __init__(self, config: GADMSConfig, batch: dict[str, torch.Tensor]):
        torch.manual_seed(SEED)
        self.config, self.batch = config, batch
        self.model = GADMSForPreTraining(config).train()
        # A learning rate of zero keeps the scores, and so the number of predicted tokens, from step to step.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=True)
        self.predicted_tokens = 0

    def __call__(self) -> None:
        """The whole step; masks are the same each time."""
        torch.manual_seed(SEED)
        outputs = self.model(**self.batch)
        alignment = self._alignment_loss(outputs.image_embeds, outputs.text_embeds)
        (alignment + self.config.mtp_weight * outputs.mtp_loss).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.predicted_tokens = int(outputs.num_predicted_tokens)

    @property
    def description(self) -> Step:
        """The [`Step`] of the arithmetic, after a step was run."""
        return described(self.config, self.batch["attention_mask"], self.predicted_tokens)

    def parts(self) -> Calls:
        """By name of `PARTS`, a function that runs the part forward and backward on inputs of the right shapes.

        Call the optimizer after the other parts: it needs their gradients.
        """
        model, config, batch = self.model, self.config, self.batch
        gadms, fusion, head = model.gadms, model.fusion, model.token_head
        input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
        torch.manual_seed(SEED)
        with torch.no_grad():
            outputs = model(**batch)
            image_tokens = gadms.get_image_features(batch["pixel_values"]).last_hidden_state
        masks = outputs.noise_mask, outputs.informative_mask
        captions = torch.cat([apply_mask(input_ids, mask, config.mask_token_id) for mask in masks])
        image_leaf = image_tokens.requires_grad_()
        text_leaf = torch.randn(*input_ids.shape, config.projection_dim, requires_grad=True)
        embed_leaves = [embeds.detach().requires_grad_() for embeds in (outputs.image_embeds, outputs.text_embeds)]

        def image() -> None:
            _forget_gradients(gadms.vision_model, gadms.visual_projection)
            features = gadms.get_image_features(batch["pixel_values"])
            features.last_hidden_state.backward(image_tokens.detach())

        def score() -> None:
            gadms.score_tokens(input_ids, attention_mask, outputs.image_embeds)

        def encode_captions() -> None:
            _forget_gradients(gadms.text_model, gadms.text_projection)
            features = gadms.get_packed_text_features(captions, attention_mask.repeat(2, 1))
            both = [features.last_hidden_state, features.pooler_output]
            torch.autograd.backward(both, [torch.ones_like(tensor) for tensor in both])

        def fuse() -> None:
            _forget_gradients(fusion)
            image_leaf.grad = text_leaf.grad = None
            fusion(text_leaf, image_leaf, attention_mask).backward(text_leaf.detach())

        def predict() -> None:
            _forget_gradients(head)
            text_leaf.grad = None
            mask = outputs.informative_mask
            masked_token_prediction_loss(head(text_leaf[mask]), input_ids[mask]).backward()

        def align() -> None:
            self._alignment_loss(*embed_leaves).backward()

        calls = (image, score, encode_captions, fuse, predict, align, self.optimizer.step)
        return dict(zip(PARTS, calls, strict=True))

    def _alignment_loss(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        return similarity_distribution_matching_loss(
            image_embeds, text_embeds, self.batch["person_ids"], temperature=self.config.temperature
        )


def _forget_gradients(*modules: nn.Module) -> None:
    # As `zero_grad` in a step; accumulation would read and write the gradients once more.
    for module in modules:
        module.zero_grad()


def counted_flops(call: Callable[[], Any]) -> int:
    """FLOP of the matrix products, convolutions and attention of a call, as PyTorch counts them."""
    # PyTorch cannot count the CPU's fused attention kernel; it counts the products of the plain one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def matrix_product(size: int) -> Callable[[], Any]:
    """A function that multiplies two square float32 matrices: `2 * size**3` FLOP."""
    left, right, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    return lambda: torch.mm(left, right, out=out)


def measure(config: GADMSConfig, pairs: int, sizes: tuple[int, ...], repetitions: int) -> dict[str, Any]:
    """Time a step, its parts, matrix products and a sum of two long vectors in turn.

    Args:
        config ([`GADMSConfig`])
        pairs (`int`): in the batch.
        sizes (`tuple[int, ...]`): of the matrices whose products give the peak.
        repetitions (`int`)
    """
    step = TrainingStep(config, make_batch(config, pairs, CAPTION_TOKENS))
    counted = {"step": counted_flops(step)}
    parts = step.parts()
    counted |= {name: counted_flops(call) for name, call in parts.items()}
    products = {f"{size}x{size}": matrix_product(size) for size in sizes}
    total, term = torch.zeros(2, 1 << 26)  # 256 MiB each, beyond any cache
    memory: Calls = {"memory": lambda: total.add_(term)}  # in place, as an optimizer writes
    seconds = in_turn({"step": step, **parts, **products, **memory}, repetitions)

    costs = step_costs(config, step.description)
    # Other programs only make a run slower, so the minimum is disturbed least.
    least = {name: min(values) for name, values in seconds.items()}
    per_second = {name: 2 * size**3 / least[name] for name, size in zip(products, sizes, strict=True)}
    peak = max(per_second.values())
    whole = sum(cost.flops for cost in costs.values())
    return {
        "step": asdict(step.description),
        "parameters": parameters(config),
        "seconds": seconds,
        "flops": {name: cost.flops for name, cost in costs.items()},
        "counted_flops": counted,
        "counted_over_arithmetic": counted["step"] / whole,
        "matrix_product_flops_per_second": per_second,
        "peak_flops_per_second": peak,
        "fraction_of_peak": {
            **{name: costs[name].flops / least[name] / peak for name in PARTS if costs[name].flops},
            "step": whole / least["step"] / peak,
            "without optimizer": whole / (least["step"] - least["optimizer"]) / peak,
        },
        "memory_bytes_per_second": 3 * total.nbytes / least["memory"],
        "optimizer_bytes_per_second": costs["optimizer"].traffic / least["optimizer"],
    }


def arithmetic(config: GADMSConfig, step: Step) -> dict[str, Any]:
    """Ours and the reference's costs by part, and the ratio of all their FLOP."""
    ours, reference = step_costs(config, step), reference_costs(config, step.pairs)
    sums = [sum(cost.flops for cost in costs.values()) for costs in (ours, reference)]
    return {
        "step": asdict(step),
        "parameters": parameters(config),
        "ours": {name: asdict(cost) for name, cost in ours.items()},
        "reference": {name: asdict(cost) for name, cost in reference.items()},
        "flops_ratio": sums[0] / sums[1],
    }


def expected_step(pairs: int, predicted_tokens_per_pair: float) -> Step:
    """A step with captions of `CAPTION_TOKENS`; both models have the same maximum length."""
    config = vit_b_16()
    _, attention_mask = make_captions(config, pairs, CAPTION_TOKENS)
    return described(config, attention_mask, round(pairs * predicted_tokens_per_pair))


def loader_rows_per_second() -> float:
    """Pairs a second of one of our loader processes, from the streaming benchmark."""
    return median(read_results("streaming")["rows_per_second"]["1"]["ours"])


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(THREADS)
    quick = arguments.quick
    config, pairs = (small(), 8) if quick else (vit_b_16(), 8)
    measured = measure(config, pairs, (1024, 2048) if quick else (1024, 2048, 4096), 5)
    per_pair = measured["step"]["predicted_tokens"] / pairs
    utilisations = {"measured": measured["fraction_of_peak"]["without optimizer"]}
    utilisations |= {f"{share:.0%}": share for share in BAND}
    configs = {"ViT-B/16": vit_b_16(), "ViT-L/14 at 378x126": vit_l_14()}
    # From the measured batch with random weights; only the head, the smallest part, depends on it.
    steps = {gpus: expected_step(BATCH // gpus, per_pair) for gpus in (1, 8)}
    models = {name: arithmetic(one, steps[1]) for name, one in configs.items()}
    results = {
        "command": command_of("cost_model", *["--quick"] * quick),
        "machine": machine("transformers"),
        "seed": SEED,
        "size": "A small model" if quick else "ViT-B/16",
        "flops_ratio": models["ViT-B/16"]["flops_ratio"],
        "fraction_of_peak": measured["fraction_of_peak"]["step"],
        "guarded": {
            # Above 1 if the step computes more than the arithmetic says.
            "flops_over_arithmetic": {"value": measured["counted_over_arithmetic"], "better": "lower"},
            "fraction_of_peak": {"value": measured["fraction_of_peak"]["step"], "better": "higher"},
        },
        "caption_tokens": CAPTION_TOKENS,
        "threads": THREADS,
        "utilisations": utilisations,
        "loader_rows_per_second": loader_rows_per_second(),
        "models": models,
        "predictions": {name: predict(one, steps, utilisations) for name, one in configs.items()},
        "gpu": asdict(H100),
        "measured": measured,
    }
    save("cost_model", results, report, arguments.output)


if __name__ == "__main__":
    main(parser(__doc__, quick="a small model instead of ViT-B/16").parse_args())
