"""The public names, said once: for type checkers, and for the package, which imports each at its first use."""

from .admission import ServiceSettings as ServiceSettings
from .audit import AuditLog as AuditLog
from .gallery_registry import GalleryRegistry as GalleryRegistry
from .ingress import SameOriginMiddleware as SameOriginMiddleware
from .ingress import allowed_hosts as allowed_hosts
from .keys import KeyFile as KeyFile
from .keys import KeyRing as KeyRing
from .server import create_app as create_app
from .service import Service as Service
