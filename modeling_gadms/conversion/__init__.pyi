from .converter import convert as convert
from .onnx_export import export_onnx as export_onnx
from .openai_export import export_checkpoint as export_checkpoint
from .reports import ConversionReport as ConversionReport
from .reports import ExportReport as ExportReport
