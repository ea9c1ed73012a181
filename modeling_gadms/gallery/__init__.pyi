from .contact_sheet import draw_contact_sheet as draw_contact_sheet
from .person_gallery import PersonGallery as PersonGallery
from .person_gallery import gallery_model as gallery_model
from .records import AddReport as AddReport
from .records import PersonRecord as PersonRecord
from .records import Query as Query
from .records import SearchResult as SearchResult
