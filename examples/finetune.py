"""Fine-tune GA-DMS, or plain CLIP, on a benchmark or on your own captions of known persons.

    accelerate launch examples/finetune.py --config examples/configs/finetune_cuhk_pedes.yaml \\
        model.from_pretrained=runs/webperson/model data.dataset_args.data_dir=/data/CUHK-PEDES
    python examples/finetune.py --config examples/configs/finetune_rstpreid.yaml \\
        model.from_clip=openai/clip-vit-base-patch16 data.dataset_args.data_dir=/data/RSTPReid
    accelerate launch examples/finetune.py --config examples/configs/finetune_cuhk_pedes_lora.yaml \\
        model.from_pretrained=runs/webperson/model data.dataset_args.data_dir=/data/CUHK-PEDES

The same run files and overrides as examples/train.py. What fine-tuning adds: persons are known, so that all captions
and images of a person belong together, and a classifier tells the training persons apart (SDM + MTP + identity loss).
Its size is counted here; `model.identity_weight=0` takes its loss out. The model kept in <output_dir>/model is the
best of the validation split where the run file says `load_best_model_at_end: true`; test splits are for
examples/evaluate.py alone. A run that was cut off goes on with `--resume`.

With a section `adapter` (finetune_cuhk_pedes_lora.yaml) the base stays as it is, and <output_dir>/model holds the
adapter alone, which examples/evaluate.py and `gadms index` take as they take a model.

Expected time, an estimate: 1.5 hours for CUHK-PEDES from CLIP ViT-B/16 on one A100, 60 epochs.
"""

import argparse
import logging
import sys
from dataclasses import replace

from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from dataset_scripts.loading import choose_split, load_splits
from modeling_gadms.training.adapters import add_adapter
from modeling_gadms.training.data import ImageCaptionPairs, PersonAugmentation, cache_pixels
from modeling_gadms.training.footprint import describe_parameters
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import load_run_config, train_and_save
from modeling_gadms.training.trainer import GADMSTrainer


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # 1. The run
    run = load_run_config(arguments.config, arguments.overrides)
    columns = run.data.columns
    if columns.person_id is None:
        raise ValueError("fine-tuning needs to know the persons: name their column as data.person_id_column")
    if run.data.streaming:
        raise ValueError("fine-tuning goes over a data set many times: leave data.streaming to examples/train.py")
    set_seed(run.training.seed)

    # 2. The data; one process prepares it, the others wait and read it
    with run.training.main_process_first(desc="data set"):
        splits = load_splits(run.data.dataset, **run.data.dataset_args)
    train_rows = choose_split(run.data.dataset, splits, run.data.train_split)
    validation_rows = None
    if run.data.validation_split and run.training.eval_strategy != "no":
        validation_rows = choose_split(run.data.dataset, splits, run.data.validation_split)
    pairs = ImageCaptionPairs(
        train_rows, columns, captions_per_image=run.data.captions_per_image, seed=run.training.seed
    )

    # 3. The model, with a classifier of the training persons
    fields = {"num_identities": pairs.num_identities} | run.model.config
    run = replace(run, model=replace(run.model, config=fields))
    model, processor = build_model_and_processor(run.model, columns.captions_of(train_rows))
    if run.adapter:
        model = add_adapter(model, run.adapter, run.model.from_pretrained)
    if run.training.process_index == 0:
        print(describe_parameters(model), flush=True)
    if run.data.cache_images:
        pairs.pixel_cache = cache_pixels(train_rows, columns, processor)
    eval_dataset = None
    if validation_rows is not None:
        # Every caption of a validation image is a query.
        eval_dataset = ImageCaptionPairs(validation_rows, columns, captions_per_image="all")
    augmentation = PersonAugmentation(processor, crop_padding=run.data.crop_padding) if run.data.augmentation else None

    # 4. Training, and the best or last model in <output_dir>/model
    trainer = GADMSTrainer(
        model,
        run.training,
        processing_class=processor,
        train_dataset=pairs,
        eval_dataset=eval_dataset,
        augmentation=augmentation,
    )
    train_and_save(run, trainer, resume=arguments.resume)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, such as examples/configs/finetune_cuhk_pedes.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in output_dir")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's")
    try:
        main(parser.parse_args())
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        sys.exit(f"finetune.py: {error}")
