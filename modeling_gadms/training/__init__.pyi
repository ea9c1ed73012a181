from .adapters import AdapterArguments as AdapterArguments
from .adapters import add_adapter as add_adapter
from .adapters import merge_adapter as merge_adapter
from .data import (
    DatasetColumns as DatasetColumns,
)
from .data import (
    ImageCaptionPairs as ImageCaptionPairs,
)
from .data import (
    PairCollator as PairCollator,
)
from .data import (
    PersonAugmentation as PersonAugmentation,
)
from .data import (
    cache_pixels as cache_pixels,
)
from .footprint import describe_parameters as describe_parameters
from .history import read_training_history as read_training_history
from .model_setup import build_model_and_processor as build_model_and_processor
from .run_config import RunConfig as RunConfig
from .run_config import load_run_config as load_run_config
from .run_config import train_and_save as train_and_save
from .run_data import RunData as RunData
from .run_data import load_run_data as load_run_data
from .streaming import ParquetRows as ParquetRows
from .streaming import StreamedPairs as StreamedPairs
from .tokenizer import train_tokenizer as train_tokenizer
from .trainer import GADMSTrainer as GADMSTrainer
from .trainer import GADMSTrainingArguments as GADMSTrainingArguments
