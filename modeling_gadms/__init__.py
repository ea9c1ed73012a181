"""Text-based person retrieval with GA-DMS, native to Hugging Face.

Importing this package registers the model with `AutoConfig`, `AutoModel`, `AutoModelForPreTraining`,
`AutoModelForZeroShotImageClassification` and `AutoProcessor`.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from .configuration_gadms import GADMSConfig
from .modeling_gadms import GADMSForPreTraining, GADMSModel
from .processing_gadms import GADMSProcessor


__version__ = "0.1.0"

AutoConfig.register(GADMSConfig.model_type, GADMSConfig)
AutoModel.register(GADMSConfig, GADMSModel)
AutoModelForPreTraining.register(GADMSConfig, GADMSForPreTraining)
AutoModelForZeroShotImageClassification.register(GADMSConfig, GADMSModel)
AutoProcessor.register(GADMSConfig, GADMSProcessor)

# `save_pretrained` copies the code next to the weights, so that a folder also loads without this package.
GADMSConfig.register_for_auto_class()
GADMSModel.register_for_auto_class("AutoModel")
GADMSForPreTraining.register_for_auto_class("AutoModelForPreTraining")
GADMSProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["GADMSConfig", "GADMSForPreTraining", "GADMSModel", "GADMSProcessor"]
