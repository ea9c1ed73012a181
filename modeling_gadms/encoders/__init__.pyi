from .encoding import encode_captions as encode_captions
from .encoding import encode_images as encode_images
from .fingerprint import model_fingerprint as model_fingerprint
from .fingerprint import preprocessing_fingerprint as preprocessing_fingerprint
from .loading import load_model_and_processor as load_model_and_processor
from .onnx_model import OnnxModel as OnnxModel
