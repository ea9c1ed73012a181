"""Folders of every supported family of dual encoders, as their publishers save them: tiny, with random weights.

A folder holds configuration, weights, tokenizer and image processor. The tokenizers are learnt from a few captions, in
the layout of the family's own: its class, special tokens and settings, also the odd ones.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_gadms import GADMSConfig, GADMSModel, GADMSProcessor
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.captions import CAPTIONS
from tests.modeling_gadms.random_weights import randomised


TEXTS = [*CAPTIONS, *map(str.lower, CAPTIONS), "person", "eine frau in einem roten mantel", "一个穿红色外套的女人"]
SIZE = 32
"""Side of the square images that most of the models take, in pixels."""
_TEXT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION: dict[str, Any] = _TEXT | {"image_size": SIZE, "patch_size": 8}
_NORMALISED = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_SQUARE = {"size": {"height": SIZE, "width": SIZE}, "resample": 2}
_CROPPED = {
    "size": {"shortest_edge": SIZE},
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
}


@dataclass(frozen=True)
class Example:
    """How to make a folder of a family.

    Attributes:
        family (`str`): name of the family in `FAMILIES`.
        model (`str`): class of the model, and its configuration without "Model".
        tokenizer (`Callable`): makes the tokenizer, which the folder holds as it is saved.
        text, vision, config (`dict`): fields of the configurations.
        image_processor (`dict`): `preprocessor_config.json`.
        tokenizer_config (`dict`): fields that replace those of `tokenizer_config.json`.
    """

    family: str
    model: str
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    image_processor: dict[str, Any]
    text: dict[str, Any]
    vision: dict[str, Any]
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]

    def make_model(self, vocab_size: int, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedModel:
        """A model with random weights."""
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        text = _TEXT | {"vocab_size": vocab_size, **ids} | self.text
        config_class = getattr(transformers, f"{self.model.removesuffix('Model')}Config")
        config = config_class(text_config=text, vision_config=self.vision, **self.config)
        return randomised(getattr(transformers, self.model)(config), seed).eval()


def save_dual_encoder(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny random model of a family with its processor, and return the folder.

    Args:
        family (`str`): a name in `EXAMPLES`, or `"GA-DMS"`.
        folder (`Path`): made if it is missing.
        seed (`int`): of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if family == "GA-DMS":
        return _save_gadms(folder, seed)
    example = EXAMPLES[family]
    tokenizer = example.tokenizer()
    tokenizer.save_pretrained(folder)
    example.make_model(len(tokenizer), tokenizer, seed).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(example.image_processor))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | example.tokenizer_config))
    return folder


def _save_gadms(folder: Path, seed: int) -> Path:
    processor = GADMSProcessor.from_tokenizer(_clip_tokenizer(), image_size=(SIZE, SIZE // 2))
    tokenizer = processor.tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = GADMSConfig(
        text_config=_TEXT | {"vocab_size": len(tokenizer), "max_position_embeddings": 24} | ids,
        vision_config=_VISION | {"image_size": (SIZE, SIZE // 2)},
        projection_dim=16,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=1,
    )
    randomised(GADMSModel(config), seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _clip_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS * 3, vocab_size=600, max_length=24)


def _gemma_tokenizer() -> PreTrainedTokenizerBase:
    """As SigLIP 2's files: no BOS, EOS at the end, no lower-casing in the file, and no usable maximum length."""
    learned = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learned.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    learned.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learned.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    learned.normalizer = normalizers.Replace(" ", "▁")
    model = json.loads(learned.to_str())["model"]
    return transformers.GemmaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
    )


def _siglip_tokenizer() -> PreTrainedTokenizerBase:
    """As SigLIP's files without sentencepiece: a unigram vocabulary, in a tokenizer that cleans nothing itself."""
    learned = Tokenizer(models.Unigram())
    learned.normalizer = normalizers.NFKC()
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    learned.train_from_iterator(TEXTS * 3, trainer)
    learned.decoder = decoders.Metaspace()
    learned.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=learned, eos_token="</s>", unk_token="<unk>", pad_token="</s>", model_max_length=64
    )


def _bert_tokenizer() -> PreTrainedTokenizerBase:
    learned = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learned.normalizer = normalizers.BertNormalizer()
    learned.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    learned.train_from_iterator(TEXTS * 3, trainer)
    return transformers.BertTokenizer(vocab=learned.get_vocab())


def _roberta_tokenizer() -> PreTrainedTokenizerBase:
    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    learned.train_from_iterator(TEXTS * 3, trainer)
    vocab = [(piece, score) for piece, score in json.loads(learned.to_str())["model"]["vocab"]]
    return transformers.XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)])


def _tips_tokenizer() -> PreTrainedTokenizerBase:
    learned = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learned.normalizer = normalizers.Lowercase()
    learned.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learned.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    model = json.loads(learned.to_str())["model"]
    return transformers.Tipsv2Tokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


EXAMPLES = {
    example.family: example
    for example in (
        Example(
            family="CLIP",
            model="CLIPModel",
            tokenizer=_clip_tokenizer,
            # As published before transformers 4.31: EOS is wrong, and the highest token is meant.
            text={"max_position_embeddings": 24, "eos_token_id": 2},
            vision=_VISION,
            config={"projection_dim": 16},
            image_processor={"image_processor_type": "CLIPImageProcessor", **_CROPPED},
            tokenizer_config={},
        ),
        Example(
            family="CLIPSeg",
            model="CLIPSegModel",
            tokenizer=_clip_tokenizer,
            text={"max_position_embeddings": 24},
            vision=_VISION,
            config={"projection_dim": 16, "extract_layers": [0, 1]},
            # Larger than the model's positions, which it interpolates.
            image_processor={
                "image_processor_type": "ViTFeatureExtractor",
                **_SQUARE,
                "size": {"height": 48, "width": 48},
                "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225],
            },
            tokenizer_config={},
        ),
        Example(
            family="MetaCLIP 2",
            model="MetaClip2Model",
            tokenizer=_roberta_tokenizer,
            text={"max_position_embeddings": 24},
            vision=_VISION,
            config={"projection_dim": 16},
            image_processor={"image_processor_type": "CLIPImageProcessor", **_CROPPED},
            tokenizer_config={},
        ),
        Example(
            family="SigLIP",
            model="SiglipModel",
            tokenizer=_siglip_tokenizer,
            text={"eos_token_id": 49407, "bos_token_id": 49406},
            vision=_VISION,
            config={},
            image_processor={"image_processor_type": "SiglipImageProcessor", **_SQUARE, "resample": 3, **_NORMALISED},
            tokenizer_config={"model_max_length": 77},
        ),
        Example(
            family="SigLIP 2",
            model="SiglipModel",
            tokenizer=_gemma_tokenizer,
            text={"eos_token_id": 49407, "bos_token_id": 49406},
            vision=_VISION,
            config={},
            image_processor={"image_processor_type": "SiglipImageProcessor", **_SQUARE, **_NORMALISED},
            tokenizer_config={"model_max_length": 1000000000000000019884624838656, "padding_side": "left"},
        ),
        Example(
            family="SigLIP 2 NaFlex",
            model="Siglip2Model",
            tokenizer=_gemma_tokenizer,
            text={"eos_token_id": 49407, "bos_token_id": 49406},
            vision=_TEXT | {"patch_size": 8, "num_patches": 16},
            config={},
            image_processor={
                "image_processor_type": "Siglip2ImageProcessor",
                "patch_size": 8,
                "max_num_patches": 16,
                "resample": 2,
                **_NORMALISED,
            },
            tokenizer_config={"model_max_length": 1000000000000000019884624838656},
        ),
        Example(
            family="ALIGN",
            model="AlignModel",
            tokenizer=_bert_tokenizer,
            text={"max_position_embeddings": 80},
            vision={
                "image_size": SIZE,
                "hidden_dim": 16,
                "in_channels": [32, 16],
                "out_channels": [16, 16],
                "kernel_sizes": [3, 3],
                "strides": [1, 2],
                "num_block_repeats": [1, 1],
                "expand_ratios": [1, 2],
                "depthwise_padding": [],
                "width_coefficient": 1.0,
                "depth_coefficient": 1.0,
            },
            config={"projection_dim": 16},
            image_processor={
                "image_processor_type": "EfficientNetImageProcessor",
                "size": {"height": 40, "width": 40},
                "crop_size": {"height": SIZE, "width": SIZE},
                "do_center_crop": True,
                "do_normalize": False,
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
                "include_top": False,
                "resample": 2,
            },
            tokenizer_config={"model_max_length": 64},
        ),
        Example(
            family="Chinese-CLIP",
            model="ChineseCLIPModel",
            tokenizer=_bert_tokenizer,
            text={"max_position_embeddings": 48},
            vision=_VISION,
            config={"projection_dim": 16},
            image_processor={
                "image_processor_type": "ChineseCLIPFeatureExtractor",
                **_CROPPED,
                "size": {"height": SIZE, "width": SIZE},
                "do_center_crop": False,
            },
            tokenizer_config={"model_max_length": 512},
        ),
        Example(
            family="AltCLIP",
            model="AltCLIPModel",
            tokenizer=_roberta_tokenizer,
            text={"max_position_embeddings": 26, "project_dim": 24},
            vision=_VISION,
            config={"projection_dim": 16},
            image_processor={"image_processor_type": "CLIPImageProcessor", **_CROPPED},
            tokenizer_config={"model_max_length": 512},
        ),
        Example(
            family="TIPSv2",
            model="Tipsv2Model",
            tokenizer=_tips_tokenizer,
            text={},
            vision={key: value for key, value in _VISION.items() if key != "intermediate_size"},
            config={},
            image_processor={"image_processor_type": "Tipsv2ImageProcessor", **_SQUARE, "do_normalize": False},
            tokenizer_config={},
        ),
    )
}
"""Examples by the names of their families, all but GA-DMS."""
NAMES = ("GA-DMS", *EXAMPLES)
"""Names that [`save_dual_encoder`] takes."""
