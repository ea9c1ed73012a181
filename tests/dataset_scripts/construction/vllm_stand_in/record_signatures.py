"""Write down the names of vLLM's interface that the captioner uses, from a wheel, which is read and not imported.

pip download vllm --no-deps                     # some 340 MB
python record_signatures.py vllm-*.whl          # writes signatures.json
python record_signatures.py vllm-*.whl --check  # exit code 1 if it differs
"""

import argparse
import ast
import json
import zipfile
from pathlib import Path


RECORD = Path(__file__).with_name("signatures.json")
CALLABLES = {
    "LLM": ("vllm/entrypoints/llm.py", "__init__"),
    "LLM.chat": ("vllm/entrypoints/llm.py", "chat"),
    "LLM.get_default_sampling_params": ("vllm/entrypoints/llm.py", "get_default_sampling_params"),
}
FIELDS = {
    "EngineArgs": "vllm/engine/arg_utils.py",  # what LLM takes as further keywords
    "SamplingParams": "vllm/sampling_params.py",
    "CompletionOutput": "vllm/outputs.py",
}
CLASSES = {"VLLMClientError": "vllm/exceptions.py"}


def record(wheel: Path) -> dict:
    """By name, each parameter as `[name, kind, whether it is required]`, or the names of the fields of a class."""
    with zipfile.ZipFile(wheel) as archive:
        trees = {
            path: ast.parse(archive.read(path)) for path in {p for p, _ in CALLABLES.values()} | {*FIELDS.values()}
        }
        trees |= {path: ast.parse(archive.read(path)) for path in CLASSES.values()}
    known: dict = {"version": wheel.name.split("-")[1]}
    for name, (path, method) in CALLABLES.items():
        found = [
            part
            for part in class_of(trees[path], name.split(".")[0]).body
            if isinstance(part, ast.FunctionDef) and part.name == method
        ]
        known[name] = parameters(found[-1].args)  # overloads come first
    for name, path in FIELDS.items():
        body = class_of(trees[path], name).body
        known[name] = [part.target.id for part in body if isinstance(part, ast.AnnAssign)]
    for name, path in CLASSES.items():
        known[name] = [ast.unparse(base) for base in class_of(trees[path], name).bases]
    return known


def class_of(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(part for part in tree.body if isinstance(part, ast.ClassDef) and part.name == name)


def parameters(arguments: ast.arguments) -> list[list]:
    positional = arguments.args[1:]  # without self
    required = len(positional) - len(arguments.defaults)
    found = [[part.arg, "POSITIONAL_OR_KEYWORD", place < required] for place, part in enumerate(positional)]
    found += [
        [part.arg, "KEYWORD_ONLY", default is None]
        for part, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return [*found, [arguments.kwarg.arg, "VAR_KEYWORD", False]] if arguments.kwarg else found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = json.dumps(record(options.wheel)).replace('"], "', '"],\n"').replace(']], "', ']],\n"') + "\n"
    if not options.check:
        RECORD.write_text(text)
    elif text != RECORD.read_text():
        raise SystemExit(f"{RECORD} is of another interface: run without --check and see the difference")
