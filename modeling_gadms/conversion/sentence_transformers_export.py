"""Export a model as a folder that `SentenceTransformer` loads, to encode captions and images with one call."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..encoders.atomic_files import atomic_folder, write_json
from ..encoders.loading import load_model_and_processor


MODULE = "sentence_transformers_module"
"""Module of this package that is copied into the export."""
LOWEST_VERSION = "6.2"
"""Tested version of sentence-transformers. Modules of earlier ones do not all accept images."""


@dataclass(frozen=True)
class SentenceTransformersReport:
    """Result of an export.

    Attributes:
        source (`str`): the model.
        target (`Path`): the folder that was written.
        embedding_size (`int`): dimensions of the embeddings.
    """

    source: str
    target: Path
    embedding_size: int

    def to_text(self) -> str:
        """Format the report as text, with a usage example."""
        return (
            f"{self.source} -> {self.target}, embeddings of {self.embedding_size} dimensions\n"
            f'  SentenceTransformer("{self.target}", trust_remote_code=True).encode(["a woman in a red coat"])'
        )


def export_sentence_transformers(source: str | Path, target: str | Path) -> SentenceTransformersReport:
    """Write a folder that sentence-transformers loads with `trust_remote_code=True`, without this package.

    `encode` takes captions (`str`) or images (`PIL.Image.Image`) and returns embeddings of unit length, equal to those
    of [`~modeling_gadms.encoders.encoding.encode_captions`] and
    [`~modeling_gadms.encoders.encoding.encode_images`]. `similarity` is their cosine. `AutoModel` and this package
    load the folder too.

    Args:
        source (`str` or `Path`): folder or Hub name of a GA-DMS model or adapter.
        target (`str` or `Path`): folder to write.

    Returns:
        [`SentenceTransformersReport`]

    Raises:
        FileExistsError: if `target` exists and is not an empty folder.
        ValueError: if the source is not a complete GA-DMS model.
        OSError: if a file cannot be read or written.
    """
    target = Path(target)
    normalize = "sentence_transformers.base.modules.normalize.Normalize"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{MODULE}.GADMSEncoder"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": normalize},
    ]
    required = {"specifier": f">={LOWEST_VERSION}", "reason": "modules that encode both captions and images"}
    settings = {
        "model_type": "SentenceTransformer",
        "requirements": {"sentence-transformers": required},
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    with atomic_folder(target) as folder:
        model, processor = load_model_and_processor(source)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        shutil.copyfile(Path(__file__).with_name(f"{MODULE}.py"), folder / f"{MODULE}.py")
        (folder / "1_Normalize").mkdir()
        write_json(folder / "1_Normalize" / "config.json", {})
        write_json(folder / "modules.json", modules)
        write_json(folder / "config_sentence_transformers.json", settings)
    return SentenceTransformersReport(str(source), target, model.config.projection_dim)
