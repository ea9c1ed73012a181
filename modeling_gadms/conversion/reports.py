"""Reports of conversions and exports in OpenAI's layout."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..configuration_gadms import GADMSConfig, TextConfig, VisionConfig, encoder_configs


_MAX_MODULES, _MAX_LETTERS = 6, 80
"""Modules that a line of a report names, and characters of their names."""


@dataclass(frozen=True)
class ConversionReport:
    """Result of [`~modeling_gadms.conversion.converter.convert`].

    Attributes:
        source (`str`): the checkpoint.
        target (`Path`): the folder that was written.
        layout (`str`): `"transformers"`, or one of [`~modeling_gadms.conversion.openai_layout.LAYOUTS`].
        model (`str`): class of the model that was written.
        config ([`GADMSConfig`]): configuration of the model.
        used (`int`): number of tensors of the source in the model.
        ignored (`dict[str, str]`): all other entries of the source, with the reason.
        lost (`tuple[str, ...]`): those of them that the embeddings or the ranking of the source need, or may need.
        changes (`tuple[str, ...]`): one sentence for everything that was cast, resized, appended or assumed.
    """

    source: str
    target: Path
    layout: str
    model: str
    config: GADMSConfig
    used: int
    ignored: dict[str, str]
    lost: tuple[str, ...]
    changes: tuple[str, ...]

    def to_text(self) -> str:
        """Format the report as text, of at most 30 lines."""
        config = self.config
        text, vision = encoder_configs(config)
        (height, width), (down, across) = config.image_size, config.patch_grid
        fusion = "none"
        if config.masked_token_prediction:
            fusion = f"{config.fusion_num_hidden_layers} layers, feed-forward {config.fusion_intermediate_size}"
        lines = [
            f"{self.source} ({self.layout} layout) -> {self.target} ({self.model})",
            f"tensors: {self.used} used, {len(self.ignored)} other entries ignored",
            f"images: {height}x{width} (height x width), {down}x{across} patches of {vision.patch_size}",
            f"image encoder: {_sizes(vision)}",
            f"text encoder: {_sizes(text)}; {text.max_position_embeddings} tokens of {text.vocab_size}",
            f"embeddings: {config.projection_dim}; temperature {config.temperature:.4g}",
            f"fusion encoder and token head: {fusion}; identities: {config.num_identities}",
            *self.changes,
            *_by_reason("ignored", self.ignored),
        ]
        if self.lost:
            lines.append(f"embeddings or ranking are not those of the source, which needs {by_module(self.lost)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ExportReport:
    """Result of [`~modeling_gadms.conversion.openai_export.export_checkpoint`].

    Attributes:
        source (`str`): folder or Hub name of the model.
        target (`Path`): the file that was written.
        layout (`str`): `"openai"` or `"research"`.
        written (`int`): number of tensors in the file.
        skipped (`dict[str, str]`): tensors of the model that are not in the file, with the reason.
        changes (`tuple[str, ...]`): one sentence for everything that was cast or moved, or needs attention.
    """

    source: str
    target: Path
    layout: str
    written: int
    skipped: dict[str, str]
    changes: tuple[str, ...]

    def to_text(self) -> str:
        """Format the report as text."""
        lines = [
            f"{self.source} -> {self.target} ({self.layout} layout)",
            f"tensors: {self.written} written, {len(self.skipped)} skipped",
            *self.changes,
            *_by_reason("skipped", self.skipped),
        ]
        return "\n".join(lines)


def _sizes(config: TextConfig | VisionConfig) -> str:
    return (
        f"{config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads, "
        f"feed-forward {config.intermediate_size}"
    )


def _by_reason(what: str, reasons: dict[str, str]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [f"{what} ({reason}): {by_module(its_names)}" for reason, its_names in names.items()]


def by_module(names: Iterable[str]) -> str:
    """Name the modules of tensors with the number of their tensors, where there are several; layers count as one.

    Examples:
        >>> by_module(["a.0.b.weight", "a.0.b.bias", "a.1.b.weight", "epoch"])
        'a.*.b (3), epoch'
    """
    modules = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name.rpartition(".")[0]) or name for name in names)
    shown = [
        f"{module[:_MAX_LETTERS]}{'...' if len(module) > _MAX_LETTERS else ''}{f' ({count})' if count > 1 else ''}"
        for module, count in modules.most_common(_MAX_MODULES)
    ]
    if rest := len(modules) - len(shown):
        count = sum(modules.values()) - sum(count for _, count in modules.most_common(_MAX_MODULES))
        shown.append(f"and {count} in {rest} more modules")
    return ", ".join(shown)
