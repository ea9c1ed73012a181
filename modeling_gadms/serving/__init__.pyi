from .app import create_app as create_app
from .authentication import AuthenticationMiddleware as AuthenticationMiddleware
from .limits import ServingLimits as ServingLimits
from .query_batching import QueryBatcher as QueryBatcher
