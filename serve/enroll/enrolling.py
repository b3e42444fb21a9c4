"""Enrollment: from a stream of images to records that last, in bounded memory, and again without harm."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data.images import decode_image
from hat.data.loading import map_in_order
from hat.errors import ImageError, UsageError
from hat.preprocessing import Preprocessing
from hat.runtime import Runtime, runtime_info

from ..gallery.binding import binding_of
from ..gallery.gallery import Gallery
from ..gallery.identities import Identity
from ..gallery.person_crops import BOX_ATTRIBUTE, Box, box_text, content_hash, crop_person, make_thumbnail
from ..gallery.record_checks import checked_records
from ..gallery.records import AttributeValue, NewRecord, Record, RecordLabels

_UNIT_ITEMS = 8
"""Images that one thread prepares at a time."""

_UNIT_BYTES = 32 * 2**20
"""Encoded bytes after which a thread asks what is enrolled already, instead of reading on."""

_WORKERS, _UNITS_AHEAD = 2, 6

_MAX_IDLE = 1024
"""Images without work for the model after which a batch is closed all the same."""


class ImageEmbedder(Protocol):
    """What makes embeddings of images: a `hat.Embedder`, or anything that stands for one.

    Attributes:
        preprocessing: How images become the model's input.
        runtime: What runs the model.
    """

    preprocessing: Preprocessing
    runtime: Runtime

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return (n, embed_dim) float32 unit rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image that is to be enrolled.

    Attributes:
        source: How it is called for people; a path that can still be read later lets a gallery be rebuilt.
        read: Gives its encoded bytes (JPEG, PNG, WebP or BMP); an `ImageError` says why it cannot.
        box: The person within a larger picture; None where the picture is of the person.
        pid: Identity, where it is known.
        camid: Camera, where it is known.
        time_s: When the person was seen, in seconds since 1970 (UTC), where it is known.
        attributes: Anything else, by name.
        enrolled_s: When it was enrolled before, in seconds since 1970 (UTC); None is now.
    """

    source: str
    read: Callable[[], bytes]
    box: Box | None = None
    pid: Identity | None = None
    camid: int | None = None
    time_s: float | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    enrolled_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Enrollment:
    """What came of an enrollment.

    Attributes:
        ids: Of the images that were added or known already, in the order of the items.
        num_added: Images that are new in the gallery.
        num_known: Images that it had already.
        num_updated: Of these, images whose labels were changed to those that were given.
        conflicts: (source, reason) of known images that have other labels than those that were given, and kept them.
        bad: (source, reason) of the images that cannot be used.
    """

    ids: tuple[int, ...]
    num_added: int
    num_known: int
    bad: tuple[tuple[str, str], ...]
    num_updated: int = 0
    conflicts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Prepared:
    """An item that was read: its image at the model's size, unless it is known already or bad."""

    item: Item
    content_hash: str = ""
    image: Image.Image | None = None
    record: NewRecord | None = None
    reason: str | None = None


def enroll_images(
    gallery: Gallery,
    embedder: ImageEmbedder,
    items: Iterable[Item],
    *,
    batch_size: int = 32,
    thumbnail_height: int | None = None,
    update: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Enrollment:
    """Add images to a gallery.

    Items are taken as they are needed, read and decoded by threads ahead of the model, and written batch by batch: what was
    written stays whatever happens later, and enrolling the same images again adds only those that are missing. Images that are
    enrolled already are told by the hash of their bytes, before the model runs.

    Args:
        gallery: Where to.
        embedder: The model; it must be the gallery's own.
        items: The images, any number of them.
        batch_size: Images that are embedded and written at once.
        thumbnail_height: Height in pixels of a small picture that is kept with each record; None keeps none.
        update: Give known images the labels of their items; otherwise they keep those that they have, and where these are
            others it is a conflict.
        progress: Called in the caller's thread with the number of items that are done with since its last call.

    Returns:
        What was added, what was known, and what could not be used.

    Raises:
        UsageError: The gallery is of another model or read-only, or a number is out of range.
        WorkError: The gallery cannot be written.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is at least 1, got {batch_size}")
    if thumbnail_height is not None and not 16 <= thumbnail_height <= 1024:
        raise UsageError(f"a thumbnail is 16 to 1024 pixels high, got {thumbnail_height}")
    gallery.check_model(binding_of(runtime_info(embedder.runtime)))

    def prepare(unit: list[Item]) -> list[_Prepared]:
        return list(_prepare(gallery, embedder.preprocessing, unit, thumbnail_height))

    tally = _Tally()
    # Closed by hand, so that the threads end with this call also where it raises.
    with closing(map_in_order(prepare, _units(items), num_workers=_WORKERS, window=_UNITS_AHEAD)) as units:
        for batch in _batches(units, batch_size):
            _add(gallery, embedder, batch, tally, update=update)
            if progress is not None:
                progress(len(batch))
    return tally.result()


@dataclass
class _Tally:
    """What was done so far."""

    ids: list[int] = field(default_factory=list)
    num_added: int = 0
    num_known: int = 0
    num_updated: int = 0
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def result(self) -> Enrollment:
        return Enrollment(
            ids=tuple(self.ids),
            num_added=self.num_added,
            num_known=self.num_known,
            num_updated=self.num_updated,
            conflicts=tuple(self.conflicts),
            bad=tuple(self.bad),
        )


def _units(items: Iterable[Item]) -> Iterator[list[Item]]:
    stream = iter(items)
    while unit := list(islice(stream, _UNIT_ITEMS)):
        yield unit


def _prepare(
    gallery: Gallery, preprocessing: Preprocessing, unit: list[Item], thumbnail_height: int | None
) -> Iterator[_Prepared]:
    """Read a unit of items and decode those that are not enrolled yet; encoded bytes are held a bounded number at a time."""
    read: list[tuple[Item, bytes | ImageError]] = []
    held = 0
    for place, item in enumerate(unit):
        try:
            data: bytes | ImageError = item.read()
        except ImageError as error:
            data = error
        read.append((item, data))
        held += len(data) if isinstance(data, bytes) else 0
        if held < _UNIT_BYTES and place + 1 < len(unit):
            continue
        hashes = [content_hash(data, item.box) if isinstance(data, bytes) else "" for item, data in read]
        known = gallery.ids_by_hash({one for one in hashes if one})
        for (one, data), digest in zip(read, hashes, strict=True):
            if isinstance(data, ImageError):
                yield _Prepared(one, reason=_reason(one, data))
            elif digest in known:
                yield _Prepared(one, digest)
            else:
                yield _decode(one, data, digest, preprocessing, thumbnail_height)
        read, held = [], 0


def _decode(item: Item, data: bytes, digest: str, preprocessing: Preprocessing, thumbnail_height: int | None) -> _Prepared:
    try:
        image = decode_image(data, item.source)
        if item.box is not None:
            image = crop_person(image, item.box, item.source)
    except ImageError as error:
        return _Prepared(item, reason=_reason(item, error))
    thumbnail = make_thumbnail(image, thumbnail_height) if thumbnail_height is not None else None
    try:
        # Here and not when it is written: one label that no gallery takes must not cost a batch.
        (record,) = checked_records([_new_record(item, digest, thumbnail)], 1)
    except UsageError as error:
        return _Prepared(item, reason=_reason(item, error))
    # At the model's size already, so that many may wait; resizing it once more changes nothing.
    return _Prepared(item, digest, Image.fromarray(preprocessing.resize_image(image)), record)


def _reason(item: Item, error: ImageError | UsageError) -> str:
    return str(error).removeprefix(f"{item.source}: ")


def _batches(units: Iterable[list[_Prepared]], batch_size: int) -> Iterator[list[_Prepared]]:
    """Group what was prepared so that a group has at most ``batch_size`` images for the model, and is never endless."""
    batch: list[_Prepared] = []
    num_images = 0
    for unit in units:
        for one in unit:
            batch.append(one)
            num_images += one.image is not None
            if num_images == batch_size or len(batch) >= batch_size + _MAX_IDLE:
                yield batch
                batch, num_images = [], 0
    if batch:
        yield batch


def _add(gallery: Gallery, embedder: ImageEmbedder, batch: list[_Prepared], tally: _Tally, *, update: bool) -> None:
    # Asked again: the same image may have been read twice before it was written once.
    ids = gallery.ids_by_hash({one.content_hash for one in batch if one.reason is None})
    new: dict[str, _Prepared] = {}
    for one in batch:
        if one.image is not None and one.content_hash not in ids:
            new.setdefault(one.content_hash, one)
    if new:
        embeddings = embedder.embed([one.image for one in new.values() if one.image is not None])
        added = gallery.add(embeddings, [one.record for one in new.values() if one.record is not None])
        ids |= zip(new, added, strict=True)
    tally.num_added += len(new)
    for one in batch:
        if one.reason is not None:
            tally.bad.append((_printable(one.item.source), _printable(one.reason)))
        elif one.content_hash in ids:  # a known image that was removed meanwhile has no id any more
            tally.ids.append(ids[one.content_hash])
    tally.num_known += sum(one.reason is None for one in batch) - len(new)
    known = [one for one in batch if one.content_hash in ids and new.get(one.content_hash) is not one]
    _compare_labels(gallery, known, ids, tally, update=update)


def _compare_labels(
    gallery: Gallery, known: Sequence[_Prepared], ids: Mapping[str, int], tally: _Tally, *, update: bool
) -> None:
    """Look for known images whose labels are others than those that were given, and change or name them."""
    records = {record.content_hash: record for record in gallery.get_present(sorted({ids[one.content_hash] for one in known}))}
    for one in known:
        record = records.get(one.content_hash)
        labels = {} if record is None else _other_labels(record, one.item)
        if record is None or not labels:
            continue
        if update:
            tally.num_updated += gallery.update([record.id], labels)
            records.update((changed.content_hash, changed) for changed in gallery.get_present([record.id]))
        else:
            differences = (f"{name} is {_shown(record, name)} and not {value!r}" for name, value in labels.items())
            reason = f"enrolled already as record {record.id}, where {', '.join(differences)}"
            tally.conflicts.append((_printable(one.item.source), _printable(reason)))


def _other_labels(record: Record, item: Item) -> RecordLabels:
    """Return the labels of an item that are known and not those of its record."""
    labels: RecordLabels = {}
    if item.pid is not None and item.pid != record.pid:
        labels["pid"] = item.pid
    if item.camid is not None and item.camid != record.camid:
        labels["camid"] = item.camid
    if item.time_s is not None and item.time_s != record.time_s:
        labels["time_s"] = item.time_s
    attributes = {name: value for name, value in item.attributes.items() if record.attributes.get(name) != value}
    if attributes:
        labels["attributes"] = attributes
    return labels


def _shown(record: Record, name: str) -> str:
    value = getattr(record, name)
    return "unknown" if value is None else repr(value)


def _new_record(item: Item, digest: str, thumbnail: bytes | None) -> NewRecord:
    box = {} if item.box is None else {BOX_ATTRIBUTE: box_text(item.box)}
    return NewRecord(
        content_hash=digest,
        source=item.source,
        pid=item.pid,
        camid=item.camid,
        time_s=item.time_s,
        attributes={**item.attributes, **box},
        thumbnail=thumbnail,
        enrolled_s=item.enrolled_s,
    )


def _printable(text: str) -> str:
    """Return a text that can be written anywhere: a file's name on disk may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()
