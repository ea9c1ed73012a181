"""Train GA-DMS from a YAML file.

    accelerate launch examples/train.py --config examples/configs/demo.yaml
    accelerate launch examples/train.py --config examples/configs/webperson.yaml data.dataset=/data/webperson
    python examples/train.py --config examples/configs/demo.yaml model.token_score=random training.max_steps=100

Anything after the file is an override, `section.key=value`. The keys of the sections:

    model      from_pretrained, from_clip + image_size, or sizes for random weights; and every field of GADMSConfig:
               token_score (gass | cosine | random | none), noise_masking, masked_token_prediction,
               alignment (sdm | itc), temperature, ... (modeling_gadms/configuration_gadms.py)
    data       dataset, dataset_args, splits, columns, captions_per_image, augmentation, streaming, shuffle_buffer
               (modeling_gadms/training/run_config.py)
    training   every field of transformers.TrainingArguments, and masking_start, contrastive_start,
               new_module_lr_multiplier (modeling_gadms/training/trainer.py)
    adapter    method (lora | dora), rank, alpha, dropout, encoders, targets, train_new_modules: with this section only
               an adapter of model.from_pretrained is trained, and saved (modeling_gadms/training/adapters.py)

The final model, with its processor and code, is written to <output_dir>/model. A run that was cut off goes on from
its last checkpoint with `--resume`. On a CPU add `--num_cpu_threads_per_process 8` (your cores) after `accelerate
launch`, which takes one otherwise. Expected time: 9 minutes for the demo configuration on two CPU cores.
"""

import argparse
import logging
import sys

from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from dataset_scripts.loading import choose_split, load_parquet_split, load_splits, parquet_files
from modeling_gadms.training.adapters import add_adapter
from modeling_gadms.training.data import ImageCaptionPairs, PersonAugmentation, cache_pixels
from modeling_gadms.training.footprint import describe_parameters
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import load_run_config, train_and_save
from modeling_gadms.training.streaming import ParquetRows, StreamedPairs
from modeling_gadms.training.trainer import GADMSTrainer


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # 1. The run
    run = load_run_config(arguments.config, arguments.overrides)
    set_seed(run.training.seed)

    # 2. The data: rows of Parquet files as they are needed, or a copy that one process prepares and all read
    data, columns = run.data, run.data.columns
    validation_split = data.validation_split if run.training.eval_strategy != "no" else None
    validation_rows = None
    if data.streaming:
        files = parquet_files(data.dataset, data.train_split, **data.dataset_args)
        rows = ParquetRows(files, columns, progress=run.training.process_index == 0)
        captions = rows.captions()
        if validation_split:
            with run.training.main_process_first(desc="validation split"):
                validation_rows = load_parquet_split(data.dataset, validation_split, **data.dataset_args)
    else:
        with run.training.main_process_first(desc="data set"):
            splits = load_splits(data.dataset, **data.dataset_args)
        train_rows = choose_split(data.dataset, splits, data.train_split)
        captions = columns.captions_of(train_rows)
        if validation_split:
            validation_rows = choose_split(data.dataset, splits, validation_split)

    # 3. The model, and the processor that goes with it
    model, processor = build_model_and_processor(run.model, captions)
    if run.adapter:
        model = add_adapter(model, run.adapter, run.model.from_pretrained)
    if run.training.process_index == 0:
        print(describe_parameters(model), flush=True)

    # 4. Pairs of images and captions
    pair_options = {"captions_per_image": data.captions_per_image, "seed": run.training.seed}
    if data.streaming:
        train_dataset = StreamedPairs(rows, shuffle_buffer=data.shuffle_buffer, **pair_options)
    else:
        pixel_cache = cache_pixels(train_rows, columns, processor) if data.cache_images else None
        train_dataset = ImageCaptionPairs(train_rows, columns, pixel_cache=pixel_cache, **pair_options)
    eval_dataset = None
    if validation_rows is not None:
        # Every caption of a validation image is a query.
        eval_dataset = ImageCaptionPairs(validation_rows, columns, captions_per_image="all")
    augmentation = PersonAugmentation(processor, crop_padding=data.crop_padding) if data.augmentation else None

    # 5. Training, and the best or last model in <output_dir>/model
    trainer = GADMSTrainer(
        model,
        run.training,
        processing_class=processor,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        augmentation=augmentation,
    )
    train_and_save(run, trainer, resume=arguments.resume)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, such as examples/configs/demo.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in output_dir")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's")
    try:
        main(parser.parse_args())
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        sys.exit(f"train.py: {error}")
