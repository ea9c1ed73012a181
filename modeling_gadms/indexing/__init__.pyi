from .indexer import (
    IndexReport as IndexReport,
)
from .indexer import (
    SourceIndexer as SourceIndexer,
)
from .indexer import (
    SourceOptions as SourceOptions,
)
from .indexer import (
    index_frames as index_frames,
)
from .jobs import IndexJobs as IndexJobs
from .ray_indexing import index_with_ray as index_with_ray
from .sources import ArchiveReader as ArchiveReader
from .sources import RowReader as RowReader
from .sources import open_source as open_source
