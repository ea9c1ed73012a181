r"""Publish a data set, and the model that was trained on it, each with its card: what `gadms publish` does, in Python.

    python examples/publish.py --namespace me                     # after `make demo`: a dry run into runs/publish
    python examples/publish.py --namespace me --push --private    # the same, onto the Hub (`hf auth login` first)
    python examples/publish.py --namespace me --model runs/street/model --metrics runs/street/metrics.json \
        --dataset runs/street/persons --dataset-args --dataset-name street-persons --push --tag v1.0

Without `--push` nothing leaves this machine: `runs/publish` holds the two folders that would be pushed. Read their
cards, and say in them what only you know: where pictures come from, what they may be used for, whom to ask.

Expected time: half a minute on two CPU cores for the demo's model and its drawn persons, which the cache has by then.
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

    # 1. What would be refused at the end is refused now: the token, a tag that is there already
    if arguments.push:
        check_push_target(dataset_name, repo_type="dataset", **target)
        check_push_target(model_name, repo_type="model", **target)

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "publish") if arguments.push else arguments.out

        # 2. The data set: every row is looked at, then written as Parquet with the images inside
        card = DatasetCardSettings(license=arguments.dataset_license, provenance=arguments.provenance)
        dataset = publish_dataset(
            arguments.dataset,
            dataset_name,
            dataset_args=dataset_arguments(arguments.dataset_args),
            card=card,
            dry_run=out / "dataset",
        )

        # 3. The model. Where its training names that data set, its card links to what is published of it
        recorded = read_training_history(arguments.model).datasets
        model = publish_model(
            arguments.model,
            model_name,
            metrics=arguments.metrics,
            license=arguments.license,
            datasets=[dataset_name if name == arguments.dataset else name for name in recorded],
            dry_run=out / "model",
        )

        # 4. The Hub, now that both are whole: a commit each
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
    option("--namespace", required=True, help="your name on the Hub, or your organisation's")
    option("--model", type=Path, default=Path("runs/demo/model"), help="folder (default: runs/demo/model)")
    option("--metrics", type=Path, nargs="*", default=[Path("runs/demo/metrics.json")], help="of examples/evaluate.py")
    option("--model-name", default="ga-dms-demo", help="on the Hub (default: ga-dms-demo)")
    option("--license", default="apache-2.0", help="of the weights (default: apache-2.0)")
    option("--dataset", default="synthetic_persons", help="name or folder (default: synthetic_persons)")
    option(
        "--dataset-args",
        nargs="*",
        default=["image_size=[96, 32]"],
        metavar="KEY=VALUE",
        help="of the data set (default: image_size=[96,32])",
    )
    option("--dataset-name", default="drawn-persons", help="on the Hub (default: drawn-persons)")
    option("--dataset-license", help="of the data set; must be given, but for drawn persons and finished builds")
    option("--provenance", help="where images and captions come from, for the card")
    option("--push", action="store_true", help="push to the Hub; else write what would be pushed")
    option("--out", type=Path, default=Path("runs/publish"), help="of a dry run (default: runs/publish)")
    option("--revision", help="branch to push to (default: main)")
    option("--tag", help="name for both commits, such as v1.0")
    option("--private", action="store_true", help="make both repositories private")
    try:
        main(parser.parse_args())
    except (OSError, ValueError, ImportError) as error:
        print(f"publish.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
