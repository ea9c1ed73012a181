from .loading import find_benchmarks as find_benchmarks
from .loading import load_parquet_splits as load_parquet_splits
from .loading import load_splits as load_splits
from .loading import parquet_files as parquet_files
from .synthetic_persons import load_synthetic_persons as load_synthetic_persons
from .synthetic_releases import ReleaseSizes as ReleaseSizes
from .synthetic_releases import write_synthetic_releases as write_synthetic_releases
