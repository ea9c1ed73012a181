from .demo import CSS as CSS
from .demo import THEME as THEME
from .demo import Demo as Demo
