"""Embed sentences, to cluster similar ones."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


MAX_TOKENS = 256
"""Longer texts are truncated; the limit of all-MiniLM-L6-v2."""
BATCH_SIZE = 64
"""Texts per request to a server. Chosen."""
TIMEOUT_SECONDS = 60.0
"""Limit of one request to a server. Chosen."""


class TextEmbedder(Protocol):
    """Embeds texts as unit vectors."""

    name: str
    revision: str | None  # the commit of the model, if known

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """`np.ndarray` of shape `(len(texts), dim)`, float32, each row of length 1. At least one text is needed."""
        ...


class TransformersEmbedder:
    """Embeds a text as the normalised mean of a transformer's last hidden states.

    Texts are processed one at a time, in float32, on the CPU and on one thread, so that a vector depends only on its
    text. Batches would not be faster.

    Args:
        name (`str`): folder or Hub name of an encoder whose embedding is the mean over tokens.

    Raises:
        OSError: if the model is not found.
        ValueError: if the model is not an encoder that transformers supports, or weights are missing.
    """

    DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
    """Apache-2.0. The paper does not state its model: chosen."""

    def __init__(self, name: str = DEFAULT):
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(name)
        model, loading = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        # The pooler is not used. Any other missing weight would be random, with only a warning.
        if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):
            raise ValueError(f"{name} lacks {len(missing)} weights of an encoder, such as {missing[0]}")
        self._model = model.eval()
        self.name = name
        self.revision: str | None = getattr(model.config, "_commit_hash", None)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See [`TextEmbedder`]."""
        import torch

        from ..captions.chat.local_model import one_thread

        with one_thread(), torch.inference_mode():
            return _unit_rows([self._mean_state(text) for text in texts], self.name)

    def _mean_state(self, text: str) -> np.ndarray:
        tokens = self._tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        states = self._model(**tokens).last_hidden_state  # (1, tokens, dim)
        return states[0].mean(dim=0).numpy()  # no padding


class OpenAIEmbedder:
    """Normalised embeddings of a server with OpenAI's `/v1/embeddings`, such as vLLM; the server gets no key.

    Args:
        name (`str`): name of the model.
        base_url (`str`): address, such as `http://localhost:8000/v1`.

    Raises:
        ImportError: without the extra `construction`.
        ValueError: if `base_url` is not an address.
    """

    def __init__(self, name: str, base_url: str):
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ImportError('embeddings of a server need `pip install "gadms[construction]"`') from error

        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url = {base_url!r} must be an address such as http://localhost:8000/v1")
        self.name, self.base_url = name, base_url
        self.revision: str | None = None
        # A key is always set, as the library would otherwise send OPENAI_API_KEY to this server.
        self._client = OpenAI(base_url=base_url, api_key="none", timeout=TIMEOUT_SECONDS)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See [`TextEmbedder`].

        Raises:
            ValueError: if the answer does not contain one vector per text.
            ConnectionError: if the server does not answer or refuses.
        """
        rows: list[list[float]] = []
        for start in range(0, len(texts), BATCH_SIZE):
            rows.extend(self._ask(list(texts[start : start + BATCH_SIZE])))
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"{self.base_url} answered with vectors of different lengths")
        return _unit_rows(rows, self.name)

    def _ask(self, texts: list[str]) -> list[list[float]]:
        from openai import OpenAIError

        try:
            answer = self._client.embeddings.create(model=self.name, input=texts, encoding_format="float")
        except OpenAIError as error:
            raise ConnectionError(f"no embeddings from {self.base_url}: {error}") from error
        found = sorted(answer.data, key=lambda item: item.index)
        if [item.index for item in found] != list(range(len(texts))):
            raise ValueError(f"{self.base_url} answered {len(found)} embeddings for {len(texts)} texts")
        return [item.embedding for item in found]


def _unit_rows(rows: Sequence[Sequence[float] | np.ndarray], name: str) -> np.ndarray:
    vectors = np.stack(rows)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError(f"{name} returned a zero or non-finite vector")
    return (vectors / lengths).astype(np.float32)
