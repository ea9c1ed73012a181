"""Pre-train or fine-tune GA-DMS, or an adapter of it, from a YAML file.

    accelerate launch examples/train.py --config examples/configs/demo.yaml
    accelerate launch examples/train.py --config examples/configs/webperson.yaml \\
        data.dataset_args.data_dir=/data/webperson
    accelerate launch examples/train.py --config examples/configs/finetune_benchmark.yaml \\
        model.from_pretrained=runs/webperson/model data.dataset_args.data_dir=/data/CUHK-PEDES
    python examples/train.py --config examples/configs/demo.yaml model.token_score=random training.max_steps=100

Arguments after the file override its settings, as `section.key=value`. The sections and their keys:

    model      from_pretrained, from_dual_encoder + image_size, or sizes for random weights; identity_classifier; and
               every field of GADMSConfig: token_score (gass | cosine | random | none), noise_masking,
               masked_token_prediction, alignment (sdm | itc), temperature, ... (modeling_gadms/configuration_gadms.py)
    data       dataset, dataset_args, splits, columns, captions_per_image, augmentation, streaming, shuffle_buffer,
               bad_rows (error | skip) (modeling_gadms/training/run_config.py)
    training   every field of transformers.TrainingArguments, and global_train_batch_size (over all processes),
               masking_start, contrastive_start, new_module_lr_multiplier (modeling_gadms/training/trainer.py)
    adapter    method (lora | dora), rank, alpha, dropout, encoders, targets, train_new_modules. With this section only
               an adapter of model.from_pretrained is trained and saved (modeling_gadms/training/adapters.py)

With data.person_id_column, all images and captions of a person match each other. Fine-tuning configurations also set
`model.identity_classifier: true`, which adds a classifier of the training persons and the identity loss. The persons
are counted, unless `model.num_identities` is given. Without either setting there is no classifier.

The model, its processor and code are written to <output_dir>/model: the best by the validation split with
`load_best_model_at_end: true`, else the last. A run whose loss becomes NaN or infinite stops, and saves no model.
`--resume` continues an interrupted run from its last checkpoint. On a CPU add `--num_cpu_threads_per_process 8` (your
cores) after `accelerate launch`, which uses one otherwise. Expected time: 9 minutes for the demo on two CPU cores; an
estimated 1.5 hours for CUHK-PEDES from CLIP ViT-B/16 on one A100.
"""

import argparse
import logging
import sys

from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from dataset_scripts.loading import load_chosen_splits, load_parquet_splits, parquet_files
from modeling_gadms.training.adapters import add_adapter
from modeling_gadms.training.data import PersonAugmentation
from modeling_gadms.training.footprint import describe_parameters
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import load_run_config, train_and_save
from modeling_gadms.training.run_data import load_run_data
from modeling_gadms.training.trainer import GADMSTrainer


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # 1. The run
    run = load_run_config(arguments.config, arguments.overrides)
    set_seed(run.training.seed)

    # 2. The data: rows in memory or on disk, or a stream of Parquet files
    loader = load_parquet_splits if run.data.streaming else load_chosen_splits
    data = load_run_data(run, load_splits=loader, parquet_files=parquet_files)
    if run.model.identity_classifier:
        run = run.with_identities(data.count_identities())

    # 3. The model and its processor
    model, processor = build_model_and_processor(run.model, data.captions())
    if run.adapter:
        model = add_adapter(model, run.adapter, run.model.from_pretrained)
    if run.training.process_index == 0:
        print(describe_parameters(model), flush=True)

    # 4. Pairs of images and captions
    train_dataset = data.training_pairs(processor, seed=run.training.seed)
    eval_dataset = data.validation_pairs()
    augmentation = PersonAugmentation(processor, crop_padding=run.data.crop_padding) if run.data.augmentation else None

    # 5. Training, which leaves the best or last model in <output_dir>/model
    trainer = GADMSTrainer(
        model,
        run.training,
        processing_class=processor,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        augmentation=augmentation,
    )
    train_and_save(run, trainer, resume=arguments.resume, skipped=data.skipped)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, such as examples/configs/demo.yaml")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in output_dir")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file")
    try:
        main(parser.parse_args())
    except (ValueError, OSError, ImportError, FloatingPointError, StrictDataclassError) as error:
        sys.exit(f"train.py: {error}")
