"""The model that is taken where none is named."""

from pathlib import Path
from typing import Any

from .loading import load_model_and_processor
from .onnx_model import RUNTIMES


DEFAULT_MODEL = "google/siglip2-base-patch16-224"
"""Its choice is argued in `docs/guides/search.md`."""
WHY_DEFAULT = "it understands many languages, its licence is Apache-2.0, and it runs on a CPU (375 M parameters)"


def load_model_or_default(
    name: str | Path | None = None, *, runtime: str = RUNTIMES[0], image_fit: str | None = None
) -> tuple[Any, Any]:
    """Load a model and its processor; without a name the default model, from the Hub or its cache.

    Arguments and errors are those of [`~modeling_gadms.encoders.loading.load_model_and_processor`].

    Raises:
        ValueError: if the default model is to run in another runtime than torch: it has no ONNX export.
        OSError: if the default model is not in the cache and cannot be fetched, with what to do.
    """
    if name is not None:
        return load_model_and_processor(name, runtime=runtime, image_fit=image_fit)
    if runtime != RUNTIMES[0]:
        raise ValueError(f"the runtime {runtime} needs an ONNX export: give its folder as the model (--model)")
    try:
        return load_model_and_processor(DEFAULT_MODEL, image_fit=image_fit)
    except OSError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise OSError(
            f"The default model cannot be loaded. {reason}. Without the Hub, give a model that you have "
            f"(--model FOLDER), or fetch this one where there is a network "
            f"(hf download {DEFAULT_MODEL} --local-dir FOLDER) and give its folder; the variable HF_ENDPOINT names a "
            "mirror of the Hub"
        ) from error
