from .captions import hash_captions as hash_captions
from .captions import training_captions as training_captions
from .mining import MiningSettings as MiningSettings
from .mining import mine_templates as mine_templates
from .review import finish_templates as finish_templates
from .review import read_review as read_review
from .review import write_review as write_review
