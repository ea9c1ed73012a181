from .app import create_app as create_app
from .limits import ServingLimits as ServingLimits
from .query_batching import QueryBatcher as QueryBatcher
