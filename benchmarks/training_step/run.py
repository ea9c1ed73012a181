r"""Our training step against a literal one, part by part: seconds, memory, and the gain of each change.

    python -m benchmarks.training_step.run            # 8 minutes on two cores
    python -m benchmarks.training_step.run --quick    # a small model, in seconds

The size is that of ViT-B/16 (12 layers of 512 and of 768, 384x128 pixels, 49,409 tokens, 4 fusion layers) with random
weights; 8 pairs, captions of 20 to 50 tokens, float32. Three steps run in turn: ours (loss and optimizer of
`GADMSTrainer`), the literal reference of `reference.py`, and ours with plain SDM, without scores, masks and token
prediction. Before timing, ours and the reference must agree on scores, loss and gradients. Peak memory is that of a
process of its own after three steps. Writes results/training_step.json and a section of RESULTS.md.
"""

import argparse
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.measuring import (
    command_of,
    in_turn,
    machine,
    output_of,
    parser,
    provenance,
    ratio,
    save,
    spread,
    spread_text,
    table,
)
from benchmarks.training_step.parts import PARTS, timed_parts
from benchmarks.training_step.worker import STEPS, Batch, Step, make_batch, make_step


TARGETS = {"time_ratio": 0.67, "memory_ratio": 0.75, "non_image_time_ratio": 0.35, "over_sdm_ratio": 1.3}
MEANINGS = {
    "time_ratio": "step / reference, time",
    "memory_ratio": "step / reference, peak memory",
    "non_image_time_ratio": "step / reference, time without the image encoder",
    "over_sdm_ratio": "step / plain SDM step, time",
}
Results = dict[str, Any]


def agreement(ours: Step, reference: Step, batch: Batch) -> dict[str, float]:
    """Relative differences of the two steps from each other on the same weights and masks.

    Raises:
        RuntimeError: if they do not compute the same.
    """
    losses, gradients, scores = [], [], []
    for step in (ours, reference):
        torch.manual_seed(0)
        with patch.object(step.scorer, step.scores, wraps=getattr(step.scorer, step.scores)) as scorer:
            loss = step.loss(batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append([parameter.grad for parameter in step.model.parameters() if parameter.grad is not None])
        scores.append(getattr(step.scorer, step.scores)(*scorer.call_args.args)[:, : batch["input_ids"].shape[1]])
    apart = [(a - b).norm() for a, b in zip(*gradients, strict=True)]
    whole = [gradient.norm() for gradient in gradients[1]]
    differences = {
        "loss": abs(losses[0] - losses[1]) / abs(losses[1]),
        "gradient": float(torch.stack(apart).norm() / torch.stack(whole).norm()),
        "scores": float((scores[0] - scores[1]).abs().max()),
    }
    for step in (ours, reference):
        step.optimizer.zero_grad()
    if differences["loss"] > 1e-4 or differences["gradient"] > 1e-3 or differences["scores"] > 1e-3:
        raise RuntimeError(f"our step and the reference do not compute the same: {differences}")
    return differences


def without_image(parts: dict[str, float], image_share: float) -> float:
    """Seconds of a step without the image encoder and its share of the optimizer.

    >>> without_image({"image": 5.0, "captions": 2.0, "optimizer": 1.0}, image_share=0.5)
    2.5
    """
    return sum(parts.values()) - parts["image"] - image_share * parts["optimizer"]


def image_share(step: Step) -> float:
    """Share of the image encoder in the trained weights; the optimizer's time is proportional to it."""
    image = [*step.model.gadms.vision_model.parameters(), *step.model.gadms.visual_projection.parameters()]
    trained = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    return sum(parameter.numel() for parameter in image) / sum(parameter.numel() for parameter in trained)


def least_parts(runs: list[dict[str, float]]) -> dict[str, float]:
    """Minimum seconds of each part: short parts run undisturbed in some repetition, whole steps may not.

    >>> least_parts([{"image": 5.0, "head": 0.2}, {"image": 4.0, "head": 0.3}])
    {'image': 4.0, 'head': 0.2}
    """
    return {part: min(run[part] for run in runs) for part in runs[0]}


def measure_parts(steps: dict[str, Step], batch: Batch, repetitions: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of each part by step, one record a repetition."""
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    in_turn(
        {name: lambda name=name: parts[name].append(timed_parts(steps[name], batch)) for name in parts}, repetitions
    )
    return {name: runs[-repetitions:] for name, runs in parts.items()}


def measure_memory(size: str, threads: int) -> dict[str, dict[str, int]]:
    return {name: output_of("benchmarks.training_step.worker", name, size, 3, threads=threads) for name in STEPS}


class Changes:
    """Times each change against what it replaced, in the part of our step that it concerns."""

    def __init__(self, step: Step, batch: Batch):
        self.step, self.gadms, self.pixel_values = step, step.model.gadms, batch["pixel_values"]
        self.input_ids, self.attention_mask = batch["input_ids"], batch["attention_mask"]
        self.image_embeds = torch.randn(len(self.input_ids), step.model.config.projection_dim)

    def _encode(self, rows: slice, copies: int, *, packed: bool) -> None:
        """Forward and backward pass of some captions, each once or twice in the batch, trimmed to the longest."""
        mask = self.attention_mask[rows]
        length = int(mask.sum(dim=1).max())
        input_ids, mask = (tensor[rows, :length].repeat(copies, 1) for tensor in (self.input_ids, self.attention_mask))
        encode = self.gadms.get_packed_text_features if packed else self.gadms.get_text_features
        features = encode(input_ids, mask)
        (features["pooler_output"].sum() + features["last_hidden_state"].sum()).backward()

    def packed(self) -> None:
        self._encode(slice(None), 2, packed=True)

    def padded(self) -> None:
        self._encode(slice(None), 2, packed=False)

    def separate(self) -> None:
        self._encode(slice(None), 1, packed=False)
        self._encode(slice(None), 1, packed=False)

    def sorted_halves(self) -> None:
        """Micro-batches of the shorter and of the longer captions; the batch is sorted by length."""
        half = len(self.input_ids) // 2
        self._encode(slice(half), 2, packed=False)
        self._encode(slice(half, None), 2, packed=False)

    def image(self) -> None:
        self.gadms.get_image_features(self.pixel_values)["last_hidden_state"].sum().backward()

    def score(self) -> None:
        self.gadms.score_tokens(self.input_ids, self.attention_mask, self.image_embeds)

    def score_untrimmed(self) -> None:
        missing = self.step.model.config.text_config.max_position_embeddings - self.input_ids.shape[1]
        widened = [torch.nn.functional.pad(tensor, (0, missing)) for tensor in (self.input_ids, self.attention_mask)]
        self.gadms.score_tokens(*widened, self.image_embeds)

    def score_saving(self) -> None:
        """With weights that require a gradient, so that the forward pass keeps their inputs."""
        keeping = "modeling_gadms.token_scoring_gadms.frozen_float32"
        with patch(keeping, lambda module: dict(module.named_parameters())):
            self.score()

    def optimize(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def step() -> None:
            for parameter in self.step.model.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()

        return step

    def with_patches_in_channels_last(self) -> None:
        embedding = self.gadms.vision_model.embeddings.patch_embedding
        pixel_values = self.pixel_values
        embedding.to(memory_format=torch.channels_last)
        self.pixel_values = pixel_values.to(memory_format=torch.channels_last)
        self.image()
        embedding.to(memory_format=torch.contiguous_format)
        self.pixel_values = pixel_values

    def compiled(self, layers: list[Callable[..., Any]]) -> None:
        """Packed captions with compiled layers of the text encoder."""
        for layer, forward in zip(self.gadms.text_model.encoder.layers, layers, strict=True):
            layer.forward = forward
        self.packed()
        for layer in self.gadms.text_model.encoder.layers:
            del layer.forward

    def measure(self, repetitions: int, *, compile_layers: bool) -> dict[str, dict[str, Any]]:
        """By change: whether it is kept, and the seconds before and after it, one value a repetition."""
        parameters = [parameter for parameter in self.step.model.parameters() if parameter.requires_grad]
        loop = torch.optim.AdamW(parameters, foreach=False, fused=False)
        before_and_after: dict[str, tuple[bool, Callable[[], None], Callable[[], None]]] = {
            "captions: both masked versions in one batch": (True, self.separate, self.padded),
            "captions: packed into rows, after that": (True, self.padded, self.packed),
            "captions: micro-batches by length instead": (False, self.padded, self.sorted_halves),
            "image: patches in channels_last": (False, self.image, self.with_patches_in_channels_last),
            "score: on the trimmed batch": (True, self.score_untrimmed, self.score),
            "score: weights are constants": (True, self.score_saving, self.score),
            "optimizer: fused": (True, self.optimize(loop), self.optimize(self.step.optimizer)),
        }
        if compile_layers:
            compiled = [torch.compile(layer.forward) for layer in self.gadms.text_model.encoder.layers]
            before_and_after["captions: layers by torch.compile"] = (
                False,
                self.packed,
                lambda: self.compiled(compiled),
            )
        results = {}
        for name, (kept, before, after) in before_and_after.items():
            seconds = in_turn({"before": before, "after": after}, repetitions)
            results[name] = {"kept": kept, **seconds}
            self.step.model.zero_grad()
        return results


def report(results: Results) -> str:
    """The section of RESULTS.md.

    Args:
        results (`dict`): content of results/training_step.json.
    """
    seconds, memory = results["seconds"], results["memory"]
    rows = [
        [MEANINGS[name], f"{results[name]:.2f}", f"{results['of_least'][name]:.2f}", f"{target:.2f}"]
        for name, target in TARGETS.items()
    ]
    missed = [MEANINGS[name] for name, target in TARGETS.items() if results[name] > target]
    parts = {name: [spread([run[part] for run in runs]) for part in PARTS] for name, runs in results["parts"].items()}
    part_rows = [
        [
            part,
            spread_text(parts["ours"][index], 2),
            spread_text(parts["reference"][index], 2),
            f"{parts['ours'][index]['median'] / parts['reference'][index]['median']:.2f}",
        ]
        for index, part in enumerate(PARTS)
    ]
    step_rows = [
        [
            label,
            spread_text(spread(seconds[name]), 2),
            f"{memory[name]['peak_bytes'] / 1e6:,.0f}",
            f"{(memory[name]['peak_bytes'] - memory[name]['libraries_bytes']) / 1e6:,.0f}",
        ]
        for name, label in zip(STEPS, ("ours", "literal reference", "ours, plain SDM"), strict=True)
    ]
    step_seconds = min(seconds["ours"])
    change_rows = [
        [
            name,
            "kept" if change["kept"] else "not kept",
            f"{min(change['before']):.2f}",
            f"{min(change['after']):.2f}",
            f"{(min(change['before']) - min(change['after'])) / step_seconds:+.1%}",
        ]
        for name, change in results["changes"].items()
    ]
    net = [memory[name]["peak_bytes"] - memory[name]["libraries_bytes"] for name in ("ours", "reference")]
    return "\n".join(
        [
            "## The training step",
            "",
            "Claim: our step computes the same as a literal one in less time and memory. "
            f"{results['size']} with random weights, {results['batch_size']} pairs with captions of 20 to 50 tokens, "
            f"float32, {results['threads']} threads. The reference pads captions to 77 tokens, encodes them in three "
            "passes, runs a backward pass for each scored layer, predicts tokens at every position and updates one "
            "parameter after the other. On the same weights and masks both have the same loss (relative difference "
            f"{results['agreement']['loss']:.0e}), gradient ({results['agreement']['gradient']:.0e}) and scores "
            f"({results['agreement']['scores']:.0e}).",
            "",
            table(["ratio", "measured", "of minimum times", "target, at most"], rows),
            "",
            f"Medians of {len(seconds['ours'])} repetitions, the steps in turn within each; ratios are within a "
            "repetition. Other programs on the machine can make single steps several times as long; ratios of minimum "
            "times, the sums over the parts below, are disturbed less. Peak memory: resident memory of a process of "
            "its own after three steps.",
            "",
            table(["", "seconds a step", "peak MB", "without libraries"], step_rows),
            "",
            f"Without the libraries the ratio of memory is {net[0] / net[1]:.2f}.",
            "",
            "Seconds of each part, forward and backward, with the graph cut between the parts:",
            "",
            table(["part", "ours", "reference", "ratio"], part_rows),
            "",
            "`losses` contains everything that belongs to no other part, such as the masks. Time without the image "
            "encoder is the sum of all parts except `image`, minus the image encoder's share of `optimizer`.",
            "",
            "The gain of each change alone, in the part that it concerns: minimum seconds, and gain in percent of our "
            "step:",
            "",
            table(["change", "", "seconds before", "after", "gain"], change_rows),
            "",
            *NOTES,
            "",
            f"What falls short: targets missed: {', '.join(missed) or 'none'}.",
            "",
            provenance(results),
        ]
    )


NOTES = (
    "The fused optimizer is the default of transformers. Captions are "
    "packed into rows instead of split into micro-batches by length. "
    "`torch.compile` of the layers is not kept: the time is in matrix products, which it does not change, and each "
    "new width of a batch may compile again. `channels_last` changes one convolution only. Captions are not packed "
    "in the scoring pass, because a NaN in one pair would reach its neighbours in the row. Not tried, because it "
    "could give less than 2 %: skipping rows of the last layers that nobody reads.",
    "",
    "Libraries, weights, gradients and Adam's two averages are the floor of the peak, the same for both and 3.6 GB at "
    "this size. The rest is what the image encoder keeps for its backward pass, and memory that the C library holds "
    "after the first step: freed blocks of the size of a gradient, into which the next step's activations do not fit. "
    "Gradient checkpointing, which the trainer offers, saves more and costs a third forward pass.",
    "",
    "Not measured: GPUs, half precision, larger batches, and real "
    "captions, of which a batch may have more padding, so that packing gains more. Time does not depend on the values "
    "of the weights. Gradient clipping, data loading and augmentation belong to neither step.",
)


def main(arguments: argparse.Namespace) -> None:
    size, threads = ("small", 1) if arguments.quick else ("vit-b-16", 2)
    torch.set_num_threads(threads)
    steps = {name: make_step(name, size) for name in STEPS}
    batch = make_batch(steps["ours"].model.config)
    differences = agreement(steps["ours"], steps["reference"], batch)
    print(f"the two steps agree: {differences}", flush=True)
    repetitions = 5 if arguments.quick else arguments.repetitions
    seconds = in_turn({name: lambda step=step: step.run(batch) for name, step in steps.items()}, repetitions)
    print(f"seconds: { {name: round(spread(values)['median'], 2) for name, values in seconds.items()} }", flush=True)
    parts = measure_parts(steps, batch, 3)
    shares = {name: image_share(steps[name]) for name in parts}
    rest = {name: [without_image(run, shares[name]) for run in runs] for name, runs in parts.items()}
    ours = steps["ours"]
    del steps  # their weights and averages: what follows needs the memory
    changes = Changes(ours, batch).measure(1 if arguments.quick else 2, compile_layers=not arguments.quick)
    del ours
    memory = measure_memory(size, threads)
    ratios = {
        "time_ratio": ratio(seconds["ours"], over=seconds["reference"])["median"],
        "memory_ratio": memory["ours"]["peak_bytes"] / memory["reference"]["peak_bytes"],
        "non_image_time_ratio": ratio(rest["ours"], over=rest["reference"])["median"],
        "over_sdm_ratio": ratio(seconds["ours"], over=seconds["sdm"])["median"],
    }
    least = {name: least_parts(runs) for name, runs in parts.items()}
    whole = {name: sum(values.values()) for name, values in least.items()}
    of_least = {
        "time_ratio": whole["ours"] / whole["reference"],
        "memory_ratio": ratios["memory_ratio"],
        "non_image_time_ratio": without_image(least["ours"], shares["ours"])
        / without_image(least["reference"], shares["reference"]),
        "over_sdm_ratio": whole["ours"] / whole["sdm"],
    }
    results = {
        **ratios,
        "of_least": of_least,
        # Not the medians: what else runs on the machine moves them by more than a regression would.
        "guarded": {f"least_{name}": {"value": value, "better": "lower"} for name, value in of_least.items()},
        "targets": TARGETS,
        "size": "A small model" if arguments.quick else "The size of ViT-B/16",
        "threads": threads,
        "batch_size": len(batch["input_ids"]),
        "agreement": differences,
        "seconds": seconds,
        "parts": parts,
        "image_share_of_weights": shares,
        "seconds_without_image": rest,
        "memory": memory,
        "changes": changes,
        "command": command_of("training_step", *["--quick"] * arguments.quick),
        "machine": machine("transformers"),
    }
    save("training_step", results, report, arguments.output)


if __name__ == "__main__":
    options = parser(__doc__, quick="a small model and few repetitions")
    options.add_argument("--repetitions", type=int, default=5, help="repetitions of each step (default: 5)")
    main(options.parse_args())
