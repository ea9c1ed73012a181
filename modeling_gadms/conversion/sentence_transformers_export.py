"""A model for users of sentence-transformers, who encode captions and images by one call."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..encoders.atomic_files import atomic_folder, write_json
from ..encoders.loading import load_model_and_processor


MODULE = "sentence_transformers_module"
"""Name of the file of this package that an export carries."""
LOWEST_VERSION = "6.2"
"""Of sentence-transformers, tested; its modules did not always take images."""


@dataclass(frozen=True)
class SentenceTransformersReport:
    """What was written.

    Attributes:
        source (`str`): the model.
        target (`Path`): the folder.
        embedding_size (`int`): width of the shared space.
    """

    source: str
    target: Path
    embedding_size: int

    def to_text(self) -> str:
        """Return the report for people, with what to type."""
        return (
            f"{self.source} -> {self.target}, embeddings of {self.embedding_size} numbers\n"
            f'  SentenceTransformer("{self.target}", trust_remote_code=True).encode(["a woman in a red coat"])'
        )


def export_sentence_transformers(source: str | Path, target: str | Path) -> SentenceTransformersReport:
    """Write a folder that sentence-transformers loads, with `trust_remote_code=True` and without this package.

    `encode` takes captions (`str`) or images (`PIL.Image.Image`) and gives embeddings of unit length in one space,
    those of [`~modeling_gadms.encoders.encoding.encode_captions`] and
    [`~modeling_gadms.encoders.encoding.encode_images`];
    `similarity` is their cosine. The folder remains one that `AutoModel` and this package load.

    Args:
        source (`str` or `Path`): folder or Hub name of a GA-DMS model or adapter.
        target (`str` or `Path`): the folder to make.

    Returns:
        [`SentenceTransformersReport`]

    Raises:
        FileExistsError: if `target` is there, and not an empty folder.
        ValueError: if the source is no whole GA-DMS model.
        OSError: if something cannot be read or written.
    """
    target = Path(target)
    modules: list[dict[str, Any]] = [
        {"idx": 0, "name": "0", "path": "", "type": f"{MODULE}.GADMSEncoder"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Normalize",
            "type": "sentence_transformers.base.modules.normalize.Normalize",
        },
    ]
    settings = {
        "model_type": "SentenceTransformer",
        "requirements": {
            "sentence-transformers": {
                "specifier": f">={LOWEST_VERSION}",
                "reason": "its modules take captions and images as this one does",
            }
        },
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
