"""The section on the cost model in RESULTS.md, from results/cost_model.json."""

from typing import Any

from benchmarks.cost.arithmetic import FLOAT32_BYTES, PARTS
from benchmarks.cost.prediction import BAND, BATCH, EPOCHS, H100, PAIRS
from benchmarks.measuring import provenance, spread, spread_text, table


Values = dict[str, Any]


def report(results: Values) -> str:
    """The section as Markdown.

    Args:
        results (`dict`): content of results/cost_model.json.
    """
    parts = [
        "## Cost model",
        "Claim: the arithmetic of a step explains its cost. It counts the FLOP of matrix products, convolutions and "
        "attention: a multiplication with its addition as two, attention over all pairs of tokens of a row, the "
        "backward pass as twice the forward pass where inputs and weights both have gradients (`cost/arithmetic.py`). "
        "Traffic is what elementwise operations and the optimizer read and write in float32, one kernel an operation; "
        "matrix products are bound by their FLOP, and their traffic is not counted. Memory is that of weights, "
        "gradients and both moments of Adam. The reference is the step of the released code: every caption at 77 "
        "tokens, a backward pass for each scored layer, the token head on every position, no fused optimizer, "
        "QuickGELU in three kernels.",
        *(_costs_text(name, model) for name, model in results["models"].items()),
        _measured_text(results),
        _prediction_text(results),
        provenance(results),
    ]
    return "\n\n".join(parts)


def _costs_text(name: str, model: Values) -> str:
    step = model["step"]
    pairs = step["pairs"]
    ours, reference = (
        sum(cost["forward"] + cost["backward"] for cost in model[side].values()) / pairs
        for side in ("ours", "reference")
    )
    headings = ["a pair", "parameters, M", "memory, MB", "forward, GFLOP", "backward", "reference, forward"]
    rows = [_part_row(part, model, pairs) for part in PARTS]
    return (
        f"### {name}\n\n{pairs} pairs, captions padded to {step['caption_tokens']} tokens to be scored and "
        f"packed into {step['packed_rows']} rows of {step['packed_tokens']} to be encoded in both masked versions, "
        f"{step['predicted_tokens']:,} tokens to be predicted.\n\n"
        f"{table([*headings, 'backward', 'traffic, MB', 'reference'], rows)}\n\n"
        f"In all {_giga(ours)} GFLOP a pair, of the reference's {_giga(reference)}: {model['flops_ratio']:.2f} by "
        "FLOP alone. The arithmetic does not count what fewer and larger operations gain."
    )


def _part_row(part: str, model: Values, pairs: int) -> list[str]:
    costs = [model[side][part] for side in ("ours", "reference")]
    if part == "optimizer":  # once a step, however many pairs
        return [part, *[""] * 6, *(f"{cost['traffic'] / 1e6:,.0f} a step" for cost in costs)]
    count = model["parameters"].get(part)
    size = [f"{count / 1e6:.1f}", f"{4 * FLOAT32_BYTES * count / 1e6:,.0f}"] if count else ["", ""]
    flops = [_giga(cost[way] / pairs) for cost in costs for way in ("forward", "backward")]
    return [part, *size, *flops, *(f"{cost['traffic'] / 1e6 / pairs:,.0f}" for cost in costs)]


def _measured_text(results: Values) -> str:
    measured = results["measured"]
    seconds, fractions, step = measured["seconds"], measured["fraction_of_peak"], measured["step"]
    flops = measured["flops"] | {"step": sum(measured["flops"].values())}
    rows = [
        [
            name,
            f"{flops[name] / 1e9:,.1f}",
            f"{measured['counted_flops'][name] / 1e9:,.1f}",
            spread_text(spread(seconds[name]), 3),
            f"{fractions[name]:.2f}" if name in fractions else "",
        ]
        for name in (*PARTS, "step")
    ]
    products = measured["matrix_product_flops_per_second"].items()
    sum_of_parts = sum(min(seconds[name]) for name in PARTS) / min(seconds["step"])
    least, most = results["caption_tokens"]
    return (
        f"### Measured on this machine\n\n{results['size']}, batch {step['pairs']}, captions of {least} to {most} "
        f"tokens padded to {step['caption_tokens']} and packed into {step['packed_rows']} rows of "
        f"{step['packed_tokens']}, {step['predicted_tokens']} tokens to be predicted; random weights, float32, "
        f"{results['threads']} threads; medians of {len(seconds['step'])} repetitions (minimum to maximum), all in "
        f"turn; shares of the peak are of the minimum seconds, which other programs on a shared machine disturb "
        f"least. Each part runs alone, forward and backward, on inputs of the step's shapes; together "
        f"they take {sum_of_parts:.2f} of the whole step. Counted: by PyTorch's counter while it ran.\n\n"
        + table(["part", "GFLOP by arithmetic", "GFLOP counted", "seconds", "of the peak"], rows)
        + "\n\nThe peak is the fastest product of square float32 matrices (GFLOP/s: "
        + ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in products)
        + f"). The step reaches {fractions['step']:.2f} of it, {fractions['without optimizer']:.2f} without the "
        f"optimizer, which moves {measured['optimizer_bytes_per_second'] / 1e9:.1f} GB/s where the sum of two vectors "
        f"in place moves {measured['memory_bytes_per_second'] / 1e9:.1f}."
    )


def _prediction_text(results: Values) -> str:
    utilisations = results["utilisations"]
    low, high = (f"{share:.0%}" for share in BAND)
    rows = [
        [
            model,
            *key.split(),
            *(f"{values['hours'][name]:,.1f}" for name in utilisations),
            f"{values['images_per_second'][low]:,.0f} to {values['images_per_second'][high]:,.0f}",
        ]
        for model, predictions in results["predictions"].items()
        for key, values in predictions.items()
        if key != "exchange of eight"
    ]
    base, large = results["predictions"].values()
    exchange, least = base["exchange of eight"], base["8 TF32"]["step"][high]
    loader = results["loader_rows_per_second"]
    workers = [base["8 TF32"]["images_per_second"][share] / loader for share in (low, high)]
    spared = 1 - base["8 TF32"]["step"][low] / base["8 float32"]["step"][low]
    longer = large["8 TF32"]["hours"][high] / base["8 TF32"]["hours"][high]
    columns = [f"hours at {share:.0%}" + " (ours)" * (name == "measured") for name, share in utilisations.items()]
    return (
        f"### A prediction, not a measurement: {H100.name}\n\n{PAIRS:,} pairs, {EPOCHS} epochs, a batch of {BATCH} in "
        f"all. Hours are FLOP over a share of the dense peak of the data sheet (bfloat16 {H100.bfloat16 / 1e12:.0f} "
        f"TFLOP/s; the score in float32 {H100.float32 / 1e12:.0f} or TF32 {H100.tf32 / 1e12:.0f}), plus the traffic "
        f"of the optimizer at {H100.memory / 1e12:.2f} TB/s. Shares: {utilisations['measured']:.0%}, measured on "
        f"this machine, and {low} and {high}, an assumed band. A share of a CPU does not carry over to a GPU, whose "
        "memory is slower relative to its products and which waits for small kernels: the band is the better guess, "
        "and remains a guess until it is measured.\n\n"
        + table(["model", "GPUs", "score in", *columns, "images/s"], rows)
        + f"\n\nImages/s, at {low} to {high}, are what the loaders must deliver. One of our loader processes prepares "
        f"{loader:,.0f} pairs a second here (section on streaming), so eight GPUs at ViT-B/16 need {workers[0]:,.0f} "
        f"to {workers[1]:,.0f} of them: loading may well be the bottleneck. The score runs in float32, without "
        f"tensor cores unless TF32 is allowed (`tf32: true` of the training arguments), which saves {spared:.0%} of "
        f"a step on eight GPUs. ViT-L/14 takes {longer:.1f} times as long as ViT-B/16.\n\n"
        f"On eight GPUs a step gathers {exchange['gathered_bytes'] / 1e6:.1f} MB of embeddings, "
        f"{1e6 * exchange['gather_seconds']:.0f} µs at the data sheet's {H100.link / 1e9:.0f} GB/s of NVLink, of a "
        f"step of at least {1e3 * least:.0f} ms: that is negligible. Gradients are "
        f"{exchange['gradient_bytes'] / 1e6:,.0f} MB, {1e3 * exchange['gradient_seconds']:.1f} ms, which overlap with "
        f"the backward pass; the optimizer takes {1e3 * exchange['optimizer_seconds']:.1f} ms on each GPU for any "
        "batch size. What falls short, not counted: augmentation, evaluation, checkpoints, the wait for kernels, and "
        f"whether a batch of {BATCH} fits one GPU without gradient checkpointing, which costs another forward pass."
    )


def _giga(flops: float) -> str:
    return f"{flops / 1e9:,.2f}"
