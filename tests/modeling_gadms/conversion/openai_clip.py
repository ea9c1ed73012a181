"""Naive reimplementation of OpenAI's CLIP and of the research model built on it: the oracle of conversion.

Modules have the names of OpenAI's release and of the research code, so that `state_dict` is such a checkpoint. Every
computation handles one head and one caption at a time, and shares no code with transformers. open_clip's models have
the same names, but other heads and another activation.
"""

import torch
from torch import nn

from modeling_gadms import GADMSForPreTraining, GADMSModel


CAPTIONS = ["A man in a red coat.", "A woman with a black backpack and a white hat."]


HEAD_WIDTH = 64
SETTINGS = ("input_resolution", "context_length", "vocab_size")


class Attention(nn.Module):
    """Multi-head attention with one projection matrix for query, key and value."""

    def __init__(self, width: int, head_width: int = HEAD_WIDTH):
        super().__init__()
        self.head_width = head_width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, asking: torch.Tensor, answering: torch.Tensor, causal: bool) -> torch.Tensor:
        """(tokens, width) of one caption or image, and (other tokens, width)."""
        width = asking.shape[1]
        query = asking @ self.in_proj_weight[:width].T + self.in_proj_bias[:width]
        key = answering @ self.in_proj_weight[width : 2 * width].T + self.in_proj_bias[width : 2 * width]
        value = answering @ self.in_proj_weight[2 * width :].T + self.in_proj_bias[2 * width :]
        heads = []
        for start in range(0, width, self.head_width):
            channels = slice(start, start + self.head_width)
            similarity = query[:, channels] @ key[:, channels].T / self.head_width**0.5
            if causal:
                for token in range(len(similarity)):
                    similarity[token, token + 1 :] = -torch.inf
            heads.append(similarity.softmax(dim=1) @ value[:, channels])
        return self.out_proj(torch.cat(heads, dim=1))


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.exp(-1.702 * x))


class GELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) / 2


class Norm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * self.weight + self.bias


class Block(nn.Module):
    def __init__(self, width: int, feed_forward: int, head_width: int, activation: type[nn.Module]):
        super().__init__()
        self.attn = Attention(width, head_width)
        self.ln_1 = Norm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, feed_forward))
        self.mlp.add_module("gelu", activation())
        self.mlp.add_module("c_proj", nn.Linear(feed_forward, width))
        self.ln_2 = Norm(width)

    def forward(self, x: torch.Tensor, causal: bool) -> torch.Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(
        self,
        width: int,
        layers: int,
        feed_forward: int,
        head_width: int = HEAD_WIDTH,
        activation: type[nn.Module] = QuickGELU,
    ):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, feed_forward, head_width, activation) for _ in range(layers))

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, causal)
        return x


class ImageEncoder(nn.Module):
    def __init__(self, width: int, layers: int, patch_size: int, grid: tuple[int, int], projection: int, **blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + grid[0] * grid[1], width))
        self.ln_pre = Norm(width)
        self.transformer = Transformer(width, layers, 4 * width, **blocks)
        self.ln_post = Norm(width)
        self.proj = nn.Parameter(torch.empty(width, projection))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(3, height, width) to (1 + patches, projection), patches from left to right, then down."""
        side = self.conv1.weight.shape[2]
        tokens = [self.class_embedding]
        for top in range(0, image.shape[1], side):
            for left in range(0, image.shape[2], side):
                patch = image[:, top : top + side, left : left + side]
                tokens.append((self.conv1.weight * patch).sum(dim=(1, 2, 3)))
        x = self.ln_pre(torch.stack(tokens) + self.positional_embedding)
        return self.ln_post(self.transformer(x)) @ self.proj


class Clip(nn.Module):
    """OpenAI's CLIP with a vision transformer, with the settings that OpenAI's archives hold as tensors."""

    def __init__(
        self,
        *,
        vocab_size: int,
        grid: tuple[int, int] = (4, 4),
        patch_size: int = 8,
        vision_width: int = 128,
        vision_layers: int = 2,
        text_width: int = 64,
        text_layers: int = 3,
        context_length: int = 24,
        projection: int = 64,
        head_width: int = HEAD_WIDTH,
        activation: type[nn.Module] = QuickGELU,
    ):
        super().__init__()
        blocks = {"head_width": head_width, "activation": activation}
        for name, value in zip(SETTINGS, (grid[0] * patch_size, context_length, vocab_size), strict=True):
            self.register_buffer(name, torch.tensor(value))
        self.image_size = (grid[0] * patch_size, grid[1] * patch_size)
        self.visual = ImageEncoder(vision_width, vision_layers, patch_size, grid, projection, **blocks)
        self.transformer = Transformer(text_width, text_layers, 4 * text_width, **blocks)
        self.token_embedding = nn.Embedding(vocab_size, text_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, text_width))
        self.ln_final = Norm(text_width)
        self.text_projection = nn.Parameter(torch.empty(text_width, projection))
        self.logit_scale = nn.Parameter(torch.empty(()))
        randomise(self)

    def encode_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(tokens,) to (tokens, projection)."""
        x = self.token_embedding.weight[input_ids] + self.positional_embedding[: len(input_ids)]
        return self.ln_final(self.transformer(x, causal=True)) @ self.text_projection

    def embed_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed a caption at its largest id, which is EOS."""
        return self.encode_text(input_ids)[input_ids.argmax()]


def without_settings(clip: Clip) -> Clip:
    """A CLIP that is no archive of OpenAI's, such as one of open_clip's."""
    for name in SETTINGS:
        delattr(clip, name)
    return clip


class ResearchModel(nn.Module):
    """Encoders, fusion encoder, token head and identity classifier."""

    def __init__(
        self,
        *,
        vocab_size: int,
        projection: int = 64,
        fusion_layers: int | None = 2,
        feed_forward: int = 96,
        identities: int = 0,
        **clip_sizes,
    ):
        super().__init__()
        self.base_model = Clip(vocab_size=vocab_size, projection=projection, **clip_sizes)
        without_settings(self.base_model)
        del self.base_model.logit_scale  # a setting in research code
        if fusion_layers is not None:
            self.cross_attn = Attention(projection)
            self.cross_modal_transformer = Transformer(projection, fusion_layers, feed_forward)
            self.ln_pre_t, self.ln_pre_i, self.ln_post = Norm(projection), Norm(projection), Norm(projection)
            self.mlm_head = nn.Sequential()
            self.mlm_head.add_module("dense", nn.Linear(projection, projection))
            self.mlm_head.add_module("gelu", QuickGELU())
            self.mlm_head.add_module("ln", Norm(projection))
            self.mlm_head.add_module("fc", nn.Linear(projection, vocab_size))
        if identities:
            self.classifier = nn.Linear(projection, identities)
        randomise(self)

    def fuse(self, input_ids: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """One caption without padding and one image to (tokens, projection)."""
        text_tokens, image_tokens = self.base_model.encode_text(input_ids), self.base_model.visual(image)
        x = self.cross_attn(self.ln_pre_t(text_tokens), self.ln_pre_i(image_tokens), causal=False)
        return self.ln_post(self.cross_modal_transformer(x))


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Seeded weights, large enough that each affects the result."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if name.endswith("logit_scale"):
            values = torch.tensor(3.2)
        elif parameter.ndim == 1:
            values = 0.2 * values + (1.0 if "ln" in name and name.endswith("weight") else 0.0)
        elif "embedding" not in name:
            fan_in = parameter.shape[0] if name.endswith("proj") and parameter.ndim == 2 else parameter[0].numel()
            values = values * fan_in**-0.5
        parameter.copy_(values)


def captions_of(vocab_size: int) -> list[torch.Tensor]:
    """Captions of three lengths, without the mask token of research code."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.cat(
            [
                torch.tensor([vocab_size - 2]),
                torch.randint(0, vocab_size - 3, (length,), generator=generator),
                torch.tensor([vocab_size - 1]),
            ]
        )
        for length in (1, 6, 22)
    ]


def images_of(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def assert_encodes_as(model: GADMSModel, clip: Clip) -> None:
    """Compare all image tokens, caption tokens and caption embeddings."""
    model.eval()
    for image in images_of(clip.image_size):
        theirs = clip.visual(image)
        ours = model.get_image_features(image[None])
        torch.testing.assert_close(ours.last_hidden_state[0], theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.pooler_output[0], theirs[0], rtol=0, atol=1e-5)
    for input_ids in captions_of(len(clip.token_embedding.weight)):
        ours = model.get_text_features(input_ids[None])
        torch.testing.assert_close(ours.last_hidden_state[0], clip.encode_text(input_ids), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.pooler_output[0], clip.embed_text(input_ids), rtol=0, atol=1e-5)


@torch.inference_mode()
def assert_fuses_as(model: GADMSForPreTraining, research: ResearchModel) -> None:
    model.eval()
    image = images_of(research.base_model.image_size)[0]
    for input_ids in captions_of(len(research.base_model.token_embedding.weight)):
        text_tokens = model.gadms.get_text_features(input_ids[None]).last_hidden_state
        image_tokens = model.gadms.get_image_features(image[None]).last_hidden_state
        fused = model.fusion(text_tokens, image_tokens, None)
        theirs = research.fuse(input_ids, image)
        torch.testing.assert_close(fused[0], theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.token_head(fused)[0], research.mlm_head(theirs), rtol=0, atol=1e-5)
