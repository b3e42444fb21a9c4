"""The public names, said once: for type checkers, and for the package, which imports each at its first use."""

from .calibrate import ThresholdCalibration as ThresholdCalibration
from .calibrate import calibrate_thresholds as calibrate_thresholds
from .enroll.enrolling import Enrollment as Enrollment
from .enroll.enrolling import enroll_images as enroll_images
from .enroll.items import Item as Item
from .gallery.binding import Binding as Binding
from .gallery.binding import CompatibleModel as CompatibleModel
from .gallery.binding import binding_of as binding_of
from .gallery.gallery import Gallery as Gallery
from .gallery.gallery import StoredType as StoredType
from .gallery.records import Filter as Filter
from .gallery.records import GalleryCounts as GalleryCounts
from .gallery.records import Neighbors as Neighbors
from .gallery.records import NewRecord as NewRecord
from .gallery.records import Record as Record
from .gallery.records import RecordLabels as RecordLabels
from .gallery.records import RecordPage as RecordPage
from .milvus.gallery import MilvusGallery as MilvusGallery
from .search.searching import Match as Match
from .search.searching import person_embedding as person_embedding
from .search.searching import search_gallery as search_gallery
from .sqlite.gallery import SqliteGallery as SqliteGallery
