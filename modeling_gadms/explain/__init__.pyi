from .caption_tokens import Explanation as Explanation
from .caption_tokens import draw_explanation as draw_explanation
from .caption_tokens import explain_caption as explain_caption
from .image_patches import ImageRelevance as ImageRelevance
from .image_patches import draw_heat_map as draw_heat_map
from .image_patches import image_relevance as image_relevance
