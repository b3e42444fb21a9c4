"""The public names, said once: for type checkers, and for the package, which imports each at its first use."""

from .app_state import AppState as AppState
from .app_state import SharedEmbedder as SharedEmbedder
from .launching import Address as Address
from .launching import private_environment as private_environment
from .launching import serve_page as serve_page
from .pages.page import build_page as build_page
