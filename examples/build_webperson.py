"""Build a data set of captioned persons from images, a video, tars or a table of URLs.

    python examples/build_webperson.py                                  # offline, on real pixels: about 5 minutes
    python examples/build_webperson.py --engine ray
    python examples/build_webperson.py --config examples/configs/build_webperson.yaml sources.crawl.path=coyo.parquet

The first two use the pedestrian video of Debian's `opencv-doc` and the photographs in scikit-image. They end when the
persons are found, because this package contains no captioner: see `examples/configs/build_vtest.yaml`. The third is
the paper's pipeline; it needs a GPU and two captioners. An interrupted run resumes when it is run again.

It prints what each block saw, kept and dropped. The output folder contains the data set in `data/`, its card,
`report.png`, and in `work/` all rejected rows with their reasons and the contact sheet `review.png`.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import datasets
from fetch_vtest import fetch_vtest

from dataset_scripts.construction.pipeline_report import format_report
from dataset_scripts.construction.run.config import load_build_config
from dataset_scripts.construction.run.pipeline import REVIEW_FILE, build_webperson


DEFAULT_CONFIG = "examples/configs/build_vtest.yaml"


def photographs() -> Path:
    """The folder of photographs inside scikit-image."""
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise ImportError("this example uses the photographs of scikit-image: pip install scikit-image")
    return Path(package.submodule_search_locations[0], "data")


def main(arguments: argparse.Namespace) -> None:
    # 1. The configuration; command-line overrides come last and win
    overrides = [f"run.engine={arguments.engine}"] if arguments.engine else []
    if arguments.config == DEFAULT_CONFIG:
        overrides += [f"sources.street.path={fetch_vtest()}", f"sources.photographs.path={photographs()}"]
    config = load_build_config(arguments.config, [*overrides, *arguments.overrides])

    # 2. Images in, persons out
    report = build_webperson(config)

    # 3. The pipeline report
    print(format_report(report.counts))
    print(f"Persons kept and dropped: {config.root / REVIEW_FILE}")
    for failure in report.set_aside:
        print(f"Not in the data set: shard {failure.number} of stage {failure.stage}: {failure.reason}")
    if not config.captioners:
        print(f"{report.persons:,} persons found in {config.root}; add captioners to caption them")
        return

    # 4. The data set
    persons = datasets.load_dataset(str(config.root.resolve()), split="train")
    print(persons)
    if len(persons):
        print(f"{persons[0]['image_path']}: {persons[0]['caption1']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=DEFAULT_CONFIG, help=f"YAML file, by default {DEFAULT_CONFIG}")
    parser.add_argument("--engine", choices=("local", "ray"), help="instead of the file's")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's")
    try:
        main(parser.parse_args())
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"build_webperson.py: {error}")
