"""Tiny models and processors for tests and for examples in docstrings, from configurations: nothing is downloaded."""

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path


# Before any Hugging Face library is imported: a test that reaches for the network is to fail, not to wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from threads, and several workers with a thread for each core each lose a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray would keep a token in the home folder, and a process that has read one goes on with it.
os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex * 2)

# A shell that runs the tests in its background has them ignore Ctrl-C, and with them the programs that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch
from hypothesis import settings
from PIL import Image

from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSModel, GADMSProcessor
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.captions import CAPTIONS
from tests.hub_client import MINE, READING, HubClient
from tests.hub_server import HubServer


# The same examples in every run.
settings.register_profile("deterministic", derandomize=True, database=None)
settings.load_profile("deterministic")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Programs, benchmarks and pages are slow as a whole: they start processes, train and serve."""
    tests = Path(__file__).with_name("tests")
    for item in items:
        if any(item.path.is_relative_to(tests / folder) for folder in ("benchmarks", "docs", "examples")):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(CAPTIONS * 3, vocab_size=600, max_length=24)


@pytest.fixture
def processor(tokenizer) -> GADMSProcessor:
    return GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))


@pytest.fixture
def tiny_config(processor):
    """A function that makes a configuration for `processor`; keyword arguments replace fields."""

    def make(**fields) -> GADMSConfig:
        text_config = {
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 24,
            "bos_token_id": processor.tokenizer.bos_token_id,
            "eos_token_id": processor.tokenizer.eos_token_id,
            "pad_token_id": processor.tokenizer.pad_token_id,
        }
        vision_config = {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": (32, 16),
            "patch_size": 8,
        }
        defaults = {
            "text_config": text_config | fields.pop("text_config", {}),
            "vision_config": vision_config | fields.pop("vision_config", {}),
            "projection_dim": 16,
            "mask_token_id": processor.tokenizer.mask_token_id,
            "score_layers": 2,
            "fusion_num_hidden_layers": 1,
            "fusion_num_attention_heads": 2,
            "fusion_intermediate_size": 32,
        }
        return GADMSConfig(**(defaults | fields))

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """A function that makes a seeded model; keyword arguments replace fields of the configuration."""

    def make(seed: int = 0, **fields) -> GADMSForPreTraining:
        torch.manual_seed(seed)
        return GADMSForPreTraining(tiny_config(**fields))

    return make


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """A Hub on which a token may write to the namespace `me`, and another read from it."""
    with HubServer() as server:
        server.add_token(MINE, write=True, namespaces=["me"])
        server.add_token(READING, write=False, namespaces=["me"])
        yield server


@pytest.fixture(scope="module")
def client(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    """A process with the real client, which talks to `hub`."""
    with HubClient(hub.environment(tmp_path_factory.mktemp("home"))) as process:
        yield process


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.new("RGB", (20 + index, 50), color) for index, color in enumerate(("red", "white", "green", "gray"))]


@pytest.fixture
def batch(processor, images):
    """Four images with captions of ragged length."""
    return processor(images=images, text=CAPTIONS)


@pytest.fixture(autouse=True)
def model_of_examples(request):
    """What examples of the gallery take as given: `model`, `processor`, and a folder to write in."""
    if isinstance(request.node, pytest.DoctestItem) and "PersonGallery" in request.node.name:
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
        names = request.getfixturevalue("doctest_namespace")
        torch.manual_seed(0)
        names["model"] = GADMSModel(request.getfixturevalue("tiny_config")()).eval()
        names["processor"] = request.getfixturevalue("processor")
