"""Checkpoints as public code bases save them: their names, and the embeddings that their code computes.

Each row of the table in docs/guides/convert.md is one of `LAYOUTS`.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.modeling_gadms.conversion.openai_clip import (
    GELU,
    Clip,
    ImageEncoder,
    Norm,
    ResearchModel,
    Transformer,
    randomise,
    without_settings,
)


PERSON = (6, 2)
"""Rows and columns of patches in images of persons."""


@dataclass(frozen=True)
class Saved:
    """What a code base saves, and what it computes.

    Attributes:
        content (`Any`): argument of `torch.save`, `None` for a checkpoint that no conversion gets to read.
        clip (`Clip`, *optional*): has the embeddings, if the checkpoint can be converted.
        options (`tuple[str, ...]`): of `gadms convert`.
        name (`str`): of the file, or folder and file.
    """

    content: Any
    clip: Any = None
    options: tuple[str, ...] = ()
    name: str = "checkpoint.pth"


def below(prefix: str, model: nn.Module | dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = model.state_dict() if isinstance(model, nn.Module) else model
    return {prefix + name: tensor for name, tensor in state.items()}


def tensors(*names: str, shape: tuple[int, ...] = (4,)) -> dict[str, torch.Tensor]:
    return {name: torch.ones(shape) for name in names}


class LongClip(Clip):
    """Long-CLIP adds masked positions: the first 20 of one parameter and the rest of the other."""

    def __init__(self, **sizes: Any):
        super().__init__(**sizes)
        self.positional_embedding_res = nn.Parameter(torch.empty_like(self.positional_embedding))
        randomise(self)

    def encode_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        first = (torch.arange(len(self.positional_embedding)) < 20)[:, None]
        positions = self.positional_embedding * first + self.positional_embedding_res * ~first
        x = self.token_embedding.weight[input_ids] + positions[: len(input_ids)]
        return self.ln_final(self.transformer(x, causal=True)) @ self.text_projection


class TbpsClipText(nn.Module):
    def __init__(self, vocab_size: int, width: int, projection: int):
        super().__init__()
        self.transformer = Transformer(width, 2, 4 * width)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(24, width))
        self.ln_final = Norm(width)
        self.text_projection = nn.Parameter(torch.empty(width, projection))


class TbpsClip(nn.Module):
    """TBPS-CLIP: square images, the text encoder in a module of its own, a projection for self-supervision."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.image_size = (32, 32)
        self.visual = ImageEncoder(64, 2, 8, (4, 4), 64)
        self.encode_text_module = TbpsClipText(vocab_size, 64, 64)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.classifier = nn.Linear(64, 5)
        self.simclr_mlp = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8))
        randomise(self)

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.encode_text_module.token_embedding

    def encode_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        text = self.encode_text_module
        x = text.token_embedding.weight[input_ids] + text.positional_embedding[: len(input_ids)]
        return text.ln_final(text.transformer(x, causal=True)) @ text.text_projection

    def embed_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.encode_text(input_ids)[input_ids.argmax()]

    def names(self) -> dict[str, torch.Tensor]:
        return {name.replace("encode_text_module", "encode_text"): t for name, t in self.state_dict().items()}


def openai(vocab_size: int) -> Saved:
    clip = Clip(vocab_size=vocab_size)
    return Saved(clip.state_dict(), clip, ("--image-size", "32x32"))


def fine_tuned_openai(vocab_size: int) -> Saved:
    clip = without_settings(Clip(vocab_size=vocab_size))
    return Saved(
        {"model_state_dict": clip.state_dict(), "epoch": 3},
        clip,
        ("--image-size", "32x32", "--activation", "quick_gelu", "--heads", "2,1"),
    )


def open_clip(vocab_size: int) -> Saved:
    clip = without_settings(
        Clip(vocab_size=vocab_size, vision_width=160, head_width=80, text_width=80, activation=GELU)
    )
    options = ("--image-size", "32x32", "--activation", "gelu", "--heads", "2,1")
    return Saved({"epoch": 1, "name": "x", "state_dict": below("module.", clip)}, clip, options)


def open_clip_of_usual_width(vocab_size: int) -> Saved:
    clip = without_settings(
        Clip(vocab_size=vocab_size, vision_width=1280, vision_layers=1, text_width=256, text_layers=1, activation=GELU)
    )
    for block in clip.visual.transformer.resblocks:
        block.attn.head_width = 80
    return Saved(clip.state_dict(), clip, ("--image-size", "32x32", "--activation", "gelu"))


def open_clip_without_options(vocab_size: int) -> Saved:
    return Saved(open_clip(vocab_size).content)


def open_clip_without_heads(vocab_size: int) -> Saved:
    return Saved(open_clip(vocab_size).content, options=("--activation", "gelu"))


def clip_in_a_wrapper(vocab_size: int) -> Saved:
    clip = without_settings(Clip(vocab_size=vocab_size))
    content = {"state_dict": below("model.clip_model.", clip) | tensors("model.loss_fn.centers")}
    options = ("--image-size", "32x32", "--activation", "quick_gelu", "--heads", "2,1")
    return Saved(content | {"pytorch-lightning_version": "2.5", "optimizer_states": []}, clip, options, "last.ckpt")


def long_clip(vocab_size: int) -> Saved:
    clip = without_settings(LongClip(vocab_size=vocab_size))
    return Saved(clip.state_dict(), clip, ("--image-size", "32x32"))


def research(vocab_size: int, **parts: Any) -> ResearchModel:
    return ResearchModel(vocab_size=vocab_size, grid=PERSON, **parts)


def irra(vocab_size: int) -> Saved:
    model = research(vocab_size, identities=5)
    return Saved({"model": model.state_dict(), "optimizer": {"state": {}}, "epoch": 60}, model.base_model)


def irra_compiled(vocab_size: int) -> Saved:
    model = research(vocab_size)
    return Saved({"net": below("module._orig_mod.", model)}, model.base_model, (), "best.pth.tar")


def irra_run(vocab_size: int) -> Saved:
    model = research(vocab_size)
    return Saved({"model": model.state_dict()}, model.base_model, (), "run/best.pth")


def encoders_alone(vocab_size: int) -> Saved:
    model = research(vocab_size, fusion_layers=None)
    return Saved({"model": model.state_dict()}, model.base_model)


def fusion_without_token_head(vocab_size: int) -> Saved:
    model = research(vocab_size)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("mlm_head")}
    return Saved(state | tensors("classifier_proj.weight"), model.base_model)


def vfe_tps(vocab_size: int) -> Saved:
    model = research(vocab_size, identities=5)
    extra = [f"cross_{part}_{task}.x" for part in ("attention", "modal_transformer") for task in ("itm", "image")]
    extra += [f"{task}_ln_{norm}.weight" for task in ("itm", "image") for norm in ("pre_t", "pre_i", "post")]
    extra += ["mlp_itm.weight", "mask_token", "decoder.0.weight", "gToken2id.bias"]
    return Saved({"model": model.state_dict() | tensors(*extra)}, model.base_model)


def tbps_clip(vocab_size: int) -> Saved:
    model = TbpsClip(vocab_size)
    return Saved({"model": model.names(), "config": argparse.Namespace(lr=1e-5)}, model)


def clip2textreid(vocab_size: int) -> Saved:
    clip = without_settings(Clip(vocab_size=vocab_size, grid=PERSON))
    scale = clip.logit_scale.detach()
    del clip.logit_scale
    return Saved({"model": below("base.", clip) | {"logit_scale": scale}, "scheduler": {}}, clip)


def with_parts(*names: str) -> Callable[[int], Saved]:
    """A research checkpoint with more tensors."""
    return lambda vocab_size: Saved({"model": research(vocab_size).state_dict() | tensors(*names)})


def rde(vocab_size: int) -> Saved:
    layers = [
        f"{side}_emb_layer.{name}" for side in ("visul", "texual") for name in ("linear.weight", "mlp.bns.0.bias")
    ]
    return Saved(below("base_model.", encoders_alone(vocab_size).clip) | tensors(*layers))


def layer_scale(vocab_size: int) -> Saved:
    state = open_clip(vocab_size).content["state_dict"]
    extra = [f"module.visual.transformer.resblocks.{layer}.ls_{n}.gamma" for layer in (0, 1) for n in (1, 2)]
    return Saved(state | tensors(*extra), options=("--activation", "gelu", "--heads", "2,1", "--image-size", "32x32"))


def two_weights(vocab_size: int) -> Saved:
    state = research(vocab_size).state_dict()
    return Saved({"state_dict": state, "state_dict_ema": state})


def two_encoders(vocab_size: int) -> Saved:
    model = research(vocab_size)
    return Saved(below("student.", model) | below("teacher.", model))


def whole_model(vocab_size: int) -> Saved:
    return Saved(copy.deepcopy(research(vocab_size)))


def overlapping(vocab_size: int) -> Saved:
    """Patches of 16 every 12 pixels on 384x128: 31 x 10."""
    return Saved({"model": research_of_grid(vocab_size, (31, 10)).state_dict()})


def overlapping_square(vocab_size: int) -> Saved:
    """Patches of 16 every 12 pixels on 224x224: 18 x 18, which could as well be 288x288."""
    return Saved({"model": research_of_grid(vocab_size, (18, 18)).state_dict()})


def research_of_grid(vocab_size: int, grid: tuple[int, int]) -> ResearchModel:
    return ResearchModel(vocab_size=vocab_size, grid=grid, patch_size=16, vision_width=64, vision_layers=1)


def named(*names: str) -> Callable[[int], Saved]:
    """A checkpoint of another architecture, known by these names."""
    return lambda _: Saved({"model": tensors(*names)})


def averaging(vocab_size: int) -> Saved:
    state = open_clip(vocab_size).content["state_dict"]
    return Saved({name: tensor for name, tensor in state.items() if "ln_pre" not in name})


TEXT = ("text.transformer.resblocks.0.ln_1.weight", "text.token_embedding.weight", "logit_scale")
OPENAI_TEXT = ("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "text_projection")
BERT = "text_encoder.encoder.layer.0.attention.self.query.weight"
LAYOUTS: dict[str, Callable[[int], Saved]] = {
    "OpenAI's CLIP": openai,
    "CLIP fine-tuned by OpenAI's code, `model_state_dict`": fine_tuned_openai,
    "open_clip, of a usual width, GELU": open_clip_of_usual_width,
    "open_clip, of another width, GELU": open_clip,
    "open_clip, without `--activation`": open_clip_without_options,
    "open_clip, of another width, without `--heads`": open_clip_without_heads,
    "Lightning `.ckpt`, below `model.clip_model.`": clip_in_a_wrapper,
    "Long-CLIP": long_clip,
    "IRRA, GA-DMS, MLLM4Text-ReID, FMFA": irra,
    "IRRA, `net`, `module._orig_mod.`, `.pth.tar`": irra_compiled,
    "IRRA, a run folder with `best.pth`": irra_run,
    "DFLSG, Word4Per: encoders alone": encoders_alone,
    "a fusion encoder without token head": fusion_without_token_head,
    "VFE-TPS: heads for matching and reconstruction": vfe_tps,
    "TBPS-CLIP": tbps_clip,
    "CLIP2TextReID": clip2textreid,
    "RDE, LPNC, HKGR: token selection": rde,
    "DM-Adapter: adapters": with_parts(
        *(f"base_model.{side}transformer.resblocks.0.adapter.down.weight" for side in ("", "visual."))
    ),
    "CSKT: prompts": with_parts("prompt_learner.ctx", "prompt_learner.tmap.weight"),
    "UP-Person: LoRA and prefixes": with_parts(
        *(f"LORA_learner.lora_text.{layer}.lora_A.0" for layer in range(9)), "vit_prefix_learner.vit_prefix.0.prefix"
    ),
    "PHP: a shared transformer": with_parts("shared_transformer.resblocks.0.ln_1.weight", "safl.part_tokens"),
    "open_clip with LayerScale": layer_scale,
    "weights and their average (EMA)": two_weights,
    "a student and a teacher": two_encoders,
    "`torch.save(model)`": whole_model,
    "overlapping patches": overlapping,
    "overlapping patches, or larger images": overlapping_square,
    "ResNet": named("visual.layer1.0.conv1.weight", *OPENAI_TEXT),
    "CLIPA: averaged patches": averaging,
    "SigLIP of transformers, PERSON_RLF": named("vision_model.head.probe", "text_model.head.weight", "logit_bias"),
    "SigLIP of open_clip": named("visual.trunk.attn_pool.latent", *TEXT, "logit_bias"),
    "EVA02": named("visual.trunk.blocks.0.attn.q_proj.weight", "visual.trunk.blocks.0.mlp.fc1_g.weight", *TEXT),
    "CoCa": named("visual.attn_pool.query", *TEXT, "text_decoder.resblocks.0.ln_1.weight"),
    "MobileCLIP": named("visual.trunk.stem.0.conv_kxk.0.conv.weight", *TEXT),
    "Perception Encoder": named("visual.attn_pool.probe", "visual.conv1.weight", *OPENAI_TEXT),
    "another image encoder of timm": named("visual.trunk.blocks.0.norm1.weight", *TEXT),
    "open_clip with a text encoder of its own": named("visual.conv1.weight", "visual.ln_pre.weight", *TEXT),
    "APTM, MRA: Swin and BERT": named("vision_encoder.layers.0.blocks.0.attn.qkv.weight", BERT),
    "RaSa: BERT": named(
        "visual_encoder.blocks.0.attn.qkv.weight", "text_encoder.bert.embeddings.word_embeddings.weight"
    ),
    "Bi-IRRA: XLM-RoBERTa": named("vision_encoder.blocks.0.norm1.weight", "text_encoder.roberta.encoder.layer.0.x"),
    "transformers' CLIP without its folder": named("text_model.final_layer_norm.bias", "vision_model.x.weight"),
    "another model": named("fc.weight"),
}


def write(saved: Saved, folder: Path) -> Path:
    """Save it. Returns what is given to `gadms convert`: the file, or its run folder."""
    path = folder / saved.name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(saved.content, path)
    return path.parent if "/" in saved.name else path
