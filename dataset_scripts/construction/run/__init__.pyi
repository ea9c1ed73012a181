from .config import BuildConfig as BuildConfig
from .config import load_build_config as load_build_config
from .merge import DifferentPartsError as DifferentPartsError
from .merge import merge_webperson as merge_webperson
from .pipeline import BuildReport as BuildReport
from .pipeline import build_webperson as build_webperson
