"""Train GA-DMS from a YAML file.

    accelerate launch examples/train.py --config examples/configs/demo.yaml
    accelerate launch examples/train.py --config examples/configs/webperson.yaml data.dataset=/data/webperson
    python examples/train.py --config examples/configs/demo.yaml model.token_score=random training.max_steps=100

Anything after the file is an override, `section.key=value`. The keys of the three sections:

    model      from_pretrained, from_clip + image_size, or sizes for random weights; and every field of GADMSConfig:
               token_score (gass | cosine | random | none), noise_masking, masked_token_prediction,
               alignment (sdm | itc), temperature, ... (modeling_gadms/configuration_gadms.py)
    data       dataset, dataset_args, splits, columns, captions_per_image, augmentation (modeling_gadms/run_config.py)
    training   every field of transformers.TrainingArguments, and masking_start, contrastive_start,
               new_module_lr_multiplier (modeling_gadms/trainer.py)

The final model, with its processor and code, is written to <output_dir>/model. A run that was cut off goes on from
its last checkpoint with `--resume`. On a CPU add `--num_cpu_threads_per_process 8` (your cores) after `accelerate
launch`, which takes one otherwise. Expected time: 9 minutes for the demo configuration on two CPU cores.
"""

import argparse
import logging
import sys
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from dataset_scripts.opening import open_dataset
from modeling_gadms.building import build_model_and_processor
from modeling_gadms.data import ImageCaptionPairs, PersonAugmentation, cache_pixels
from modeling_gadms.run_config import load_run_config
from modeling_gadms.trainer import GADMSTrainer


def last_checkpoint(output_dir: str) -> str | None:
    """The newest whole checkpoint: a run killed while it saved leaves one without its state, which is written last."""
    states = Path(output_dir).glob("checkpoint-*/trainer_state.json")
    newest = max(states, key=lambda path: int(path.parent.name.removeprefix("checkpoint-")), default=None)
    return None if newest is None else str(newest.parent)


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # 1. The run
    run = load_run_config(arguments.config, arguments.overrides)
    set_seed(run.training.seed)

    # 2. The data; one process prepares it, the others wait and read it
    with run.training.main_process_first(desc="data set"):
        splits = open_dataset(run.data.dataset, **run.data.dataset_args)
    validation_split = run.data.validation_split if run.training.eval_strategy != "no" else None
    for name in filter(None, (run.data.train_split, validation_split)):
        if name not in splits:
            raise ValueError(f"{run.data.dataset} has no split `{name}`; it has {', '.join(splits)}")
    columns = run.data.columns
    train_split = splits[run.data.train_split]
    columns.validate(train_split.column_names)

    # 3. The model, and the processor that goes with it
    captions = (
        caption
        for number, row in enumerate(train_split.select_columns(list(columns.captions)))
        for caption in columns.row_captions(row, number)
    )
    model, processor = build_model_and_processor(run.model, captions)
    if run.training.process_index == 0:
        print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)

    # 4. Pairs of images and captions
    train_dataset = ImageCaptionPairs(
        train_split,
        columns,
        captions_per_image=run.data.captions_per_image,
        seed=run.training.seed,
        pixel_cache=cache_pixels(train_split, columns, processor) if run.data.cache_images else None,
    )
    eval_dataset = None
    if validation_split:
        # Every caption of a validation image is a query.
        eval_dataset = ImageCaptionPairs(splits[validation_split], columns, captions_per_image="all")
    augmentation = PersonAugmentation(processor, crop_padding=run.data.crop_padding) if run.data.augmentation else None

    # 5. Training, and the best or last model in <output_dir>/model
    trainer = GADMSTrainer(
        model,
        run.training,
        processing_class=processor,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        augmentation=augmentation,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(run.training.output_dir) if arguments.resume else None)
    trainer.save_model(str(Path(run.training.output_dir) / "model"))
    trainer.save_state()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, such as examples/configs/demo.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in output_dir")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's")
    try:
        main(parser.parse_args())
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"train.py: {error}")
