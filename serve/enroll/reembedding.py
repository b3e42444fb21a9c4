"""A gallery made again by another model, from the images that the old one was made of."""

import functools
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path

from PIL import Image

from hat.errors import DataError, ImageError

from ..gallery.gallery import Gallery
from ..gallery.person_crops import BOX_ATTRIBUTE, box_of, content_hash, read_source
from ..gallery.records import Record
from .enrolling import Enrollment, ImageEmbedder, Item, enroll_images
from .video_boxes import BoxRow, video_items
from .video_frames import is_video_name

_NUM_PROBED = 100


def reembed(
    old: Gallery,
    new: Gallery,
    embedder: ImageEmbedder,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Enrollment:
    """Enroll everything of one gallery in another.

    An image is taken from its source, if that is still the same by its content hash. It keeps the time of its enrollment, so
    that it is removed no later than it would have been. Thumbnails are made again, of the height that the first ones in the old
    gallery have; a gallery without thumbnails gets none.

    Args:
        old: Where from; it is only read.
        new: Where to; what is there already is kept.
        embedder: The new gallery's model.
        batch_size: Images that are embedded and written at once.
        progress: Called with the number of records that are done with since its last call.

    Returns:
        What was added and, as bad, which images are gone or changed.

    Raises:
        UsageError: The new gallery is of another model than the embedder's.
        WorkError: The new gallery cannot be written.
    """
    height = _thumbnail_height(old)
    return enroll_images(
        new, embedder, _items(old.records()), batch_size=batch_size, thumbnail_height=height, progress=progress
    )


def _thumbnail_height(gallery: Gallery) -> int | None:
    heights = []
    for record in gallery.get(gallery.ids()[:_NUM_PROBED].tolist(), thumbnails=True):
        if record.thumbnail is not None:
            with Image.open(io.BytesIO(record.thumbnail), formats=("JPEG",)) as small:
                heights.append(small.height)
    return min(1024, max(16, *heights)) if heights else None


def _items(records: Iterable[Record]) -> Iterator[Item]:
    for (video, _), run in groupby(records, _Runs()):
        if video is None:
            yield from map(_file_item, run)
        else:
            yield from _video_run(Path(video), run)


class _Runs:
    """Tells records apart that can be read in one go: those of files, and those of a video while its frames go forward."""

    def __init__(self) -> None:
        self._run = 0
        self._video: str | None = None
        self._frame = 0

    def __call__(self, record: Record) -> tuple[str | None, int]:
        video, frame = _video_place(record)
        if video != self._video or frame < self._frame:
            self._run += 1
        self._video, self._frame = video, frame
        return video, self._run


def _video_place(record: Record) -> tuple[str | None, int]:
    """Return the video and the frame that a record was cut from; None for any other record."""
    path, mark, number = record.source.rpartition("#")
    if mark and number.isascii() and number.isdigit() and len(number) <= 18 and is_video_name(path) and box_of(record):
        return path, int(number)
    return None, 0


def _file_item(record: Record) -> Item:
    attributes = {name: value for name, value in record.attributes.items() if name != BOX_ATTRIBUTE}
    box = box_of(record)
    return _labeled(
        Item(source=record.source, read=functools.partial(read_source, record), box=box, attributes=attributes), record
    )


def _video_run(video: Path, records: Iterable[Record]) -> Iterator[Item]:
    taken: deque[Record] = deque()

    def rows() -> Iterator[BoxRow]:
        for record in records:
            taken.append(record)
            box = box_of(record)
            assert box is not None
            yield BoxRow(where=record.source, frame=_video_place(record)[1], time_s=None, box=box)

    try:
        for item in video_items(video, rows()):
            record = taken.popleft()
            read = functools.partial(_same, item.read, record)
            yield _labeled(replace(item, source=record.source, read=read, attributes=record.attributes), record)
    except DataError as error:  # the video is not there any more
        for record in chain(taken, records):
            yield _labeled(Item(source=record.source, read=functools.partial(_refuse, str(error))), record)


def _labeled(item: Item, record: Record) -> Item:
    return replace(item, pid=record.pid, camid=record.camid, time_s=record.time_s, enrolled_s=record.enrolled_s)


def _same(read: Callable[[], bytes], record: Record) -> bytes:
    data = read()
    if content_hash(data) != record.content_hash:
        raise ImageError(f"{record.source}: another image than the one that was enrolled")
    return data


def _refuse(reason: str) -> bytes:
    raise ImageError(reason)
