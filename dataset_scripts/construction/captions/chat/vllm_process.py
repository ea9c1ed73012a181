"""Script for an environment with vLLM: loads a model once, and answers batches of requests.

It imports only the standard library and vLLM. `vllm_engine.py` starts it with the arguments of the engine and of
sampling as JSON. Standard output gets `{"ready": "0.33.0"}`, or `{"missing": "..."}` or `{"error": "..."}`. Standard
input then has one line per batch, `[{"messages": [...], "seed": 7}, ...]`, and standard output gets one line for it,
`{"replies": [{"text": "...", "finish_reason": "stop"}, {"refused": "..."}, ...]}`. The script ends with its input.
"""

import json
import os
import sys
from typing import IO, Any


def main(settings: dict[str, Any]) -> None:
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what vLLM and its processes print goes to the log
    try:
        import vllm
        from vllm import LLM
    except ImportError as error:
        write(output, missing=str(error))
        return
    try:
        engine = LLM(**settings["engine"])
        # Applied by vLLM's server and by transformers, but not by `chat` with parameters of its own.
        penalty = engine.get_default_sampling_params().repetition_penalty
    except Exception as error:
        write(output, error=f"{type(error).__name__}: {error}")
        raise
    write(output, ready=vllm.__version__)
    sampling = settings["sampling"] | {"repetition_penalty": penalty}
    for line in sys.stdin:
        try:
            write(output, replies=answer(engine, json.loads(line), sampling))
        except Exception as error:
            write(output, error=f"{type(error).__name__}: {error}")
            raise


def answer(engine: Any, requests: list[dict[str, Any]], sampling: dict[str, Any]) -> list[dict[str, Any]]:
    """One reply per request. If vLLM rejects a batch, each half is tried alone, down to the request at fault."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError

    parameters = [SamplingParams(seed=request["seed"], **sampling) for request in requests]
    try:
        results = engine.chat([request["messages"] for request in requests], parameters, use_tqdm=False)
    except (ValueError, VLLMClientError) as error:  # such as a prompt that is too long
        if len(requests) == 1:
            return [{"refused": f"{type(error).__name__}: {error}"}]
        middle = len(requests) // 2
        return answer(engine, requests[:middle], sampling) + answer(engine, requests[middle:], sampling)
    outputs = [result.outputs[0] for result in results]
    return [{"text": output.text, "finish_reason": output.finish_reason} for output in outputs]


def write(output: IO[str], **values: Any) -> None:
    output.write(json.dumps(values) + "\n")
    output.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
