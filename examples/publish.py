r"""Publish a data set and a model trained on it, each with its card. This is `gadms publish` in Python.

    python examples/publish.py --namespace me                     # after `make demo`: a dry run to runs/publish
    python examples/publish.py --namespace me --push --private    # the same to the Hub (`hf auth login` first)
    python examples/publish.py --namespace me --model runs/street/model --metrics runs/street/metrics.json \
        --dataset runs/street/persons --dataset-args --dataset-name street-persons --push --tag v1.0

Without `--push` nothing is uploaded: `runs/publish` contains the two folders that would be pushed. Read their cards,
and add what only you know: the source of the images, their permitted use, and a contact.

Expected time: half a minute on two CPU cores for the demo's model and its drawn persons, which are cached by then.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from dataset_scripts.loading import dataset_arguments
from dataset_scripts.publishing.dataset import publish_dataset
from dataset_scripts.publishing.dataset_card import DatasetCardSettings
from modeling_gadms.publishing.hub import check_push_target, push_folder
from modeling_gadms.publishing.model import publish_model
from modeling_gadms.training.history import read_training_history


def main(arguments: argparse.Namespace) -> None:
    model_name = f"{arguments.namespace}/{arguments.model_name}"
    dataset_name = f"{arguments.namespace}/{arguments.dataset_name}"
    target = {"revision": arguments.revision, "tag": arguments.tag, "private": arguments.private}

    # 1. Check the token and the repositories first, before any work
    if arguments.push:
        check_push_target(dataset_name, repo_type="dataset", **target)
        check_push_target(model_name, repo_type="model", **target)

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "publish") if arguments.push else arguments.out

        # 2. The data set: every row is checked, then written to Parquet files that contain the images
        card = DatasetCardSettings(license=arguments.dataset_license, provenance=arguments.provenance)
        dataset = publish_dataset(
            arguments.dataset,
            dataset_name,
            dataset_args=dataset_arguments(arguments.dataset_args),
            card=card,
            dry_run=out / "dataset",
        )

        # 3. The model. Its card links to the published data set
        recorded = read_training_history(arguments.model).datasets
        model = publish_model(
            arguments.model,
            model_name,
            metrics=arguments.metrics,
            license=arguments.license,
            datasets=[dataset_name if name == arguments.dataset else name for name in recorded],
            dry_run=out / "model",
        )

        # 4. Push both, in one commit each
        if not arguments.push:
            print(f"{dataset.to_text()}\n\n{model.to_text()}")
            return
        for folder, name, repo_type in (
            (out / "dataset", dataset_name, "dataset"),
            (out / "model", model_name, "model"),
        ):
            pushed = push_folder(folder, name, repo_type=repo_type, message=f"Publish {name}", **target)
            print(f"Pushed to {name}, {pushed.files} files: {pushed.url}")
        print(f'AutoModel.from_pretrained("{model_name}", trust_remote_code=True)\nload_dataset("{dataset_name}")')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--namespace", required=True, help="your user name or organisation on the Hub")
    option("--model", type=Path, default=Path("runs/demo/model"), help="model folder (default: runs/demo/model)")
    option("--metrics", type=Path, nargs="*", default=[Path("runs/demo/metrics.json")], help="of examples/evaluate.py")
    option("--model-name", default="ga-dms-demo", help="repository of the model (default: ga-dms-demo)")
    option("--license", default="apache-2.0", help="license of the weights (default: apache-2.0)")
    option("--dataset", default="synthetic_persons", help="name or folder (default: synthetic_persons)")
    option(
        "--dataset-args",
        nargs="*",
        default=["image_size=[96, 32]"],
        metavar="KEY=VALUE",
        help="arguments of the data set (default: image_size=[96,32])",
    )
    option("--dataset-name", default="drawn-persons", help="repository of the data set (default: drawn-persons)")
    option("--dataset-license", help="license of the data set; required, except for drawn persons and finished builds")
    option("--provenance", help="sources of images and captions, for the card")
    option("--push", action="store_true", help="push to the Hub; by default a dry run")
    option("--out", type=Path, default=Path("runs/publish"), help="folder of the dry run (default: runs/publish)")
    option("--revision", help="branch to push to (default: main)")
    option("--tag", help="tag of both commits, such as v1.0")
    option("--private", action="store_true", help="make both repositories private")
    try:
        main(parser.parse_args())
    except (OSError, ValueError, ImportError) as error:
        print(f"publish.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
