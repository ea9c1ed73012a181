"""Stands in for vLLM where there is no GPU: takes what vLLM's published signatures take, and nothing else.

Replies are those of the scripted server. `VLLM_STAND_IN` may be JSON: the folder `log` gets a line for each call,
`refuse` is a word of requests that are rejected, `cut_off` one of requests whose reply is too long, `fail` one of the
model's name at which loading fails, and `die` one of requests that end the process.
"""

import inspect
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripted_replies import caption_for
from scripted_server import read_question

from .exceptions import VLLMClientError


SIGNATURES = json.loads(Path(__file__).parents[1].joinpath("signatures.json").read_text())
__version__ = SIGNATURES["version"]
_OPTIONS = json.loads(os.environ.get("VLLM_STAND_IN", "{}"))


def _bound(name: str, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments by name; raises `TypeError` as the published signature would."""
    parameters = [
        inspect.Parameter(name, inspect._ParameterKind[kind], default=inspect.Parameter.empty if required else None)
        if kind != "VAR_KEYWORD"
        else inspect.Parameter(name, inspect.Parameter.VAR_KEYWORD)
        for name, kind, required in SIGNATURES[name]
    ]
    return dict(inspect.Signature(parameters).bind(*args, **kwargs).arguments)


def _log(**values: Any) -> None:
    if "log" in _OPTIONS:
        with Path(_OPTIONS["log"]).open("a") as file:
            file.write(json.dumps(values) + "\n")


class SamplingParams:
    def __init__(self, **fields: Any):
        if unknown := set(fields) - set(SIGNATURES["SamplingParams"]):
            raise TypeError(f"SamplingParams takes no {unknown}")
        self.__dict__ |= fields


class LLM:
    def __init__(self, *args: Any, **kwargs: Any):
        taken = _bound("LLM", args, kwargs)
        if unknown := set(taken.pop("kwargs", {})) - set(SIGNATURES["EngineArgs"]):
            raise TypeError(f"EngineArgs takes no {unknown}")
        sys.stdout.write("INFO: as vLLM, this writes to standard output\n")
        if _OPTIONS.get("fail", "\0") in taken["model"]:
            raise ValueError("no such model")
        _log(model=taken["model"], pid=os.getpid())

    def get_default_sampling_params(self) -> SamplingParams:
        return SamplingParams(repetition_penalty=1.05)

    def chat(self, *args: Any, **kwargs: Any) -> list[SimpleNamespace]:
        taken = _bound("LLM.chat", args, kwargs)
        conversations, sampling = taken["messages"], taken["sampling_params"]
        if len(conversations) != len(sampling):
            raise ValueError("the lengths of prompts and parameters differ")
        questions = [
            read_question({"messages": messages, "seed": of.seed})
            for messages, of in zip(conversations, sampling, strict=True)
        ]
        texts = [question.text for question in questions]
        _log(call=len(texts), seeds=[of.seed for of in sampling], sampling=vars(sampling[0]))
        if any(_OPTIONS.get("die", "\0") in text for text in texts):
            os._exit(3)
        if any(_OPTIONS.get("refuse", "\0") in text for text in texts):
            raise VLLMClientError("the prompt is too long")
        return [SimpleNamespace(outputs=[self._output(question)]) for question in questions]

    def _output(self, question: Any) -> SimpleNamespace:
        is_cut_off = _OPTIONS.get("cut_off", "\0") in question.text
        fields = {"text": f" {caption_for(question)}\n", "finish_reason": "length" if is_cut_off else "stop"}
        if unknown := set(fields) - set(SIGNATURES["CompletionOutput"]):
            raise TypeError(f"CompletionOutput has no {unknown}")
        return SimpleNamespace(**fields)
