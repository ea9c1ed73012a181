from .sample_sheet import draw_sample_sheet as draw_sample_sheet
from .splits import Inspection as Inspection
from .splits import inspect_splits as inspect_splits
