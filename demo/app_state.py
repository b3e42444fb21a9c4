"""The state of the demo: what all visitors share, and what one visitor is doing. No page in here."""

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.embedder import Embedder
from hat.errors import HatError, UsageError
from hat.runtime import TorchRuntime, runtime_info
from hat.serve import Binding, Gallery, binding_of
from hat.serve.calibrate import ThresholdCalibration, calibrate_thresholds
from hat.serve.gallery.identities import Identity

from .comparison import Artifact
from .people import SampleQuery
from .ranking import Outcome, QueryImage
from .uploads import UPLOAD_LIMITS, Upload, UploadLimits, reduce_image
from .view.markup import jpeg_bytes, last_part

NEW_GALLERY_LIMIT = 8
"""Galleries that visitors may make or hand in while the demo runs."""


@dataclass(eq=False)
class Session:
    """The state of one visitor's page; nothing of it is ever written to disk or shown to another.

    Attributes:
        queries: Images of one person.
        query_pid: Identity of the query, where it is known.
        query_camid: Camera of the query, where it is known.
        photo: A larger picture that waits to be cropped.
        outcome: The last search.
        chosen: Which match is looked at, from 0.
        gallery: Name of the gallery that this visitor works with.
        marked: Ids of the records that are marked for removal.
        removal: What waits to be confirmed: keyword arguments of `Gallery.remove`.
    """

    queries: tuple[QueryImage, ...] = ()
    query_pid: Identity | None = None
    query_camid: int | None = None
    photo: Upload | None = None
    outcome: Outcome | None = None
    chosen: int = 0
    gallery: str = ""
    marked: set[int] = field(default_factory=set)
    removal: dict[str, Any] = field(default_factory=dict)

    def forget_query(self) -> None:
        """Start over: no query, no result."""
        self.queries, self.query_pid, self.query_camid = (), None, None
        self.photo, self.outcome, self.chosen = None, None, 0


class SharedEmbedder:
    """A model that several visitors use, one after the other.

    Args:
        embedder: The model.

    Attributes:
        lock: To be held by whatever else runs the model: looking inside hangs hooks into it, and nothing may run it meanwhile.
        runtime: What runs it.
        preprocessing: How images become its input.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.lock = threading.RLock()
        self.runtime, self.preprocessing = embedder.runtime, embedder.preprocessing
        self._embedder = embedder

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return (n, embed_dim) float32 unit rows."""
        with self.lock:
            return self._embedder.embed(images)


@dataclass(eq=False)
class AppState:
    """The state that visitors share. Calls may come from several threads.

    Attributes:
        model: Path or address of the model that the demo was opened with.
        embedder: The same, open.
        folder: A private folder for galleries that are made while the demo runs; it goes when the demo ends.
        samples: Queries to try.
        others: Files to compare the model with.
        report_paths: Files and folders with reports.
        read_only: Whether enrolling and removing are refused.
        limits: What a visitor may hand in.
        galleries: Name -> gallery; the first is the one that every visitor begins with.
        artifacts: The model and the files to compare it with, the model first.
    """

    model: str
    embedder: SharedEmbedder
    folder: Path
    samples: tuple[SampleQuery, ...] = ()
    others: tuple[Artifact, ...] = ()
    report_paths: tuple[Path, ...] = ()
    read_only: bool = False
    limits: UploadLimits = UPLOAD_LIMITS
    galleries: dict[str, Gallery] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = field(init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _calibrations: dict[str, tuple[int, ThresholdCalibration | None]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.artifacts = (Artifact(last_part(self.model), self.embedder), *self.others)

    @property
    def binding(self) -> Binding:
        """The model, as galleries are bound to it."""
        return binding_of(runtime_info(self.embedder.runtime))

    @property
    def first_gallery(self) -> str:
        """Name of the gallery that every visitor begins with."""
        return next(iter(self.galleries))

    def gallery(self, name: str) -> Gallery:
        """Return a gallery by its name.

        Raises:
            UsageError: There is none of that name.
        """
        found = self.galleries.get(name or self.first_gallery)
        if found is None:
            raise UsageError("this gallery is not here any more: choose another one")
        return found

    def inspectable(self) -> TorchRuntime | None:
        """Return the model as a network that can be looked into; None where an exported file runs."""
        runtime = self.embedder.runtime
        return runtime if isinstance(runtime, TorchRuntime) and not runtime.inference_graph and not runtime.compiled else None

    def query(self, upload: Upload) -> QueryImage:
        """Embed an image of the person who is looked for; one of many pixels is reduced first."""
        kept = reduce_image(upload.image, self.limits.query_pixels)
        started = time.perf_counter()
        (embedding,) = self.embedder.embed([kept])
        spent = time.perf_counter() - started
        return QueryImage(upload.name, kept, jpeg_bytes(kept), embedding, upload.decode_s, spent)

    def is_kept(self, name: str) -> bool:
        """Return whether a gallery outlasts the demo."""
        return Path(self.gallery(name).location).parent != self.folder

    def forget_embeddings(self, name: str) -> None:
        """Forget what was worked out of a gallery's images: some of them were removed."""
        name = name or self.first_gallery
        with self._lock:
            self._calibrations.pop(name, None)
        for artifact in self.artifacts:
            artifact.forget(name)

    def new_gallery(self, name: str) -> str:
        """Make an empty gallery in the private folder; visitors see it until the demo ends. Return its name.

        Raises:
            UsageError: The name is empty, too long or taken, or there are enough galleries.
        """
        name = " ".join(name.split())
        with self._lock:
            self._check_new_name(name)
            path = self.folder / f"made-{len(self.galleries)}.gallery"
            self.galleries[name] = Gallery.open(path, binding=self.binding, create=True)
        return name

    def import_gallery(self, path: Path) -> str:
        """Import a gallery file that a visitor handed in, where it is of this model. Return its name.

        Raises:
            UsageError: It is not a gallery, it is of another model (the differences are named), or there are enough.
        """
        with self._lock:
            name = path.stem if path.stem not in self.galleries else f"{path.stem} ({len(self.galleries)})"
            self._check_new_name(name)
            kept = self.folder / f"imported-{len(self.galleries)}.gallery"
            shutil.copyfile(path, kept)
            try:
                self.galleries[name] = Gallery.open(kept, binding=self.binding)
            except HatError as error:
                for file in self.folder.glob(f"{kept.name}*"):
                    file.unlink()
                # People know the file by the name that it came with.
                raise type(error)(str(error).replace(str(kept), path.name)) from None
        return name

    def calibration(self, name: str) -> ThresholdCalibration | None:
        """Return what similarities mean in a gallery, computed again when it grows; None where it knows too few identities."""
        name = name or self.first_gallery
        gallery = self.gallery(name)
        num_records = len(gallery)
        with self._lock:
            if self._calibrations.get(name, (-1, None))[0] != num_records:
                try:
                    found = calibrate_thresholds(gallery, num_pairs=50_000)
                except UsageError:
                    found = None
                self._calibrations[name] = (num_records, found)
            return self._calibrations[name][1]

    def close(self) -> None:
        """Close the galleries."""
        for gallery in self.galleries.values():
            gallery.close()

    def _check_new_name(self, name: str) -> None:
        if not 1 <= len(name) <= 60:
            raise UsageError("a gallery's name has 1 to 60 characters")
        if name in self.galleries:
            raise UsageError(f"there is a gallery {name} already: take another name")
        if self.read_only:
            raise UsageError("this demo is read-only: nothing can be added")
        if len(self.galleries) > NEW_GALLERY_LIMIT:
            raise UsageError(f"there are {NEW_GALLERY_LIMIT} galleries besides the first one already: no more are taken")
