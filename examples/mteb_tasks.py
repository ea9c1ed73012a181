"""Text-based person retrieval in mteb: three benchmarks and drawn persons as tasks, and our models as models.

    python examples/mteb_tasks.py --model MODEL                 # 1,000 drawn persons: a minute on one core
    python examples/mteb_tasks.py --model MODEL --data data     # the benchmarks that are in data/

`data/` holds the raw releases in `CUHK-PEDES`, `ICFG-PEDES` and `RSTPReid`. mteb writes its result files to
`--output`. Any model of mteb takes the tasks, and any task of mteb that compares captions and images takes a model:

    mteb.evaluate(mteb.get_model("openai/clip-vit-base-patch16"), person_retrieval_tasks(Path("data")))
    mteb.evaluate(DualEncoder("MODEL"), mteb.get_task("Flickr30kT2IRetrieval"))

Requires `pip install mteb`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, ClassVar

import datasets
import mteb
import torch
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from torch.utils.data import DataLoader

from dataset_scripts.loading import find_benchmarks, load_split
from modeling_gadms.encoders.encoding import embedding_dim, encode_captions, encode_images
from modeling_gadms.encoders.fingerprint import model_fingerprint
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.data import DatasetColumns


SPLIT = "test"


class PersonRetrieval(AbsTaskRetrieval):
    """Captions are queries, images are documents, and all images of the caption's person are relevant.

    The field's R@k is the share of captions with at least one image of their person among the first k results, which
    mteb calls `hit_rate_at_k`; the main score is R@1, as a fraction. mteb's `recall_at_k` is another number: the share
    of a person's images among the first k results, which cannot reach 1 at k = 1 if a person has several images.
    `map_at_1000` leaves out what the field's mAP counts below rank 1000. Images of equal similarity are in mteb's
    order, not in that of the data set.

    Args:
        builder_arguments: for the builder of the data set, such as `data_dir` or `num_test_persons`.
    """

    columns: ClassVar[DatasetColumns] = DatasetColumns("image", ("captions",), "person_id")

    def __init__(self, **builder_arguments: Any):
        super().__init__()
        self.builder_arguments = builder_arguments

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Load the test split with the builder of this package, which reports faults of the release."""
        if self.data_loaded:
            return
        rows = load_split(self.metadata.dataset["path"], SPLIT, **self.builder_arguments)
        persons = self.columns.person_ids(rows).tolist()
        images_of: dict[int, dict[str, int]] = {}
        for row, person in enumerate(persons):
            images_of.setdefault(person, {})[f"image-{row}"] = 1
        texts: dict[str, str] = {}
        relevant: dict[str, dict[str, int]] = {}
        for row, values in enumerate(rows.select_columns(list(self.columns.captions))):
            for number, caption in enumerate(self.columns.captions_in(values)):
                texts[f"caption-{row}-{number}"] = caption
                relevant[f"caption-{row}-{number}"] = images_of[persons[row]]
        corpus = rows.select_columns(["image"]).add_column("id", [f"image-{row}" for row in range(len(rows))])
        queries = datasets.Dataset.from_dict({"id": list(texts), "text": list(texts.values())})
        data = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        self.dataset = {"default": {SPLIT: data}}
        self.data_loaded = True


def _metadata(name: str, builder: str, description: str, reference: str | None, **fields: Any) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description=description,
        reference=reference,
        dataset={"path": builder, "revision": "1"},
        type="Any2AnyRetrieval",
        category="t2i",
        modalities=["text", "image"],
        eval_splits=[SPLIT],
        eval_langs=["eng-Latn"],
        main_score="hit_rate_at_1",
        task_subtypes=["Image Text Retrieval"],
        **fields,
    )


class CUHKPEDES(PersonRetrieval):
    metadata = _metadata(
        "CUHKPEDEST2IRetrieval", "cuhk_pedes", "Find a person by a description.", "https://arxiv.org/abs/1702.05729"
    )


class ICFGPEDES(PersonRetrieval):
    metadata = _metadata(
        "ICFGPEDEST2IRetrieval", "icfg_pedes", "Find a person by a description.", "https://arxiv.org/abs/2107.12666"
    )


class RSTPReid(PersonRetrieval):
    metadata = _metadata(
        "RSTPReidT2IRetrieval", "rstpreid", "Find a person by a description.", "https://arxiv.org/abs/2109.05534"
    )


class SyntheticPersons(PersonRetrieval):
    metadata = _metadata(
        "SyntheticPersonsT2IRetrieval", "synthetic_persons", "Find a drawn person by a description.", None,
        sample_creation="rendered", annotations_creators="algorithmic", license="apache-2.0",
    )  # fmt: skip
    columns = DatasetColumns("image", ("caption1", "caption2"), "person_id")


BENCHMARKS = {task.metadata.dataset["path"]: task for task in (CUHKPEDES, ICFGPEDES, RSTPReid)}


def person_retrieval_tasks(data: Path | None = None) -> list[PersonRetrieval]:
    """The benchmarks in a folder of raw releases, or without a folder drawn persons.

    Raises:
        FileNotFoundError: if the folder holds none of them.
    """
    if data is None:
        # A split does not depend on the sizes of the others, and all are drawn.
        return [SyntheticPersons(num_train_persons=1, num_validation_persons=1)]
    return [BENCHMARKS[name](data_dir=str(folder)) for name, folder in find_benchmarks(data).items()]


class DualEncoder(AbsEncoder):
    """A model of this package as mteb takes it. Its revision is the fingerprint of weights and preprocessing.

    Args:
        model (`str`): folder or Hub name.
        batch_size (`int`): captions or images encoded at once, unless mteb gives another.
    """

    def __init__(self, model: str, batch_size: int = 64):
        self.model, self.processor = load_model_and_processor(model)
        self.batch_size = batch_size
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": model if model.count("/") == 1 and not Path(model).exists() else f"local/{Path(model).name}",
                "revision": model_fingerprint(self.model, self.processor),
                "modalities": ["text", "image"],
                "framework": ["PyTorch", "Transformers"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "embed_dim": embedding_dim(self.model, self.processor),
            }
        )

    def encode(self, inputs: DataLoader, **options: Any) -> torch.Tensor:
        """Encode the captions or the images of a task; both are added where it has both, as in the CLIP of mteb.

        Returns:
            `torch.FloatTensor` of shape `(num_inputs, projection_dim)`.
        """
        settings = {
            "batch_size": options.get("batch_size", self.batch_size),
            "progress": options.get("show_progress_bar", True),
        }
        embeds = []
        columns = inputs.dataset.features
        if "text" in columns:
            captions = [caption for batch in inputs for caption in batch["text"]]
            embeds.append(encode_captions(self.model, self.processor, captions, **settings))
        if "image" in columns:
            images = (image for batch in inputs for image in batch["image"])
            embeds.append(encode_images(self.model, self.processor, images, **settings))
        return sum(embeds)


def main(arguments: argparse.Namespace) -> None:
    cache = mteb.ResultCache(arguments.output)
    model = DualEncoder(arguments.model, arguments.batch_size)
    tasks = person_retrieval_tasks(arguments.data)
    # Always: mteb knows the model by its fingerprint, but not the copy of a benchmark that is in the folder.
    options = {"encode_kwargs": {"batch_size": arguments.batch_size}, "overwrite_strategy": "always"}
    results = mteb.evaluate(model, tasks, cache=cache, **options)
    print(f"{'task':32}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'mAP@1000':>10}")
    for result in results.task_results:
        (scores,) = result.scores[SPLIT]
        values = [100 * scores[f"hit_rate_at_{k}"] for k in (1, 5, 10)]
        print(f"{result.task_name:32}" + "".join(f"{value:8.2f}" for value in values), end="")
        print(f"{100 * scores['map_at_1000']:10.2f}")
    print(f"Percent. Results of mteb are in {arguments.output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--model", required=True, help="folder or Hub name of a model")
    option("--data", type=Path, help="folder with CUHK-PEDES, ICFG-PEDES and RSTPReid; default: drawn persons")
    option("--batch-size", type=int, default=64, help="captions or images encoded at once (default: 64)")
    option("--output", type=Path, default=Path("runs/mteb"), help="for mteb's results (default: runs/mteb)")
    try:
        main(parser.parse_args())
    except (OSError, ValueError) as error:
        print(f"mteb_tasks.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
