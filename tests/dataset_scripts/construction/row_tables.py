"""Rows as blocks see them, pictures of persons to put into them, and stand-ins for what a run asks."""

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dataset_scripts.construction.blocks import ROW_SCHEMA, Block, run_shard
from dataset_scripts.construction.captions import caption
from dataset_scripts.construction.captions.chat.types import ChatReply, ChatRequest, ChatSettings, OnReply
from dataset_scripts.construction.persons.criteria import CriteriaSettings
from dataset_scripts.construction.persons.detectors import DetectorSettings
from dataset_scripts.construction.persons.duplicates import DuplicateSettings
from dataset_scripts.construction.persons.pose import Pose, PoseSettings
from dataset_scripts.construction.persons.quality import QualitySettings
from dataset_scripts.construction.run.config import BuildConfig, RunSettings
from dataset_scripts.construction.sources.planning import SourceSettings
from modeling_gadms.media.detection import PersonBox
from tests.waiting import PATIENCE_SECONDS


def new_rows(
    count: int, columns: pa.Table | None = None, *, trail: Sequence[str] = (), shard: int = 0, first: int = 0
) -> pa.Table:
    """Rows that no block has rejected.

    Args:
        count: how many; their ids are `r0`, `r1`, ...
        columns: further columns.
        trail: the blocks that they have passed.
        shard: its number.
        first: position of the first row.
    """
    passed = [{"block": name, "note": None} for name in trail]
    table = pa.Table.from_pylist(
        [
            {"row_id": f"r{number}", "shard": shard, "position": first + number, "trail": passed}
            for number in range(count)
        ],
        ROW_SCHEMA,
    )
    for name in columns.column_names if columns is not None else ():
        table = table.append_column(name, columns[name])
    return table


def column(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist()


def trails(table: pa.Table) -> dict[str, list[tuple[str, str | None]]]:
    """By row id, the blocks that the row has entered, and what they noted."""
    return {
        row["row_id"]: [(step["block"], step["note"]) for step in row["trail"]]
        for row in table.select(["row_id", "trail"]).to_pylist()
    }


def jpeg(seed: int, size: tuple[int, int] = (40, 100)) -> bytes:
    """A picture with a coat and trousers of colours that the seed draws, and some texture."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((size[1], size[0], 3), np.float64)
    third = size[1] // 3
    for top, bottom in ((0, third), (third, 2 * third), (2 * third, size[1])):
        pixels[top:bottom] = rng.integers(0, 256, 3)
    pixels += rng.normal(0, 25, (size[1], size[0], 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_persons(folder: Path, count: int, size: tuple[int, int] = (60, 150)) -> Path:
    """A folder of pictures `person0.jpg`, `person1.jpg`, ..."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"person{number}.jpg").write_bytes(jpeg(number, size))
    return folder


class OnePerson:
    """Stands in for a detector, by its import path: each picture is one person. It takes any option."""

    def __init__(self, **options: Any):
        self.options = options

    def __call__(self, images: list[Image.Image]) -> list[list[PersonBox]]:
        return [[PersonBox(0, 0, image.width, image.height, 0.99)] for image in images]


class StandingPose:
    """Stands in for a pose estimator, by its import path: everybody stands upright in the middle of the box."""

    HEIGHTS = (0.08, 0.06, 0.06, 0.07, 0.07, *[0.2, 0.2, 0.35, 0.35, 0.5, 0.5], *[0.52, 0.52, 0.75, 0.75, 0.95, 0.95])

    def __call__(self, images: list[Image.Image], boxes: list[PersonBox]) -> list[Pose]:
        return [
            Pose(
                tuple(
                    (box.left + box.width * (0.35 if place % 2 else 0.65), box.top + box.height * height, 0.9)
                    for place, height in enumerate(self.HEIGHTS)
                )
            )
            for box in boxes
        ]


def build_config(root: Path, source: Path, captioners: Sequence[str] = ("caption1",), **sections: Any) -> BuildConfig:
    """A run over a folder of pictures of one person each, with captioners that nobody answers for."""
    chat = ChatSettings("openai", "scripted", revision="r1", base_url="http://127.0.0.1:9/v1")
    defaults: dict[str, Any] = {
        "run": RunSettings(str(root), images_per_shard=4, thumbnail_height=32),
        "sources": {"street": SourceSettings("folder", str(source), "street")},
        "captioners": dict.fromkeys(captioners, chat),
        "detector": DetectorSettings("whole_image"),
        "pose": PoseSettings("row_tables:StandingPose"),
        "criteria": CriteriaSettings(min_shorter_side=50),
        "quality": QualitySettings(0, 0),
        "duplicates": DuplicateSettings(max_distance=-1),
    }
    return BuildConfig(**(defaults | sections))


GOOD = "A man wears a red jacket, dark blue jeans and white sneakers, and carries a black backpack."


class ScriptedChat:
    """A `ChatModel` in memory: `answer` gets the request and how many came before it; a text is a good reply."""

    name, revision = "scripted", "r1"

    def __init__(self, answer: Callable[[ChatRequest, int], str | ChatReply] = lambda request, number: GOOD):
        self.answer = answer
        self.asked: list[ChatRequest] = []

    def complete(self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None) -> list[ChatReply]:
        replies = []
        for place, request in enumerate(requests):
            self.asked.append(request)
            answer = self.answer(request, len(self.asked) - 1)
            replies.append(ChatReply(answer) if isinstance(answer, str) else answer)
            if on_reply:
                on_reply(place, replies[-1])
        return replies


class MeetingChat(ScriptedChat):
    """Answers calls in pairs: none before the next has come from another thread."""

    is_concurrent = True

    def __init__(self) -> None:
        super().__init__()
        self.met = threading.Barrier(2)
        self.threads: list[int] = []

    def complete(self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None) -> list[ChatReply]:
        self.threads.append(threading.get_ident())
        self.met.wait(PATIENCE_SECONDS)
        return super().complete(requests, on_reply)


def answer_with(monkeypatch: pytest.MonkeyPatch, chat: ScriptedChat) -> ScriptedChat:
    """Let the captioning blocks of this process ask `chat`, whatever their settings."""
    monkeypatch.setattr(caption, "_shared_chat", lambda settings: chat)
    return chat


def run_blocks(blocks: Sequence[Block], table: pa.Table) -> pa.Table:
    """Prepare and apply blocks one after the other."""
    for block in blocks:
        block.prepare()
        table = run_shard(block, table)
    return table
