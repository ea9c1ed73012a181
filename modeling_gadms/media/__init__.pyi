from .detection import (
    PersonBox as PersonBox,
)
from .detection import (
    PersonBoxFilter as PersonBoxFilter,
)
from .detection import (
    PersonDetector as PersonDetector,
)
from .detection import (
    SsdMobileNetDetector as SsdMobileNetDetector,
)
from .detection import (
    crop_person as crop_person,
)
from .drawing import hide_head as hide_head
from .images import UnreadableImageError as UnreadableImageError
from .images import load_image as load_image
from .images import to_jpeg as to_jpeg
from .tracking import PersonTracker as PersonTracker
from .video import Frame as Frame
from .video import FrameReader as FrameReader
