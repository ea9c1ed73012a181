"""The Hub's validation of a card: its YAML header parses, and known fields have valid values.

A card with errors is rejected. A card with warnings is accepted.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml


LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown other
    """.split()
)
TASKS = frozenset(
    """
    text-classification token-classification table-question-answering question-answering zero-shot-classification
    translation summarization feature-extraction text-generation fill-mask sentence-similarity text-to-speech
    text-to-audio automatic-speech-recognition audio-to-audio audio-classification audio-text-to-text
    voice-activity-detection depth-estimation image-classification object-detection image-segmentation text-to-image
    image-to-text image-to-image image-to-video unconditional-image-generation video-classification
    reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text
    table-to-text multiple-choice text-ranking text-retrieval time-series-forecasting text-to-video
    image-text-to-text image-text-to-image image-text-to-video visual-question-answering
    document-question-answering zero-shot-image-classification graph-ml mask-generation
    zero-shot-object-detection text-to-3d image-to-3d image-feature-extraction video-text-to-text
    keypoint-detection visual-document-retrieval any-to-any video-to-video other
    """.split()
)
SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "n>1T"}
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_card(content: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Validate a card. Returns errors and warnings."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content, re.DOTALL)
    if not match:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML metadata does not parse: {' '.join(str(error).split())}"], []
    if not isinstance(data, dict):
        return ["YAML metadata must be a mapping"], []
    errors = [*_common_errors(data), *(_model_errors(data) if repo_type == "model" else _dataset_errors(data))]
    return errors, list(_warnings(data, repo_type))


def _common_errors(data: dict[str, Any]) -> Iterator[str]:
    for name in _list(data.get("license")):
        if name not in LICENSES:
            yield f'"license" must be one of the known identifiers, not {name!r}'
    for field in ("language", "tags", "license"):
        if any(not isinstance(value, str) for value in _list(data.get(field))):
            yield f'"{field}" must be a string or a list of strings'
    for value in _list(data.get("language")):
        if isinstance(value, str) and not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)?|code|multilingual", value):
            yield f'"language" must be an ISO 639 code, not {value!r}'


def _model_errors(data: dict[str, Any]) -> Iterator[str]:
    for field in ("base_model", "datasets"):
        for value in _list(data.get(field)):
            if not isinstance(value, str) or not _REPO_ID.fullmatch(value):
                yield f'"{field}" with value {value!r} is not valid: use the name of a repository'
    if "pipeline_tag" in data and not isinstance(data["pipeline_tag"], str):
        yield '"pipeline_tag" must be a string'
    if "model-index" in data:
        yield from _model_index_errors(data["model-index"])


def _model_index_errors(index: Any) -> Iterator[str]:
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for number, model in enumerate(index):
        place = f"model-index[{number}]"
        yield from _missing(model, place, "name", "results")
        for row, result in enumerate(_list(_get(model, "results"))):
            inside = f"{place}.results[{row}]"
            yield from _missing(_get(result, "task"), f"{inside}.task", "type")
            yield from _missing(_get(result, "dataset"), f"{inside}.dataset", "type", "name")
            yield from _missing(result, inside, "metrics")
            for column, metric in enumerate(_list(_get(result, "metrics"))):
                yield from _missing(metric, f"{inside}.metrics[{column}]", "type", "value")


def _dataset_errors(data: dict[str, Any]) -> Iterator[str]:
    for field in ("size_categories", "task_categories"):
        if any(not isinstance(value, str) for value in _list(data.get(field))):
            yield f'"{field}" must be a list of strings'
    for number, config in enumerate(_list(data.get("configs"))):
        yield from _missing(config, f"configs[{number}]", "config_name")


def _warnings(data: dict[str, Any], repo_type: str) -> Iterator[str]:
    if "license" not in data:
        yield "no license is named"
    field = "pipeline_tag" if repo_type == "model" else "task_categories"
    for value in _list(data.get(field)):
        if value not in TASKS:
            yield f'The {field} "{value}" is not in the official list'
    if repo_type == "dataset":
        for value in _list(data.get("size_categories")):
            if value not in SIZES:
                yield f'The size_categories "{value}" is not in the official list'


def _missing(holder: Any, place: str, *fields: str) -> Iterator[str]:
    for field in fields:
        if _get(holder, field) is None:
            yield f'"{place}.{field}" is required'


def _get(holder: Any, field: str) -> Any:
    return holder.get(field) if isinstance(holder, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
