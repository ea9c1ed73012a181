"""Prediction of the training time on GPUs from the arithmetic of a step."""

from dataclasses import dataclass
from typing import Any

from benchmarks.cost.arithmetic import FLOAT32_BYTES, OURS, Cost, Step, alignment, parameters, step_costs
from modeling_gadms import GADMSConfig


PAIRS, EPOCHS, BATCH = 5_002_723, 30, 512
"""Images of WebPerson-5M, with one caption of each in an epoch; the paper's epochs and batch."""
BAND = (0.3, 0.5)
"""Assumed shares of a GPU's peak (FLOP of the model over time), as trainings of transformers usually reach."""


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU: dense matrix products in FLOP/s, memory and one direction of its links in bytes/s."""

    name: str
    bfloat16: float
    tf32: float
    float32: float
    memory: float
    link: float


# NVIDIA H100 Tensor Core GPU data sheet, SXM5; its tensor-core numbers are with sparsity, dense ones are half of them.
# https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet
H100 = Gpu("H100 SXM", bfloat16=989.4e12, tf32=494.7e12, float32=66.9e12, memory=3.35e12, link=450e9)


def predicted_step_seconds(
    costs: dict[str, Cost], columns_cost: Cost, gpu: Gpu, utilisation: float, score_peak: float
) -> float:
    """Seconds of a step on one GPU of several.

    Args:
        costs (`dict[str, Cost]`): of its own pairs, by part.
        columns_cost ([`Cost`]): of the alignment of its own rows with the pairs of all.
        gpu ([`Gpu`])
        utilisation (`float`): share of its peaks that products reach, with all elementwise operations beside them.
        score_peak (`float`): FLOP/s of the products of the score, which are not in bfloat16.
    """
    products = sum(cost.flops for name, cost in costs.items() if name not in ("score", "alignment"))
    seconds = products / gpu.bfloat16 + costs["score"].flops / score_peak + columns_cost.flops / gpu.float32
    return seconds / utilisation + costs["optimizer"].traffic / gpu.memory


def predict(config: GADMSConfig, steps: dict[int, Step], utilisations: dict[str, float]) -> dict[str, Any]:
    """The paper's pre-training on one GPU and on several.

    Args:
        config ([`GADMSConfig`])
        steps (`dict[int, Step]`): by number of GPUs, what each of them does in a step.
        utilisations (`dict[str, float]`): shares of the peak by name.

    Returns:
        `dict`: for each number of GPUs and precision of the score (`"8 TF32"`), by name of the share, the seconds of
        a step, the hours in all and the images a second that the loaders must feed; and under `"exchange of eight"`
        what the processes send one another in a step, at the full speed of the links.
    """
    predictions: dict[str, Any] = {}
    for gpus, step in steps.items():
        costs, columns_cost = step_costs(config, step), alignment(config, step.pairs, BATCH)
        for precision, score_peak in (("float32", H100.float32), ("TF32", H100.tf32)):
            seconds = {
                name: predicted_step_seconds(costs, columns_cost, H100, share, score_peak)
                for name, share in utilisations.items()
            }
            hours = {name: value * PAIRS * EPOCHS / BATCH / 3600 for name, value in seconds.items()}
            images = {name: BATCH / value for name, value in seconds.items()}
            predictions[f"{gpus} {precision}"] = {"hours": hours, "images_per_second": images, "step": seconds}
    others = 7 / 8  # of eight processes, what comes from the others
    gathered = BATCH * 2 * config.projection_dim * FLOAT32_BYTES
    gradients = FLOAT32_BYTES * sum(parameters(config).values())
    predictions["exchange of eight"] = {
        "gathered_bytes": gathered,
        "gather_seconds": others * gathered / H100.link,
        "gradient_bytes": gradients,
        "gradient_seconds": 2 * others * gradients / H100.link,
        "optimizer_seconds": OURS.optimizer * gradients / H100.memory,
    }
    return predictions
