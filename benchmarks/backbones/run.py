"""Memory and time of a training step on each backbone, with a token head of its own and with a shared one.

    python -m benchmarks.backbones.run    # four minutes on two cores

Each case is one process with the size of ViT-B/16 and random weights: peak resident memory, and the time of the second
step. Writes results/backbones.json and a section of RESULTS.md.
"""

from typing import Any

from benchmarks.backbones.worker import CAPTION_TOKENS, PAIRS
from benchmarks.measuring import command_of, machine, output_of, parser, provenance, save, table


NAMES = {"clip": "CLIP B/16", "siglip": "SigLIP B/16", "siglip2": "SigLIP 2 B/16", "metaclip_2": "MetaCLIP 2 B/16"}
CASES = (
    ("clip", False), ("clip", True), ("siglip", False), ("siglip", True), ("siglip2", False), ("siglip2", True),
    ("metaclip_2", True),
)  # fmt: skip
"""MetaCLIP 2 with a head of its own would need more memory than the machine may have."""


def measure() -> dict[str, Any]:
    """Run all cases, one after the other."""
    cases = []
    for backbone, tied in CASES:
        arguments = [backbone, *(["--tied"] if tied else [])]
        measured = output_of("benchmarks.backbones.worker", *arguments)
        cases.append({"backbone": backbone, "tied": tied, **measured})
    return {
        "pairs": PAIRS,
        "caption_tokens": CAPTION_TOKENS,
        "cases": cases,
        "command": command_of("backbones"),
        "seed": 0,
        "machine": machine("transformers"),
    }


def report(results: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    rows = [
        [
            NAMES[case["backbone"]],
            "the token embeddings" if case["tied"] else "of its own",
            "yes" if case["tied"] == case["tied_by_default"] else "",
            f"{case['parameters'] / 1e6:,.0f}",
            f"{case['embedding_parameters'] / 1e6:,.0f}",
            f"{_own_memory(case) / 1e6:,.0f}",
            f"{case['seconds']:.1f}",
        ]
        for case in results["cases"]
    ]
    columns = ["backbone", "matrix of the token head", "default", "million weights", "of them embeddings", "peak MB"]
    peaks = {(case["backbone"], case["tied"]): _own_memory(case) for case in results["cases"]}
    saved = {name: 1 - peaks[name, True] / peaks[name, False] for name in ("clip", "siglip2")}
    return "\n\n".join(
        [
            "## Backbones",
            "Claim: the objective trains on each family, and where the vocabulary is large, a token head that shares "
            "the token embeddings saves much memory. The size of ViT-B/16 with random weights, images of 384x128, "
            f"{results['pairs']} pairs with captions of {results['caption_tokens']} tokens, which SigLIP pads to 64; "
            "float32, 2 threads, AdamW. Peak memory is that of a process of its own, without the libraries; time is "
            "that of the second of two steps, on a machine that was busy with other work: compare memory, not times.",
            table([*columns, "s"], rows),
            f"Sharing saves {saved['clip']:.0%} of the memory with CLIP's 49,409 tokens, and {saved['siglip2']:.0%} "
            "with SigLIP 2's 256,001: weight, gradient and two averages of Adam of the second matrix. Above 65,536 "
            "tokens it is the default. CLIP keeps the paper's head. Logits are computed at masked tokens only.",
            "Not measured: whether a shared matrix changes accuracy, GPUs, and MetaCLIP 2 with a head of its own, "
            "whose weights, gradients and averages would take 7 GB more.",
            provenance(results),
        ]
    )


def _own_memory(case: dict[str, Any]) -> int:
    return case["peak_bytes"] - case["libraries_bytes"]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    save("backbones", measure(), report, arguments.output)


if __name__ == "__main__":
    main()
