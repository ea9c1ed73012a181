"""The pipeline that turns web images into captioned persons: see `pipeline.py`."""
