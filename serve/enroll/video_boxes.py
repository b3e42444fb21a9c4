"""People in a video: its frames, and a table that says where in them they are, read side by side."""

import functools
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from PIL import Image

from hat.errors import DataError, ImageError

from ..gallery.identities import Identity
from ..gallery.person_crops import BOX_ATTRIBUTE, Box, box_text, crop_person
from ..gallery.records import AttributeValue
from .enrolling import Item
from .table_rows import BOX_COLUMNS, TableRow, read_rows
from .video_frames import VideoFrame, read_frames

_COLUMNS = ("frame", "time", "pid", "camid", *BOX_COLUMNS)

_SAME_TIME_S = 5e-4
"""A time that was rounded to milliseconds still means the frame that is shown then."""

_MOT_COLUMNS = range(6, 11)
_MAX_MOT_LINE = 1000

_MAX_CROP_PIXELS = 10_000_000
"""Some dozens of crops wait for the model at once. A person who fills a frame of 8K has fewer pixels."""


@dataclass(frozen=True, kw_only=True)
class BoxRow:
    """A person in one frame.

    Attributes:
        where: The table and the line, for messages.
        frame: The frame's number, from 0; None where the table gives times.
        time_s: Seconds from the video's first frame; None where the table gives frames.
        box: The person.
        pid: Identity, -1 for junk; None where it is not known.
        camid: Camera, where it is known.
        attributes: Anything else, by name.
    """

    where: str
    frame: int | None
    time_s: float | None
    box: Box
    pid: Identity | None = None
    camid: int | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    def belongs_to(self, frame: VideoFrame, end_s: float | None) -> bool:
        """Return whether this is the frame that is meant; ``end_s`` is when the next one is shown."""
        if self.frame is not None:
            return self.frame == frame.number
        return self.time_s is not None and end_s is not None and self.time_s < end_s - _SAME_TIME_S


def read_boxes(path: Path) -> Iterator[BoxRow]:
    """Read a table of boxes: ``frame`` (from 0) or ``time`` (seconds from the first frame), and left, top, right, bottom.

    ``pid`` and ``camid`` may be there, any other column is an attribute; where both ``frame`` and ``time`` are, the frame
    decides. The rows stand in the order of the frames, as a detector writes them, so that a long video needs no memory.

    A file of the MOT challenge is told by its first line, which is numbers and no header: frame (from 1), track, left, top,
    width, height, confidence and up to three more. Tracks become identities, none where the track is -1; rows whose confidence
    is 0 are left out, as that format means it; the order is any, since ground truth comes by track.

    Args:
        path: A table, or a file of the MOT challenge.

    Raises:
        DataError: The file cannot be read, is not CSV, lacks a column, has a mistake, or is not in order.
    """
    if _is_mot(path):
        yield from _mot_rows(path)
        return
    last = 0.0
    for row in read_rows(path, required=BOX_COLUMNS):
        frame, time_s = _frame_or_time(row)
        box = row.box()
        if box is None:
            raise DataError(f"{row.where}: the box is empty")
        now = float(frame) if frame is not None else time_s or 0.0
        if now < last:
            raise DataError(f"{row.where}: {now:g} comes after {last:g}; sort the table by frame or time")
        last = now
        yield BoxRow(
            where=row.where,
            frame=frame,
            time_s=time_s,
            box=box,
            pid=row.pid(),
            camid=row.whole_number("camid"),
            attributes=row.attributes(_COLUMNS),
        )


def _is_mot(path: Path) -> bool:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            first = file.readline(_MAX_MOT_LINE).split(",")
        return len(first) in _MOT_COLUMNS and all(math.isfinite(float(text)) for text in first)
    except (OSError, ValueError):
        return False  # what is wrong with it, the reader of tables says


def _mot_rows(path: Path) -> Iterator[BoxRow]:
    rows: list[BoxRow] = []
    with path.open(encoding="ascii", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                frame, track, left, top, width, height, *rest = (float(text) for text in line.split(","))
                box = (round(left), round(top), round(left + width), round(top + height))
            except (ValueError, OverflowError):
                raise DataError(f"{where}: expected frame, track, left, top, width, height and confidence as numbers") from None
            if frame < 1 or frame != int(frame) or track != int(track):
                raise DataError(f"{where}: frame and track are whole numbers, frames from 1; got {frame:g} and {track:g}")
            if not rest or rest[0] != 0:
                pid = int(track) if track >= 0 else None
                rows.append(BoxRow(where=where, frame=int(frame) - 1, time_s=None, box=box, pid=pid))
    yield from sorted(rows, key=lambda row: row.frame or 0)


def video_items(path: Path, rows: Iterable[BoxRow], start_s: float | None = None) -> Iterator[Item]:
    """Yield the people in a video as items to be enrolled; frames are decoded as needed, and none after the last row's.

    A row whose frame is not there, cannot be decoded, or does not hold the box becomes an item that says so when it is read.

    Args:
        path: The video.
        rows: The people, in the order of the frames.
        start_s: When the first frame was taken, in seconds since 1970 (UTC); None where that is not known.

    Yields:
        Items with the source ``path#frame``; the crop is lossless, and the same video gives the same bytes again.

    Raises:
        DataError: The video cannot be opened.
        MissingExtraError: PyAV is not installed.
    """
    source = str(path.absolute())
    waiting = iter(rows)
    row = next(waiting, None)
    num_frames = 0
    reason = None
    with closing(read_frames(path)) as frames:
        try:
            for frame, end_s in _with_ends(frames):
                num_frames += 1
                picture: Callable[[], Image.Image] | None = None
                while row is not None and row.belongs_to(frame, end_s):
                    picture = picture or _decoded(frame)
                    yield _item(row, f"{source}#{frame.number}", picture, frame.time_s, start_s)
                    row = next(waiting, None)
                if row is None:
                    return
        except ImageError as error:
            reason = str(error).removeprefix(f"{path}: ")
    while row is not None:
        missing = f"the video has {num_frames:,} frames" if row.frame is not None else "no frame is shown at this time"
        refuse = functools.partial(_refuse, ImageError(f"{source}: {row.where}: {reason or missing}"))
        yield Item(source=source, read=refuse)
        row = next(waiting, None)


def _frame_or_time(row: TableRow) -> tuple[int | None, float | None]:
    frame = row.whole_number("frame")
    if frame is not None:
        return frame, None
    if "frame" in row.fields or "time" not in row.fields:
        raise DataError(f"{row.where}: expected a number in the column frame or time")
    time_s = row.number("time", float)
    if not 0 <= time_s < 1e9:
        raise DataError(f"{row.where}: time is {time_s:g}, expected seconds from the first frame of the video")
    return None, time_s


def _with_ends(frames: Iterable[VideoFrame]) -> Iterator[tuple[VideoFrame, float | None]]:
    """Yield each frame with the time at which the next one is shown; the last one stays as long as the one before it did."""
    held: VideoFrame | None = None
    shown_s = 1.0
    for frame in frames:
        if held is not None:
            yield held, frame.time_s
            if frame.time_s is not None and held.time_s is not None:
                shown_s = frame.time_s - held.time_s
        held = frame
    if held is not None:
        yield held, None if held.time_s is None else held.time_s + shown_s + 2 * _SAME_TIME_S


def _decoded(frame: VideoFrame) -> Callable[[], Image.Image]:
    """Return the frame as a picture, converted once for all people in it."""
    try:
        picture = Image.fromarray(frame.pixels())
    except ImageError as error:
        return functools.partial(_refuse, error)
    return lambda: picture


def _item(row: BoxRow, source: str, picture: Callable[[], Image.Image], time_s: float | None, start_s: float | None) -> Item:
    try:
        crop = crop_person(picture(), row.box, source)
        if crop.width * crop.height > _MAX_CROP_PIXELS:
            raise ImageError(f"{source}: the box has {crop.width} x {crop.height} pixels, the limit is {_MAX_CROP_PIXELS:,}")
        read: Callable[[], bytes] = functools.partial(_encode, crop)
    except ImageError as error:
        read = functools.partial(_refuse, error)
    return Item(
        source=source,
        read=read,
        pid=row.pid,
        camid=row.camid,
        time_s=None if start_s is None or time_s is None else start_s + time_s,
        attributes={**row.attributes, BOX_ATTRIBUTE: box_text(row.box)},
    )


def _encode(crop: Image.Image) -> bytes:
    # Bitmaps hold pixels and nothing else: encoded by any version of any library, they hash alike.
    encoded = io.BytesIO()
    crop.save(encoded, "BMP")
    return encoded.getvalue()


def _refuse(error: ImageError) -> NoReturn:
    raise error
