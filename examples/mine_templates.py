r"""Mine caption templates from training captions, let a person review them, and write the set for captioning.

    python examples/mine_templates.py mine --dataset data/cuhk_pedes_train --captions captions \
        --forbid data/cuhk_pedes test captions --url http://localhost:8000/v1 --model Qwen/Qwen2.5-7B-Instruct
    # edit runs/templates/review.yaml
    python examples/mine_templates.py finish --version 2026.1

`mine` lets a language model replace details of captions by placeholders, clusters the templates, lets the model write
variants of each cluster's examples, and writes a review file. Only splits named `train` are accepted. Captions of
`--forbid` are excluded. Without `--url` the model runs in-process. A journal of replies beside the review file lets an
interrupted run resume without repeating requests.

`finish` turns the reviewed file into JSON for `TemplateSet.load`, with a full record beside it.

Expected time: an hour for 68,000 captions at 20 replies a second. Needs `pip install "gadms[construction]"`.
"""

import argparse
import json
import sys
from pathlib import Path

from dataset_scripts.construction.captions import (
    ChatConfigurationError,
    ChatOutageError,
    ChatSettings,
    JournalledChat,
    build_chat,
)
from dataset_scripts.construction.template_mining.captions import hash_captions, training_captions
from dataset_scripts.construction.template_mining.mining import MiningSettings, mine_templates
from dataset_scripts.construction.template_mining.review import (
    finish_templates,
    read_review,
    review_record,
    write_review,
)
from dataset_scripts.construction.template_mining.text_embedding import (
    OpenAIEmbedder,
    TextEmbedder,
    TransformersEmbedder,
)
from dataset_scripts.loading import choose_split, dataset_arguments, load_splits
from modeling_gadms.encoders.atomic_files import write_atomically
from modeling_gadms.training.data import DatasetColumns


EXPECTED = (OSError, ValueError, TypeError, ImportError, ChatConfigurationError, ChatOutageError)


def mine(arguments: argparse.Namespace) -> None:
    # 1. Check the arguments first: an edited review file is never overwritten
    if arguments.review.exists():
        raise FileExistsError(f"{arguments.review} exists and may contain edits: use another --review or move it")
    settings = MiningSettings(clusters=arguments.clusters, variants=arguments.variants, seed=arguments.seed)

    # 2. Training captions
    forbidden: set[str] = set()
    for name, split, column in arguments.forbid:
        forbidden |= hash_captions(choose_split(f"--forbid {name}", load_splits(name), split), [column])
    captions, source = training_captions(
        arguments.dataset,
        arguments.split,
        DatasetColumns(captions=tuple(arguments.captions)),
        revision=arguments.revision,
        arguments=dataset_arguments(arguments.dataset_args),
        forbidden_captions=forbidden,
        max_captions=arguments.max_captions,
        seed=arguments.seed,
    )

    # 3. Models. Load the embedder first, so that errors do not cost an hour of captioning
    embedder: TextEmbedder = (
        OpenAIEmbedder(arguments.embedder, arguments.embedder_url)
        if arguments.embedder_url
        else TransformersEmbedder(arguments.embedder)
    )
    chat_settings = ChatSettings(
        kind="openai" if arguments.url else "transformers",
        model=arguments.model,
        revision=arguments.model_revision,
        base_url=arguments.url,
        api_key_env=arguments.api_key_env,
        concurrency=arguments.concurrency,
        max_tokens=128 * max(arguments.variants, 4),  # one reply contains all variants of a cluster
    )
    sampling = f"{chat_settings.max_tokens} {chat_settings.temperature} {chat_settings.top_p}"
    chat = JournalledChat(build_chat(chat_settings), arguments.review.with_suffix(".journal.jsonl"), sampling)

    # 4. Mine
    result = mine_templates(captions, source, chat, embedder, settings)
    write_review(result, arguments.review)
    print(*result.steps, sep="\n")
    print(f"{len(result.templates)} templates to review: {arguments.review}")


def finish(arguments: argparse.Namespace) -> None:
    review = read_review(arguments.review)
    templates, counts = finish_templates(review, arguments.version, arguments.count)
    record = json.dumps(review_record(review, counts), indent=2, ensure_ascii=False)
    write_atomically(arguments.output.with_suffix(".record.json"), record + "\n")
    templates.save(arguments.output)
    print(counts)
    if not review.reviewed:
        print(
            f"Not reviewed: `reviewed` is false in {arguments.review}, so the version ends in -unreviewed.",
            file=sys.stderr,
        )
    print(f"{len(templates.templates)} templates, version {templates.version}: {arguments.output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="{mine,finish}")
    command = commands.add_parser("mine", help="mine templates and write a review file")
    command.set_defaults(run=mine)
    option = command.add_argument
    option("--dataset", required=True, help="synthetic_persons, a save_to_disk folder, or a name load_dataset takes")
    option("--dataset-args", nargs="+", default=[], metavar="KEY=VALUE", help="such as data_dir=raw")
    option("--split", default="train", help="train or slices of it, such as train[:1%%] (default: train)")
    option("--revision", help="commit of a data set on the Hub")
    option("--captions", nargs="+", default=["caption1", "caption2"], help="columns (default: caption1 caption2)")
    option("--forbid", nargs=3, action="append", default=[], metavar=("SET", "SPLIT", "COLUMN"), help="test captions")
    option("--max-captions", type=int, help="maximum number of captions, sampled (default: all)")
    option("--url", help="OpenAI-compatible server (default: none, the model runs in-process)")
    option("--model", required=True, help="the language model, such as Qwen/Qwen2.5-7B-Instruct")
    option("--model-revision", help="its commit, for the record")
    option("--api-key-env", help="environment variable with the key of --url")
    option("--concurrency", type=int, default=8, help="parallel requests (default: 8)")
    option("--embedder", default=TransformersEmbedder.DEFAULT, help="default: all-MiniLM-L6-v2")
    option("--embedder-url", help="server with /v1/embeddings, without a key (default: none, it runs in-process)")
    option("--clusters", type=int, default=100, help="default: 100")
    option("--variants", type=int, default=8, help="variants to write per cluster (default: 8)")
    option("--seed", type=int, default=0)
    option("--review", type=Path, default=Path("runs/templates/review.yaml"))
    command = commands.add_parser("finish", help="make a set of templates from a reviewed file")
    command.set_defaults(run=finish)
    command.add_argument("--review", type=Path, default=Path("runs/templates/review.yaml"))
    command.add_argument("--version", required=True, help="version of the set, recorded with every caption")
    command.add_argument("--count", type=int, default=1000, help="maximum number of templates (default: 1000)")
    command.add_argument("--output", type=Path, default=Path("runs/templates/templates.json"))
    try:
        arguments = parser.parse_args()
        arguments.run(arguments)
    except EXPECTED as error:
        print(f"mine_templates.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
