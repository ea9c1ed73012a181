"""One of several processes that train on a stream, then once more from the checkpoint of step 3.

    torchrun --nproc_per_node 2 tests/modeling_gadms/training/streaming_worker.py FOLDER FILE...

Writes into FOLDER/rank<N>.json which rows this process saw in each step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSProcessor
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.streaming import ParquetRows, StreamedPairs
from modeling_gadms.training.tokenizer import train_tokenizer
from modeling_gadms.training.trainer import GADMSTrainer, GADMSTrainingArguments


class Noting(GADMSTrainer):
    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.seen.append(inputs["image_indices"].tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)


def trainer(folder: Path, files: list[str]) -> Noting:
    tokenizer = train_tokenizer(["first second 0123456789"], vocab_size=520, max_length=12)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))
    torch.manual_seed(0)
    text = {
        "vocab_size": len(processor.tokenizer),
        "max_position_embeddings": 12,
        "bos_token_id": processor.tokenizer.bos_token_id,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
    }
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GADMSConfig(
        text_config=size | text,
        vision_config=size | {"image_size": (32, 16), "patch_size": 8},
        projection_dim=16,
        mask_token_id=processor.tokenizer.mask_token_id,
        score_layers=1,
        fusion_num_hidden_layers=1,
        fusion_num_attention_heads=2,
        fusion_intermediate_size=16,
    )
    arguments = GADMSTrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        save_steps=3,
        dataloader_num_workers=1,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = ParquetRows(files, DatasetColumns(person_id="person_id"), progress=False)
    made = Noting(
        GADMSForPreTraining(config),
        arguments,
        processing_class=processor,
        train_dataset=StreamedPairs(rows, shuffle_buffer=6),
    )
    made.seen = []
    return made


def main(folder: Path, files: list[str]) -> None:
    torch.set_num_threads(1)
    whole = trainer(folder, files)
    whole.train()
    norm = sum(parameter.norm().item() for parameter in whole.accelerator.unwrap_model(whole.model).parameters())
    resumed = trainer(folder, files)
    resumed.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-3"))
    report = {"world_size": whole.args.world_size, "whole": whole.seen, "resumed": resumed.seen, "norm": norm}
    (folder / f"rank{whole.args.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
