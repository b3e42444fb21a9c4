"""The state of the demo: what all visitors share, and what one visitor is doing. No page in here."""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data.archives import split_location
from hat.errors import HatError, UsageError
from hat.io.artifact import ArtifactInfo
from hat.runtime import TorchRuntime, runtime_info
from hat.serve import Binding, Filter, Gallery, Record, binding_of
from hat.serve.calibrate import ThresholdCalibration, calibrate_thresholds
from hat.serve.enroll.enrolling import ImageEmbedder
from hat.serve.gallery.identities import Identity
from hat.serve.gallery.person_crops import record_image
from hat.serve.search.query_embeddings import Query, rank_queries
from hat.serve.search.searching import CenteredGallery

from .people import SampleQuery
from .ranking import Outcome, QueryImage, SearchOptions
from .uploads import UPLOAD_LIMITS, Upload, UploadLimits, reduce_image
from .view.markup import jpeg_bytes, last_part

NEW_GALLERY_LIMIT = 8
"""Galleries that visitors may make or hand in while the demo runs."""

_TIMED_RUNS = 5

_MAX_KEPT_PICTURES = 500


@dataclass(eq=False)
class Session:
    """The state of one visitor's page; nothing of it is ever written to disk or shown to another."""

    queries: tuple[QueryImage, ...] = ()  # of one person
    query_pid: Identity | None = None
    query_camid: int | None = None
    photo: Upload | None = None  # a larger picture that waits to be cropped
    outcome: Outcome | None = None  # the last search
    chosen: int = 0  # the match that is looked at
    gallery: str = ""  # the one that this visitor works with
    marked: set[int] = field(default_factory=set)  # ids of records that are marked for removal
    removal: dict[str, Any] = field(default_factory=dict)  # what waits to be confirmed: arguments of `Gallery.remove`

    def forget_query(self) -> None:
        """Start over: no query, no result."""
        self.queries, self.query_pid, self.query_camid = (), None, None
        self.photo, self.outcome, self.chosen = None, None, 0


class SharedEmbedder:
    """A model or an exported file that visitors use one after the other, with the gallery pictures that it has embedded so far.

    Attributes:
        name: What it is called on the page.
        lock: To be held by whatever else runs the model: looking inside hangs hooks into it, and nothing may run it meanwhile.
        runtime: What runs it.
        preprocessing: How images become its input.
        rows: (gallery, record) -> embedding of the record's picture.
    """

    def __init__(self, embedder: ImageEmbedder, name: str = "") -> None:
        self.name = name
        self.lock, self._rows_lock = threading.RLock(), threading.Lock()
        self.runtime, self.preprocessing = embedder.runtime, embedder.preprocessing
        self.rows: dict[tuple[str, int], npt.NDArray[np.float32]] = {}
        self._embedder = embedder
        self._num_embedded, self._seconds = 0, 0.0

    @property
    def info(self) -> ArtifactInfo:
        """Metadata: precision, hash of the weights, fingerprint."""
        return runtime_info(self.runtime)

    @property
    def images_per_s(self) -> float | None:
        """Rate at which gallery pictures were embedded; None before there were any."""
        return self._num_embedded / self._seconds if self._num_embedded else None

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return (n, embed_dim) float32 unit rows."""
        with self.lock:
            return self._embedder.embed(images)

    def embed_query(self, images: Sequence[Image.Image]) -> tuple[npt.NDArray[np.float32], float]:
        """Return (n, embed_dim) unit rows of a query's images, and the median seconds of one of them alone."""
        with self.lock:
            rows = self.embed(images)
            times = [time.perf_counter()]
            for _ in range(_TIMED_RUNS):
                self.embed(images[:1])
                times.append(time.perf_counter())
        return rows, float(np.median(np.diff(times)))

    def embed_records(
        self,
        gallery: str,
        ids: Sequence[int],
        picture: Callable[[int], Image.Image],
        advance: Callable[[int, int], None] = lambda *_: None,
    ) -> npt.NDArray[np.float32]:
        """Return (n, embed_dim) unit rows of records' pictures; ``advance`` hears how many of those not embedded before are."""
        keys = [(gallery, record_id) for record_id in ids]
        with self._rows_lock:  # and not the model's, so that searches come between two batches
            missing = [key for key in keys if key not in self.rows]
            for start in range(0, len(missing), 16):
                batch = missing[start : start + 16]
                pictures = [picture(record_id) for _, record_id in batch]
                began = time.perf_counter()
                self.rows.update(zip(batch, self.embed(pictures), strict=True))
                self._seconds += time.perf_counter() - began
                self._num_embedded += len(batch)
                advance(start + len(batch), len(missing))
            return np.stack([self.rows[key] for key in keys])

    def forget(self, gallery: str) -> None:
        """Forget the embeddings of a gallery's pictures."""
        with self._rows_lock:
            self.rows = {key: row for key, row in self.rows.items() if key[0] != gallery}


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
    """

    model: str
    embedder: SharedEmbedder
    folder: Path
    samples: tuple[SampleQuery, ...] = ()
    others: tuple[SharedEmbedder, ...] = ()
    report_paths: tuple[Path, ...] = ()
    read_only: bool = False
    limits: UploadLimits = UPLOAD_LIMITS
    galleries: dict[str, Gallery] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _calibrations: dict[str, tuple[int, ThresholdCalibration | None]] = field(default_factory=dict, repr=False)
    _pictures: dict[tuple[str, int, int, int, int], bytes] = field(default_factory=dict, repr=False)  # of records' sources
    _centered: tuple[tuple[str, dict[int | None, bytes]], CenteredGallery] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.embedder.name = self.embedder.name or last_part(self.model)

    @property
    def artifacts(self) -> tuple[SharedEmbedder, ...]:
        """The model and the files to compare it with, the model first."""
        return (self.embedder, *self.others)

    @property
    def binding(self) -> Binding:
        """The model, as galleries are bound to it."""
        return binding_of(self.embedder.info)

    @property
    def first_gallery(self) -> str:
        """Name of the gallery that every visitor begins with."""
        return next(iter(self.galleries))

    def gallery(self, name: str) -> Gallery:
        """Return a gallery by its name, the first one where that is empty; a UsageError where there is none."""
        opened = self.galleries.get(name or self.first_gallery)
        if opened is None:
            raise UsageError("this gallery is not here any more: choose another one")
        return opened

    def inspectable(self) -> TorchRuntime | None:
        """Return the model as a network that can be looked into; None where an exported file runs."""
        runtime = self.embedder.runtime
        return runtime if isinstance(runtime, TorchRuntime) and not runtime.inference_graph and not runtime.compiled else None

    def query(self, upload: Upload) -> QueryImage:
        """Embed an image of the person who is looked for; one of many pixels is reduced first."""
        reduced = reduce_image(upload.image, self.limits.query_pixels)
        started = time.perf_counter()
        (embedding,) = self.embedder.embed([reduced])
        spent = time.perf_counter() - started
        return QueryImage(upload.name, reduced, jpeg_bytes(reduced), embedding, upload.decode_s, spent)

    def rank(self, name: str, queries: Sequence[QueryImage], options: SearchOptions) -> Outcome:
        """Rank a gallery for one person; several images are one query by their mean embedding.

        A UsageError where there is no query, the images have nothing in common, or no camera has a mean to subtract.
        """
        if not queries:
            raise UsageError("there is no query yet: give an image of a person, or take one of the examples")
        name = name or self.first_gallery
        gallery = self.gallery(name)
        camids = frozenset() if options.query_camid is None else frozenset({options.query_camid})
        spent: dict[str, float] = {}
        ((_, matches),) = rank_queries(
            self._center(name) if options.center_cameras else gallery,
            [Query(query.name, query.embedding, camids=camids) for query in queries],
            where=options.where,
            one_person=True,
            top=options.top,
            rerank=options.rerank,
            thumbnails=True,
            seconds=spent,
        )
        seconds = {
            "decode": sum(query.decode_s for query in queries),
            "embed": sum(query.embed_s for query in queries),
            "search": spent["search"] + spent["read"],
        }
        if options.rerank:
            seconds["re-rank"] = spent["rerank"]
        records = self.pictured(name, [match.record for match in matches])
        pictured = tuple(replace(match, record=record) for match, record in zip(matches, records, strict=True))
        return Outcome(name, pictured, seconds, len(gallery.ids(options.where)), options)

    def pictured(self, name: str, records: Sequence[Record]) -> list[Record]:
        """Return a gallery's records, with pictures of their sources where it keeps none and those are still there."""
        name = name or self.first_gallery
        bare = [record for record in records if record.thumbnail is None]
        if not bare or not self.is_kept(name):  # one that a visitor handed in must not say which files are read here
            return list(records)
        pictures = {record.id: self._source_picture(name, record) for record in bare}
        if len(self.gallery(name).get_present(list(pictures))) < len(pictures):  # removed meanwhile: none of them is kept
            self.forget_embeddings(name)
        return [replace(record, thumbnail=pictures[record.id]) if record.id in pictures else record for record in records]

    def is_kept(self, name: str) -> bool:
        """Return whether a gallery outlasts the demo."""
        return Path(self.gallery(name).location).parent != self.folder

    def forget_embeddings(self, name: str) -> None:
        """Forget what was made of a gallery's images, pictures included: some of them were removed."""
        name = name or self.first_gallery
        with self._lock:
            self._calibrations.pop(name, None)
            self._pictures = {key: picture for key, picture in self._pictures.items() if key[0] != name}
            if self._centered is not None and self._centered[0][0] == name:
                self._centered = None
        for artifact in self.artifacts:
            artifact.forget(name)

    def new_gallery(self, name: str) -> str:
        """Make an empty gallery in the private folder; visitors see it until the demo ends. Return its name."""
        name = " ".join(name.split())
        with self._lock:
            self._check_new_name(name)
            path = self.folder / f"made-{len(self.galleries)}.gallery"
            self.galleries[name] = Gallery.open(path, binding=self.binding, create=True)
        return name

    def import_gallery(self, path: Path) -> str:
        """Import a gallery file that a visitor handed in, where it is of this model. Return its name.

        A UsageError names the differences to a gallery of another model.
        """
        with self._lock:
            name = path.stem if path.stem not in self.galleries else f"{path.stem} ({len(self.galleries)})"
            self._check_new_name(name)
            imported = self.folder / f"imported-{len(self.galleries)}.gallery"
            shutil.copyfile(path, imported)
            try:
                self.galleries[name] = Gallery.open(imported, binding=self.binding)
            except HatError as error:
                for file in self.folder.glob(f"{imported.name}*"):
                    file.unlink()
                # People know the file by the name that it came with.
                raise type(error)(str(error).replace(str(imported), path.name)) from None
        return name

    def calibration(self, name: str) -> ThresholdCalibration | None:
        """Return what similarities mean in a gallery, computed again when it grows; None where it knows too few identities."""
        name = name or self.first_gallery
        gallery = self.gallery(name)
        num_records = len(gallery)
        with self._lock:
            if self._calibrations.get(name, (-1, None))[0] != num_records:
                try:
                    calibrated = calibrate_thresholds(gallery, num_pairs=50_000)
                except UsageError:
                    calibrated = None
                self._calibrations[name] = (num_records, calibrated)
            return self._calibrations[name][1]

    def close(self) -> None:
        """Close the galleries."""
        for gallery in self.galleries.values():
            gallery.close()

    def _source_picture(self, name: str, record: Record) -> bytes | None:
        """Return a JPEG of a record's source, made once while the file is the same; None where it is gone or another image."""
        try:
            status = Path((split_location(record.source) or (record.source,))[0]).stat()
        except (OSError, ValueError):
            return None
        key = name, record.id, status.st_mtime_ns, status.st_ctime_ns, status.st_size
        picture = self._pictures.get(key)
        if picture is None and (image := record_image(record)) is not None:
            picture = jpeg_bytes(image)
            with self._lock:
                self._pictures[key] = picture
                while len(self._pictures) > _MAX_KEPT_PICTURES:
                    del self._pictures[next(iter(self._pictures))]
        return picture

    def _center(self, name: str) -> CenteredGallery:
        """Return a gallery without its cameras' means; the last one is kept until other records stand in its cameras."""
        gallery = self.gallery(name)
        camids = [camid for camid in gallery.counts().by_camid if camid is not None]
        seen: dict[int | None, bytes] = {camid: gallery.ids(Filter(camids=frozenset({camid}))).tobytes() for camid in camids}
        key = name, seen | {None: gallery.ids().tobytes()}
        with self._lock:
            if self._centered is None or self._centered[0] != key:
                self._centered = None  # two of them need not be in memory at once
                self._centered = key, CenteredGallery(gallery)
            return self._centered[1]

    def _check_new_name(self, name: str) -> None:
        if not 1 <= len(name) <= 60:
            raise UsageError("a gallery's name has 1 to 60 characters")
        if name in self.galleries:
            raise UsageError(f"there is a gallery {name} already: take another name")
        if self.read_only:
            raise UsageError("this demo is read-only: nothing can be added")
        if len(self.galleries) > NEW_GALLERY_LIMIT:
            raise UsageError(f"there are {NEW_GALLERY_LIMIT} galleries besides the first one already: no more are taken")
