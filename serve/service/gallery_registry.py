"""The galleries of a service by name, which is all that a client ever says: no other part of a request takes part in a path."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from hat.errors import UsageError

from ..gallery.binding import Binding
from ..gallery.gallery import Gallery
from .api_error import ApiError

logger = logging.getLogger("hat.serve")

GALLERY_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
_ENDING = ".gallery"


def is_gallery_name(name: str) -> bool:
    """Return whether a gallery may be called so."""
    return re.fullmatch(GALLERY_NAME, name) is not None


def parse_gallery(text: str) -> tuple[str, str]:
    """Split a gallery as it is typed, ``NAME=PLACE`` or only the place that it is called after: (name, place)."""
    name, equals, location = text.partition("=")
    if equals and is_gallery_name(name) and location:
        return name, location
    name = text.partition("?")[0].rstrip("/").rpartition("/")[2] if "://" in text else Path(text).stem
    if not is_gallery_name(name):
        raise UsageError(  # not the whole of the place, which may hold a password
            f"{name!r} cannot be a gallery's name over HTTP (small letters, digits, - and _, at most 63): give one, NAME=PLACE"
        )
    return name, text


class GalleryRegistry:
    """Open galleries by name, all of the model of ``binding``, which it closes in the end.

    Args:
        root: Folder in which galleries can be made; None allows none.
        max_galleries: Most galleries, those made over HTTP included.
    """

    def __init__(
        self, galleries: Mapping[str, Gallery], binding: Binding, *, root: Path | None = None, max_galleries: int = 256
    ) -> None:
        self._binding = binding
        self._galleries = dict(galleries)
        self._root = root
        self._max_galleries = max_galleries
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        places: Mapping[str, str],
        binding: Binding,
        *,
        root: Path | None = None,
        read_only: bool = False,
        max_galleries: int = 256,
    ) -> GalleryRegistry:
        """Open galleries by name and path or URI, and those that lie in ``root``; with ``read_only`` every change is refused.

        Raises:
            UsageError: A gallery is missing, of another model or not a gallery; a name is there twice; the folder is missing.
            WorkError: A gallery cannot be opened.
        """
        places = dict(places)
        if root is not None:
            root = root.expanduser()
            if not root.is_dir():
                raise UsageError(f"--gallery-root {root}: expected a folder that is there")
            for path in sorted(root.glob(f"*{_ENDING}")):
                if path.stem in places:
                    raise UsageError(f"two galleries are called {path.stem!r}: {path} and another; name them, NAME=PLACE")
                if is_gallery_name(path.stem):
                    places[path.stem] = str(path)
                elif path not in map(Path, places.values()):
                    logger.warning(
                        "%s is left out: its name cannot be a gallery's over HTTP; rename it, or give NAME=%s", path, path
                    )
        if len(places) > max_galleries:
            raise UsageError(f"{len(places)} galleries are more than the {max_galleries} that a service may have")
        with ExitStack() as opened:
            galleries = {}
            for name, place in places.items():
                galleries[name] = opened.enter_context(Gallery.open(place, binding=binding, read_only=read_only))
                galleries[name].prepare()
            opened.pop_all()
        return cls(galleries, binding, root=None if read_only else root, max_galleries=max_galleries)

    def names(self) -> list[str]:
        """Return the galleries' names, sorted."""
        return sorted(self._galleries)

    def get(self, name: str) -> Gallery:
        """Return a gallery by its name, or raise an `ApiError`."""
        gallery = self._galleries.get(name)
        if gallery is None:
            raise ApiError(404, "there is no gallery of this name: GET /v1/galleries lists them")
        return gallery

    def hide_locations(self, message: str) -> str:
        """Return a message with names of galleries in place of their paths and URIs, which no client may see."""
        for name, gallery in self._galleries.items():
            message = message.replace(gallery.location, name)
        return message

    def create(self, name: str) -> Gallery:
        """Create a gallery for the service's model; an `ApiError` where that is not allowed or the name is taken."""
        if not is_gallery_name(name):
            raise ApiError(422, "a gallery's name is 1 to 63 small letters, digits, - and _, the first no - or _")
        if self._root is None:
            raise ApiError(403, "galleries cannot be made over HTTP here: the service was started without --gallery-root")
        with self._lock:
            path = self._root / f"{name}{_ENDING}"
            if name in self._galleries or path.exists():
                raise ApiError(409, "there is a gallery of this name already")
            if len(self._galleries) >= self._max_galleries:
                raise ApiError(409, f"there are {self._max_galleries} galleries already, and no more are allowed")
            gallery = Gallery.open(path, binding=self._binding, create=True)
            # A new dictionary, since others may be looking through the old one in another thread.
            self._galleries = {**self._galleries, name: gallery}
        return gallery

    def close(self) -> None:
        """Close all of them."""
        for gallery in self._galleries.values():
            gallery.close()
