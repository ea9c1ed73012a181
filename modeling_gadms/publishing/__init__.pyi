from .hub import check_push_target as check_push_target
from .hub import push_folder as push_folder
from .model import publish_model as publish_model
from .model_card import TrainingCost as TrainingCost
from .model_card import render_card as render_card
from .upload_folder import PublishReport as PublishReport
