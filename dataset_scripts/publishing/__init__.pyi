from .dataset import publish_dataset as publish_dataset
from .dataset_card import DatasetCardSettings as DatasetCardSettings
