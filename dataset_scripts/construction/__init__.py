"""The pipeline that turns web images into captioned persons: see `run/pipeline.py`."""
