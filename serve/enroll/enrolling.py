"""Enrollment: from a stream of images, or another gallery, to records that last, in bounded memory, and again without harm."""

import functools
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby, islice, tee
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data.loading import map_in_order
from hat.errors import DataError, ImageError, UsageError
from hat.preprocessing import Preprocessing
from hat.runtime import Runtime, runtime_info

from ..gallery.binding import binding_of
from ..gallery.gallery import Gallery
from ..gallery.person_crops import BOX_ATTRIBUTE, box_of, box_text, content_hash, make_thumbnail, read_source
from ..gallery.record_checks import checked_records
from ..gallery.records import NewRecord, Record, RecordLabels
from .items import Item, refuse
from .video import BoxRow, is_video_name, video_items

_WORKERS, _ITEMS_AHEAD = 2, 48

_MAX_IDLE = 1024  # images without work for the model after which a batch is closed all the same
_PAGE = 1000  # records of two galleries that are compared at once
_NUM_PROBED = 100  # records whose thumbnails say how high those of a gallery are
_LABELS = ("pid", "camid", "time_s", "attributes", "enrolled_s")  # what is known of an item and of a record alike


class ImageEmbedder(Protocol):
    """Embedder of images: a `hat.Embedder`, or any object with its interface."""

    preprocessing: Preprocessing
    runtime: Runtime

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return (n, embed_dim) float32 unit rows."""
        ...


class Problem(NamedTuple):
    """An image, and what is wrong with it."""

    source: str
    reason: str


@dataclass(kw_only=True)
class Enrollment:
    """Result of an enrollment.

    Attributes:
        ids: Of the images that were added or known already, in the order of the items.
        num_added: Images that are new in the gallery.
        num_known: Images that it had already.
        num_updated: Of these, images whose labels were changed to those that were given.
        conflicts: Known images that have other labels than those that were given, and kept them.
        bad: Images that cannot be used.
    """

    ids: list[int] = field(default_factory=list)
    num_added: int = 0
    num_known: int = 0
    num_updated: int = 0
    conflicts: list[Problem] = field(default_factory=list)
    bad: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Prepared:
    """An item that was read: its image at the model's size, unless it is known already or bad."""

    item: Item
    content_hash: str = ""
    image: Image.Image | None = None
    record: NewRecord | None = None
    error: ImageError | UsageError | None = None


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
    enrolled already are recognized by the hash of their bytes, before the model runs.

    Args:
        embedder: The gallery's own model.
        batch_size: Images that are embedded and written at once.
        thumbnail_height: Height in pixels of a small picture that is kept with each record; None keeps none.
        update: Give known images the labels of their items; otherwise they keep those that they have, and where these are
            others it is a conflict.
        progress: Called in the caller's thread with the number of items that are done with since its last call.

    Raises:
        UsageError: The gallery is of another model or read-only, or a number is out of range.
        WorkError: The gallery cannot be written.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is at least 1, got {batch_size}")
    if thumbnail_height is not None and not 16 <= thumbnail_height <= 1024:
        raise UsageError(f"a thumbnail is 16 to 1024 pixels high, got {thumbnail_height}")
    gallery.check_model(binding_of(runtime_info(embedder.runtime)))

    def prepare(item: Item) -> _Prepared:
        return _prepare(gallery, embedder.preprocessing, item, thumbnail_height)

    done = Enrollment()
    # Closed by hand, so that the threads end with this call also where it raises.
    with closing(map_in_order(prepare, items, num_workers=_WORKERS, window=_ITEMS_AHEAD)) as prepared:
        for batch in _batches(prepared, batch_size):
            _add(gallery, embedder, batch, done, update=update)
            if progress is not None:
                progress(len(batch))
    return done


def _prepare(gallery: Gallery, preprocessing: Preprocessing, item: Item, thumbnail_height: int | None) -> _Prepared:
    """Read an item, and decode it unless it is enrolled already."""
    try:
        data = item.read()
        digest = content_hash(data, item.box)
        if gallery.ids_by_hash({digest}):
            return _Prepared(item, digest)
        image = item.decode(data)
        labels = {name: getattr(item, name) for name in _LABELS}
        if item.box is not None:
            labels["attributes"] = {**item.attributes, BOX_ATTRIBUTE: box_text(item.box)}
        thumbnail = None if thumbnail_height is None else make_thumbnail(image, thumbnail_height)
        # Checked here and not when it is written: one label that no gallery takes must not cost a batch.
        (record,) = checked_records([NewRecord(content_hash=digest, source=item.source, thumbnail=thumbnail, **labels)], 1)
    except (ImageError, UsageError) as error:
        return _Prepared(item, error=error)
    # At the model's size already, so that many may wait; resizing it once more changes nothing.
    return _Prepared(item, digest, Image.fromarray(preprocessing.resize_image(image)), record)


def _batches(prepared: Iterable[_Prepared], batch_size: int) -> Iterator[list[_Prepared]]:
    """Group what was prepared so that a group has at most ``batch_size`` images for the model, and is never endless."""
    batch: list[_Prepared] = []
    num_images = 0
    for entry in prepared:
        batch.append(entry)
        num_images += entry.image is not None
        if num_images == batch_size or len(batch) >= batch_size + _MAX_IDLE:
            yield batch
            batch, num_images = [], 0
    if batch:
        yield batch


def _add(gallery: Gallery, embedder: ImageEmbedder, batch: list[_Prepared], done: Enrollment, *, update: bool) -> None:
    # Asked again: the same image may have been read twice before it was written once.
    ids = gallery.ids_by_hash({entry.content_hash for entry in batch if entry.error is None})
    new: dict[str, _Prepared] = {}
    for entry in batch:
        if entry.image is not None and entry.content_hash not in ids:
            new.setdefault(entry.content_hash, entry)
    if new:
        embeddings = embedder.embed([entry.image for entry in new.values() if entry.image is not None])
        added = gallery.add_new(embeddings, [entry.record for entry in new.values() if entry.record is not None])
        ids |= zip(new, added.ids, strict=True)
        # Another process may have been first with some of them: their labels are compared like those of other known images.
        new = {key: entry for (key, entry), is_new in zip(new.items(), added.is_new, strict=True) if is_new}
    done.num_added += len(new)
    for entry in batch:
        if entry.error is not None:
            done.bad.append(problem(entry.item.source, entry.error))
        elif entry.content_hash in ids:  # a known image that was removed meanwhile has no id any more
            done.ids.append(ids[entry.content_hash])
    done.num_known += sum(entry.error is None for entry in batch) - len(new)
    known = [entry for entry in batch if entry.content_hash in ids and new.get(entry.content_hash) is not entry]
    records = {
        record.content_hash: record for record in gallery.get_present(sorted({ids[entry.content_hash] for entry in known}))
    }
    for entry in known:
        record = records.get(entry.content_hash)
        labels = {} if record is None else _other_labels(record, entry.item)
        if record is None or not labels:
            continue
        if update:
            done.num_updated += gallery.update([record.id], labels)
            records.update((changed.content_hash, changed) for changed in gallery.get_present([record.id]))
        else:
            shown = {name: "unknown" if (value := getattr(record, name)) is None else repr(value) for name in labels}
            differences = (f"{name} is {shown[name]} and not {value!r}" for name, value in labels.items())
            reason = f"enrolled already as record {record.id}, where {', '.join(differences)}"
            done.conflicts.append(problem(entry.item.source, reason))


def _other_labels(record: Record, item: Item) -> RecordLabels:
    """Return the labels of an item that are known and not those of its record."""
    names = ("pid", "camid", "time_s")
    labels = {name: getattr(item, name) for name in names if getattr(item, name) not in (None, getattr(record, name))}
    attributes = {name: value for name, value in item.attributes.items() if record.attributes.get(name) != value}
    return cast(RecordLabels, labels | ({"attributes": attributes} if attributes else {}))


def problem(source: str, reason: object) -> Problem:
    """Return what is wrong with an image as texts that can be written anywhere: file names on disk may hold any bytes."""
    printable = (text.encode(errors="backslashreplace").decode() for text in (source, str(reason).removeprefix(f"{source}: ")))
    return Problem(*printable)


def reembed(
    old: Gallery, new: Gallery, embedder: ImageEmbedder, *, batch_size: int = 32, progress: Callable[[int], None] | None = None
) -> Enrollment:
    """Enroll everything of one gallery in another, whose model is another.

    An image is taken from its source, if that is still the same by its content hash; those that are gone or changed are among
    the bad ones. It keeps the time of its enrollment, so that it is removed no later than it would have been. Thumbnails are
    made again, of the height that the first ones in the old gallery have. What is in the new gallery already is kept, as far as
    the old one still says the same of it, now and when all is done.
    """
    _remove_outdated(old, new)
    heights = []
    for record in old.get(old.ids()[:_NUM_PROBED].tolist(), thumbnails=True):
        if record.thumbnail is not None:
            with Image.open(io.BytesIO(record.thumbnail), formats=("JPEG",)) as small:
                heights.append(small.height)
    height = min(1024, max(16, *heights)) if heights else None
    items = _items_again(old.records())
    done = enroll_images(new, embedder, items, batch_size=batch_size, thumbnail_height=height, progress=progress)
    _remove_outdated(old, new)
    return done


def _remove_outdated(old: Gallery, new: Gallery) -> None:
    """Remove from a new gallery, for good, what an old one has not any more, or has with other labels."""
    outdated = []
    records = new.records()
    while page := list(islice(records, _PAGE)):
        known = old.ids_by_hash([record.content_hash for record in page])
        now = {record.content_hash: record for record in old.get_present([*known.values()])}
        for record in page:
            current = now.get(record.content_hash)
            if current is None or any(getattr(current, name) != getattr(record, name) for name in _LABELS):
                outdated.append(record.id)
    if outdated:
        new.remove(ids=outdated)
        new.vacuum()


def _items_again(records: Iterable[Record]) -> Iterator[Item]:
    number = 0
    last: tuple[str | None, int] = (None, 0)

    def run_of(record: Record) -> tuple[str | None, int]:
        """Return the video, and the number of what can be read of it in one go: while its frames go forward."""
        nonlocal number, last
        video, frame = place = _video_place(record)
        number += video != last[0] or frame < last[1]
        last = place
        return video, number

    for (video, _), run in groupby(records, run_of):
        if video is None:
            yield from _file_items(run)
        else:
            yield from _video_items(Path(video), run)


def _video_place(record: Record) -> tuple[str | None, int]:
    """Return the video and the frame that a record was cut from; None for any other record."""
    match = re.fullmatch(r"(.+)#([0-9]{1,18})", record.source, re.DOTALL)
    return (match[1], int(match[2])) if match and is_video_name(match[1]) and box_of(record) else (None, 0)


def _file_items(records: Iterable[Record]) -> Iterator[Item]:
    for record in records:
        attributes = {name: value for name, value in record.attributes.items() if name != BOX_ATTRIBUTE}
        yield replace(_item_again(record, functools.partial(read_source, record)), box=box_of(record), attributes=attributes)


def _video_items(video: Path, records: Iterable[Record]) -> Iterator[Item]:
    def row_of(record: Record) -> BoxRow:
        box = box_of(record)
        assert box is not None  # `_video_place` has seen one
        return BoxRow(where=record.source, frame=_video_place(record)[1], box=box)

    ahead, records = tee(records)
    try:
        for item, record in zip(video_items(video, map(row_of, ahead)), records, strict=True):
            yield _item_again(record, functools.partial(_same, item.read, record))
    except DataError as error:  # the video is not there any more
        for record in records:
            yield _item_again(record, refuse(str(error)))


def _item_again(record: Record, read: Callable[[], bytes]) -> Item:
    """Return a record as an item with all that is known of it."""
    return Item(source=record.source, read=read, **{name: getattr(record, name) for name in _LABELS})


def _same(read: Callable[[], bytes], record: Record) -> bytes:
    data = read()
    if content_hash(data) != record.content_hash:
        raise ImageError(f"{record.source}: another image than the one that was enrolled")
    return data
