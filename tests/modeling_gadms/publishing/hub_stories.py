"""Functions that `test_hub_models.py` runs in a Hub client: push and load with transformers and peft."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image

from modeling_gadms import GADMSForPreTraining, GADMSModel, GADMSProcessor


COLORS = ("red", "green")
TEXTS = ["a man in a red coat", "a woman"]


def push_model(folder: Path, repo_id: str, private: bool = False) -> None:
    GADMSForPreTraining.from_pretrained(folder).push_to_hub(repo_id, private=private)
    GADMSProcessor.from_pretrained(folder).push_to_hub(repo_id)


def push_adapter(base: str, repo_id: str) -> dict[str, list[Any]]:
    """Push a random adapter. Returns the embeddings of the adapted model."""
    torch.manual_seed(1)
    model = get_peft_model(
        GADMSModel.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    model.push_to_hub(repo_id)
    return embeddings(model.eval(), GADMSProcessor.from_pretrained(base))


def load_adapter(base: str, repo_id: str) -> dict[str, list[Any]]:
    model = PeftModel.from_pretrained(GADMSModel.from_pretrained(base), repo_id)
    return embeddings(model.eval(), GADMSProcessor.from_pretrained(base))


def load(name: str, revision: str = "main") -> dict[str, list[Any]]:
    model = GADMSModel.from_pretrained(name, revision=revision).eval()
    return embeddings(model, GADMSProcessor.from_pretrained(name, revision=revision))


def embeddings(model: Any, processor: GADMSProcessor) -> dict[str, list[Any]]:
    inputs = processor(images=[Image.new("RGB", (20, 50), color) for color in COLORS], text=TEXTS)
    with torch.inference_mode():
        outputs = model(**inputs)
    return {"image": outputs.image_embeds.tolist(), "text": outputs.text_embeds.tolist()}
