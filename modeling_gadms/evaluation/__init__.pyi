from .reports import AggregatedReport as AggregatedReport
from .reports import aggregate_records as aggregate_records
from .reports import make_record as make_record
from .reports import read_records as read_records
from .retrieval import RetrievalReport as RetrievalReport
from .retrieval import evaluate_retrieval as evaluate_retrieval
