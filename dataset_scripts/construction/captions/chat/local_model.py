"""Chat client for an in-process model: a (vision-)language model of transformers."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from modeling_gadms.media.images import UnreadableImageError, load_image

from .types import (
    ChatConfigurationError,
    ChatProblem,
    ChatReply,
    ChatRequest,
    ChatSettings,
    OnReply,
    finished_reply,
    image_type,
)


class TransformersChat:
    """A model from the Hub or a folder, run with `generate`.

    Requests are answered one at a time and, on a CPU, on one thread: batching and threads change the numerics, and so
    occasionally a word. Use a server to make full use of a GPU.

    Args:
        settings (`ChatSettings`): of kind `"transformers"`. Above temperature 0 each request is sampled with its own
            seed, or 0 if it has none.

    Raises:
        ChatConfigurationError: if the model cannot be loaded or has no chat template.
    """

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        try:
            config = AutoConfig.from_pretrained(settings.model, revision=settings.revision)
            self._takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            model_class = AutoModelForImageTextToText if self._takes_images else AutoModelForCausalLM
            reader_class = AutoProcessor if self._takes_images else AutoTokenizer
            self._reader: Any = reader_class.from_pretrained(settings.model, revision=settings.revision)
            model: Any = model_class.from_pretrained(settings.model, revision=settings.revision, dtype=settings.dtype)
        except (OSError, ValueError) as error:
            raise ChatConfigurationError(f"The chat model {settings.model} cannot be loaded: {error}") from error
        if not self._reader.chat_template:
            raise ChatConfigurationError(
                f"The model {settings.model} has no chat template: choose an instruction-tuned model"
            )
        self._model = model.to(settings.device).eval()
        self.name = settings.model
        self.revision = getattr(config, "_commit_hash", None) or settings.revision

    def complete(self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None) -> list[ChatReply]:
        """See `ChatModel`. Requests are answered one at a time.

        Raises:
            ValueError: before anything is computed, if an image is neither JPEG nor PNG, or if the model accepts no
                images.
            ChatConfigurationError: if the chat template rejects the structure of the messages.
        """
        for request in requests:
            if request.image is not None:
                image_type(request.image)
                if not self._takes_images:
                    raise ValueError(f"The model {self.name} accepts no images: choose a vision-language model")
        replies = []
        for index, request in enumerate(requests):
            with one_thread():
                reply = self._answer(request)
            replies.append(reply)
            if on_reply is not None:
                on_reply(index, reply)
        return replies

    def _answer(self, request: ChatRequest) -> ChatReply:
        try:
            image = None if request.image is None else load_image(request.image)
        except UnreadableImageError as error:
            return ChatReply(None, ChatProblem.REFUSED, str(error))
        try:
            inputs = self._reader.apply_chat_template(
                self._messages(request, image),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self._model.device)
        except TemplateError as error:
            # For example a template without system messages: every request would fail the same way.
            raise ChatConfigurationError(f"The chat template of {self.name} rejects the messages: {error}") from error
        new_tokens = self._generate(inputs, request.seed or 0)  # (num_new_tokens,)
        text = self._reader.decode(new_tokens, skip_special_tokens=True)
        return finished_reply(text, is_cut_off=not self._ends(new_tokens))

    def _messages(self, request: ChatRequest, image: Image.Image | None) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"type": "image", "image": image}] if image is not None else []
        messages = [("system", [{"type": "text", "text": request.system}])] if request.system else []
        messages.append(("user", [*parts, {"type": "text", "text": request.text}]))
        if self._takes_images:
            return [{"role": role, "content": content} for role, content in messages]
        # Chat templates of text-only models insert `content` into the prompt verbatim.
        return [{"role": role, "content": content[-1]["text"]} for role, content in messages]

    @torch.no_grad()
    def _generate(self, inputs: Any, seed: int) -> torch.Tensor:
        settings = self._settings
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            tokens = self._model.generate(**inputs, max_new_tokens=settings.max_tokens, **sampling)
        return tokens[0, inputs["input_ids"].shape[1] :]

    def _ends(self, new_tokens: torch.Tensor) -> bool:
        ends = self._model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return len(new_tokens) < self._settings.max_tokens or int(new_tokens[-1]) in ends


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
