"""Embed sentences, to cluster similar ones."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class TextEmbedder(Protocol):
    """Embeds texts as unit vectors.

    Attributes:
        name (`str`): name of the model.
        revision (`str`, *optional*): its commit, if known.
    """

    name: str
    revision: str | None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """`np.ndarray` of shape `(len(texts), dim)`, float32, each row of length 1."""
        ...


@dataclass(frozen=True)
class TransformersEmbedderSettings:
    """Settings of [`TransformersEmbedder`].

    Args:
        name (`str`, *optional*): folder or Hub name of an encoder whose embedding is the mean over tokens. The paper
            does not state its model: `sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0) is chosen.
        revision (`str`, *optional*): commit, tag or branch on the Hub.
        max_tokens (`int`, *optional*, defaults to 256): longer texts are truncated. 256 is the limit of the default
            model.
        device (`str`, *optional*, defaults to `"cpu"`): device of the model.
    """

    name: str = "sentence-transformers/all-MiniLM-L6-v2"
    revision: str | None = None
    max_tokens: int = 256
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"name = {self.name!r} must be a folder or a Hub name of a text encoder")
        if isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 3:
            raise ValueError(f"max_tokens = {self.max_tokens!r} must be a whole number from 3 up")


class TransformersEmbedder:
    """Embeds a text as the normalised mean of a transformer's last hidden states.

    Texts are processed one at a time, in float32 and on one thread, so that a vector depends only on its text.
    On a CPU, batches would not be faster.

    Args:
        settings ([`TransformersEmbedderSettings`], *optional*): the weights to load.

    Raises:
        OSError: if the model is not found.
        ValueError: if the model is not an encoder that transformers supports, or weights are missing.
    """

    def __init__(self, settings: TransformersEmbedderSettings | None = None):
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.settings = settings or TransformersEmbedderSettings()
        origin = {"revision": self.settings.revision} if self.settings.revision else {}
        self._tokenizer = AutoTokenizer.from_pretrained(self.settings.name, **origin)
        self._model, loading = AutoModel.from_pretrained(
            self.settings.name, dtype=torch.float32, output_loading_info=True, **origin
        )
        # The pooler is not used. Any other missing weight would be random, with only a warning.
        if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):
            raise ValueError(f"{self.settings.name} lacks {len(missing)} weights of an encoder, such as {missing[0]}")
        self._model.to(self.settings.device).eval()
        self.name = self.settings.name
        self.revision: str | None = getattr(self._model.config, "_commit_hash", None) or self.settings.revision

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See [`TextEmbedder`].

        Raises:
            ValueError: if a text is empty.
        """
        import torch

        _check_texts(texts)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # rounding depends on the number of threads
        try:
            with torch.inference_mode():
                rows = [self._mean_state(text) for text in texts]
        finally:
            torch.set_num_threads(threads)
        return _unit_rows(np.stack(rows) if rows else np.zeros((0, self._model.config.hidden_size)), self.name)

    def _mean_state(self, text: str) -> np.ndarray:
        tokens = self._tokenizer(text, truncation=True, max_length=self.settings.max_tokens, return_tensors="pt")
        states = self._model(**tokens.to(self.settings.device)).last_hidden_state  # (1, tokens, dim)
        return states[0].mean(dim=0).cpu().numpy()  # no padding


@dataclass(frozen=True)
class OpenAIEmbedderSettings:
    """A server with OpenAI's `/v1/embeddings`, such as vLLM.

    Args:
        name (`str`): name of the model.
        base_url (`str`): address, such as `http://localhost:8000/v1`.
        revision (`str`, *optional*): revision of the model, only recorded, not sent to the server.
        api_key_env (`str`, *optional*): environment variable with the key of the server.
        batch_size (`int`, *optional*, defaults to 64): texts per request.
        timeout (`float`, *optional*, defaults to 60): seconds per request.
    """

    name: str
    base_url: str
    revision: str | None = None
    api_key_env: str | None = None
    batch_size: int = 64
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not isinstance(self.base_url, str) or not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url = {self.base_url!r} must be an address such as http://localhost:8000/v1")
        for field in ("batch_size", "timeout"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"{field} = {value!r} must be a number above 0")


class OpenAIEmbedder:
    """Normalised embeddings of an OpenAI-compatible server.

    Args:
        settings ([`OpenAIEmbedderSettings`]): address and model.

    Raises:
        ImportError: without the extra `construction`.
        ValueError: if the environment variable `api_key_env` is not set.
    """

    def __init__(self, settings: OpenAIEmbedderSettings):
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ImportError('embeddings of a server need `pip install "gadms[construction]"`') from error

        self.settings = settings
        self.name, self.revision = settings.name, settings.revision
        key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else "none"
        if not key:
            raise ValueError(f"the environment variable {settings.api_key_env}, which api_key_env names, is not set")
        # Always set, as the library would otherwise send OPENAI_API_KEY to this server.
        self._client = OpenAI(base_url=settings.base_url, api_key=key, timeout=settings.timeout)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See [`TextEmbedder`].

        Raises:
            ValueError: if a text is empty, or the answer does not contain one vector per text.
            ConnectionError: if the server does not answer or refuses.
        """
        _check_texts(texts)
        rows: list[list[float]] = []
        for start in range(0, len(texts), self.settings.batch_size):
            rows.extend(self._ask(list(texts[start : start + self.settings.batch_size])))
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"{self.settings.base_url} answered with vectors of different lengths")
        return _unit_rows(np.asarray(rows) if rows else np.zeros((0, 1)), self.name)

    def _ask(self, texts: list[str]) -> list[list[float]]:
        from openai import OpenAIError

        try:
            answer = self._client.embeddings.create(model=self.name, input=texts, encoding_format="float")
        except OpenAIError as error:
            raise ConnectionError(f"no embeddings from {self.settings.base_url}: {error}") from error
        found = sorted(answer.data, key=lambda item: item.index)
        if [item.index for item in found] != list(range(len(texts))):
            raise ValueError(f"{self.settings.base_url} answered {len(found)} embeddings for {len(texts)} texts")
        return [item.embedding for item in found]


def _check_texts(texts: Sequence[str]) -> None:
    for position, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text {position} of {len(texts)} is {text!r}: it must not be empty")


def _unit_rows(vectors: np.ndarray, name: str) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError(f"{name} returned a zero or non-finite vector")
    return (vectors / lengths).astype(np.float32)
