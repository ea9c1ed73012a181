"""A LLaVA of a few thousand random weights, and a real `transformers serve` that answers with it.

It has every part of a real vision-language model, so what it says is noise, but it says it through the real code.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path


_IMAGE_SIDE = 16
_PATCH_SIZE = 8
_START_SECONDS = 300
_WORDS = "a man woman person wears red blue dark green black white jacket coat trousers and with carries bag".split()
# Content is a list of parts, as every chat template of a vision-language model expects it.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image> ' }}{% else %}{{ part['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def save_tiny_llava(folder: Path, chat_template: str | None = _CHAT_TEMPLATE) -> None:
    """Write the model, its tokenizer and its processor to `folder`, the same bytes each time."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = _tokenizer()
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": _IMAGE_SIDE,
            "patch_size": _PATCH_SIZE,
            "projection_dim": 16,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 4096,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # Larger than the usual 0.02, so that the picture and the question change what is said.
                torch.nn.init.normal_(parameter, std=0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # It speaks in words, each once, so that it comes to an end.
    model.generation_config.no_repeat_ngram_size = 1
    is_word = [token in ("</s>", *(f"\u0120{word}" for word in _WORDS)) for token in _by_id(tokenizer)]
    model.generation_config.suppress_tokens = [token_id for token_id, speaks in enumerate(is_word) if not speaks]
    sides = {"height": _IMAGE_SIDE, "width": _IMAGE_SIDE}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=sides, crop_size=sides),
        tokenizer=tokenizer,
        patch_size=_PATCH_SIZE,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
    ).save_pretrained(folder)
    model.save_pretrained(folder)


@contextlib.contextmanager
def transformers_server(folder: Path) -> Iterator[str]:
    """The base URL of a `transformers serve` on loopback with the model in `folder`, whose name is `str(folder)`."""
    # Free now, and for the second until the server takes it: it cannot be asked for a port of its own choice.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            if not _is_healthy(f"http://127.0.0.1:{port}/health", process):
                output.seek(0)
                said = output.read()[-3000:].decode(errors="replace")
                raise RuntimeError(f"transformers serve did not start: {said}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_healthy(url: str, process: subprocess.Popen) -> bool:
    end = time.monotonic() + _START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def _by_id(tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def _tokenizer():
    """Each word of the vocabulary is a token, and each byte, so that every text can be read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(_WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
