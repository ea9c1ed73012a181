from .fetch import fetch_images as fetch_images
from .fetch_process import FetchFailedError as FetchFailedError
from .fetch_settings import FetchReport as FetchReport
from .fetch_settings import FetchSettings as FetchSettings
from .opt_out_list import OptOutList as OptOutList
from .planning import SourceSettings as SourceSettings
from .planning import plan_shards as plan_shards
from .planning import read_shard as read_shard
