"""The cost of a training step of GA-DMS by arithmetic: FLOP and bytes of each part, from the configuration alone.

Counted as FLOP: matrix products, convolutions and both products of attention, a multiplication with its addition as
two; attention over all pairs of tokens, also where it is causal, and without what a kernel computes again in
its backward pass. A backward pass costs twice its forward pass, once for the gradient of the inputs and once for that
of the weights, unless one of the two is not needed.

Counted as traffic: what elementwise operations read and write, one kernel an operation as PyTorch runs them unless
they are fused, and what the optimizer reads and writes. What matrix products read and write is not counted: they are
bound by their FLOP.
"""

from dataclasses import dataclass
from typing import cast

from modeling_gadms import GADMSConfig
from modeling_gadms.configuration_gadms import encoder_configs


PARTS = ("image", "score", "captions", "fusion", "head", "alignment", "optimizer")
FLOAT32_BYTES = 4
# Values that an elementwise operation reads and writes for each value of its input.
LAYER_NORM, LAYER_NORM_BACKWARD = 2, 3  # input, output; gradient, input, gradient of the input
RESIDUAL, RESIDUAL_BACKWARD = 3, 3  # two terms and their sum, of values or of gradients
LOG_SOFTMAX, LOG_SOFTMAX_BACKWARD = 2, 3


@dataclass(frozen=True)
class Step:
    """The input of a step.

    Attributes:
        pairs (`int`): images with a caption each.
        caption_tokens (`int`): length of the padded captions.
        packed_rows, packed_tokens (`int`): rows that both masked versions of all captions are packed into, and
            tokens of a row.
        predicted_tokens (`int`): masked tokens of the informative captions, over all pairs.
    """

    pairs: int
    caption_tokens: int
    packed_rows: int
    packed_tokens: int
    predicted_tokens: int


@dataclass(frozen=True)
class Kernels:
    """Kernels of elementwise operations: values read and written for each value.

    Attributes:
        activation, activation_backward (`int`): of QuickGELU.
        optimizer (`int`): of Adam.
    """

    activation: int
    activation_backward: int
    optimizer: int


# Activation: scaling, SiLU and a division in place, 2 each; backward division 2, SiLU 3, scaling 2.
# Optimizer, fused: parameter, gradient and both moments read, all but the gradient written.
OURS = Kernels(activation=6, activation_backward=7, optimizer=7)
# Activation, x * sigmoid(1.702 x): scaling 2, sigmoid 2, product 3; backward products 6, sigmoid 3, scaling 2, sum 3.
# Optimizer, kernel by kernel: decay 3, first moment 3, second moment 2 + 3, denominator 2 + 2 + 2, update 4.
LITERAL = Kernels(activation=7, activation_backward=14, optimizer=21)


@dataclass(frozen=True)
class Cost:
    """Cost of a part: FLOP forward and backward, and bytes that elementwise operations read and write."""

    forward: int = 0
    backward: int = 0
    traffic: int = 0

    @property
    def flops(self) -> int:
        return self.forward + self.backward


@dataclass(frozen=True)
class Layers:
    """Equal pre-norm transformer layers.

    Attributes:
        number (`int`)
        width (`int`): values of a token.
        inner (`int`): values between the two matrices of the feed-forward block.
        kernels ([`Kernels`])
    """

    number: int
    width: int
    inner: int
    kernels: Kernels

    @property
    def parameters(self) -> int:
        attention = 4 * (self.width**2 + self.width)
        feed_forward = 2 * self.width * self.inner + self.inner + self.width
        return self.number * (attention + feed_forward + 4 * self.width)

    def after_attention(self, tokens: int) -> int:
        """FLOP of one layer's output projection and feed-forward block, forward."""
        return linear(tokens, self.width, self.width) + 2 * linear(tokens, self.width, self.inner)

    def products(self, tokens: int) -> int:
        """FLOP of one layer without attention, forward."""
        return 3 * linear(tokens, self.width, self.width) + self.after_attention(tokens)

    def forward(self, sequences: int, length: int) -> int:
        """FLOP of all layers."""
        attended = attention(sequences, length, length, self.width)
        return self.number * (self.products(sequences * length) + attended)

    def traffic(self, tokens: int, *, backward: bool) -> int:
        """Bytes of one layer's elementwise operations in one direction."""
        if backward:
            values = 2 * (LAYER_NORM_BACKWARD + RESIDUAL_BACKWARD) * self.width
            values += self.kernels.activation_backward * self.inner
        else:
            values = 2 * (LAYER_NORM + RESIDUAL) * self.width + self.kernels.activation * self.inner
        return FLOAT32_BYTES * tokens * values

    def trained(self, sequences: int, length: int) -> Cost:
        """All layers, forward and backward."""
        flops, tokens = self.forward(sequences, length), sequences * length
        traffic = self.traffic(tokens, backward=False) + self.traffic(tokens, backward=True)
        return Cost(flops, 2 * flops, self.number * traffic)


def linear(rows: int, inputs: int, outputs: int) -> int:
    """FLOP of a linear layer, forward.

    >>> linear(10, 3, 5)
    300
    """
    return 2 * rows * inputs * outputs


def attention(sequences: int, queries: int, keys: int, width: int) -> int:
    """FLOP of the similarities and of the weighted sums, all heads together."""
    return 2 * linear(sequences * queries, width, keys)


def image_layers(config: GADMSConfig, kernels: Kernels) -> Layers:
    _, vision = encoder_configs(config)
    return Layers(vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size, kernels)


def text_layers(config: GADMSConfig, kernels: Kernels) -> Layers:
    text, _ = encoder_configs(config)
    return Layers(text.num_hidden_layers, text.hidden_size, text.intermediate_size, kernels)


def fusion_layers(config: GADMSConfig, kernels: Kernels) -> Layers:
    return Layers(config.fusion_num_hidden_layers, config.projection_dim, config.fusion_intermediate_size, kernels)


def image_tokens(config: GADMSConfig) -> int:
    """Patches and the class token."""
    rows, columns = config.patch_grid
    return rows * columns + 1


def parameters(config: GADMSConfig) -> dict[str, int]:
    """Number of parameters by part; the score uses those of the captions."""
    text, vision = encoder_configs(config)
    width, patch = config.projection_dim, 3 * cast(int, vision.patch_size) ** 2
    of_image, of_text, of_fusion = (
        layers(config, OURS).parameters for layers in (image_layers, text_layers, fusion_layers)
    )
    # Two norms, and class token, patches, positions and projection.
    image = of_image + vision.hidden_size * (4 + 1 + patch + image_tokens(config) + width)
    # A norm, and vocabulary, positions and projection; the temperature.
    captions = of_text + text.hidden_size * (2 + text.vocab_size + text.max_position_embeddings + width) + 1
    fusion = of_fusion + 4 * (width**2 + width) + 3 * 2 * width
    head = width**2 + 3 * width + (width + 1) * text.vocab_size
    return {"image": image, "captions": captions, "fusion": fusion, "head": head}


def step_costs(config: GADMSConfig, step: Step) -> dict[str, Cost]:
    """A step of this package by part, of `PARTS`: trimmed and packed captions, one backward pass for all scored
    layers, the token head on the masked tokens, a fused optimizer."""
    backward = _to_attention_output(config, step, config.score_layers, OURS)
    return _costs(config, step, backward, OURS)


def reference_costs(config: GADMSConfig, pairs: int) -> dict[str, Cost]:
    """A step of as many pairs as the released code runs it: all captions padded to the longest that the encoder reads,
    a backward pass for each scored layer, the token head on every position, an optimizer that is not fused."""
    length = encoder_configs(config)[0].max_position_embeddings
    step = Step(pairs, length, packed_rows=2 * pairs, packed_tokens=length, predicted_tokens=pairs * length)
    passes = [_to_attention_output(config, step, depth, LITERAL) for depth in range(1, config.score_layers + 1)]
    backward = Cost(0, sum(one.backward for one in passes), sum(one.traffic for one in passes))
    return _costs(config, step, backward, LITERAL)


def _costs(config: GADMSConfig, step: Step, score_backward: Cost, kernels: Kernels) -> dict[str, Cost]:
    score = _score_forward(config, step, kernels)
    return {
        "image": _image(config, step.pairs, kernels),
        "score": Cost(score.forward, score_backward.backward, score.traffic + score_backward.traffic),
        "captions": _captions(config, step.packed_rows, step.packed_tokens, kernels),
        "fusion": _fusion(config, step, kernels),
        "head": _head(config, step.predicted_tokens, kernels),
        "alignment": alignment(config, step.pairs, step.pairs),
        "optimizer": Cost(traffic=FLOAT32_BYTES * kernels.optimizer * sum(parameters(config).values())),
    }


def _image(config: GADMSConfig, images: int, kernels: Kernels) -> Cost:
    _, vision = encoder_configs(config)
    layers, tokens = image_layers(config, kernels), image_tokens(config)
    patches = linear(images * (tokens - 1), 3 * cast(int, vision.patch_size) ** 2, layers.width)
    encoded = layers.trained(images, tokens)
    projection = linear(images * tokens, layers.width, config.projection_dim)
    norms = FLOAT32_BYTES * images * tokens * layers.width * 2 * (LAYER_NORM + LAYER_NORM_BACKWARD)
    return Cost(
        patches + encoded.forward + projection,
        # Pixels need no gradient.
        patches + encoded.backward + 2 * projection,
        encoded.traffic + norms,
    )


def _captions(config: GADMSConfig, rows: int, length: int, kernels: Kernels) -> Cost:
    layers = text_layers(config, kernels)
    encoded = layers.trained(rows, length)
    # Every token, for the fusion encoder.
    projection = linear(rows * length, layers.width, config.projection_dim)
    norm = FLOAT32_BYTES * rows * length * layers.width * (LAYER_NORM + LAYER_NORM_BACKWARD)
    return Cost(encoded.forward + projection, encoded.backward + 2 * projection, encoded.traffic + norm)


def _score_forward(config: GADMSConfig, step: Step, kernels: Kernels) -> Cost:
    """The text encoder once, and what the score makes of the scored layers (eq. 1-3)."""
    layers, tokens = text_layers(config, kernels), step.pairs * step.caption_tokens
    # Pooled keys; pooled query, importance, gradient score, attention of EOS: each a product with one row a caption.
    pooling = linear(tokens, step.caption_tokens, layers.width) + 4 * linear(tokens, layers.width, 1)
    forward = layers.forward(step.pairs, step.caption_tokens) + config.score_layers * pooling
    forward += linear(step.pairs, layers.width, config.projection_dim)
    return Cost(forward, 0, layers.number * layers.traffic(tokens, backward=False))


def _to_attention_output(config: GADMSConfig, step: Step, depth: int, kernels: Kernels) -> Cost:
    """Backward pass from the similarity to the attention output of the layer of that depth, 1 for the last.

    Parameters are constants here, so each product costs its forward pass once, and attention, whose both sides carry
    a gradient, twice. In the layer itself only what follows its attention counts.
    """
    layers, tokens = text_layers(config, kernels), step.pairs * step.caption_tokens
    attended = attention(step.pairs, step.caption_tokens, step.caption_tokens, layers.width)
    flops = linear(step.pairs, layers.width, config.projection_dim)
    flops += (depth - 1) * (layers.products(tokens) + 2 * attended) + layers.after_attention(tokens)
    return Cost(0, flops, depth * layers.traffic(tokens, backward=True))


def _fusion(config: GADMSConfig, step: Step, kernels: Kernels) -> Cost:
    layers, tokens = fusion_layers(config, kernels), step.pairs * step.caption_tokens
    seen = step.pairs * image_tokens(config)
    cross = 2 * linear(tokens, layers.width, layers.width) + 2 * linear(seen, layers.width, layers.width)
    cross += attention(step.pairs, step.caption_tokens, image_tokens(config), layers.width)
    mixed = layers.trained(step.pairs, step.caption_tokens)
    norms = FLOAT32_BYTES * (2 * tokens + seen) * layers.width * (LAYER_NORM + LAYER_NORM_BACKWARD)
    return Cost(cross + mixed.forward, 2 * cross + mixed.backward, mixed.traffic + norms)


def _head(config: GADMSConfig, tokens: int, kernels: Kernels) -> Cost:
    width, vocabulary = config.projection_dim, encoder_configs(config)[0].vocab_size
    forward = linear(tokens, width, width) + linear(tokens, width, vocabulary)
    values = (LOG_SOFTMAX + LOG_SOFTMAX_BACKWARD) * vocabulary
    values += (kernels.activation + kernels.activation_backward + LAYER_NORM + LAYER_NORM_BACKWARD) * width
    return Cost(forward, 2 * forward, FLOAT32_BYTES * tokens * values)


def alignment(config: GADMSConfig, rows: int, columns: int) -> Cost:
    """Similarities of the rows of one process to the columns of all, in both directions."""
    forward = 2 * linear(rows, config.projection_dim, columns)
    values = LOG_SOFTMAX + LOG_SOFTMAX_BACKWARD
    return Cost(forward, 2 * forward, FLOAT32_BYTES * 2 * rows * columns * values)
