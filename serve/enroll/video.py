"""People in a video: its frames, decoded by PyAV (FFmpeg), and a table that says where in them they are, read side by side.

A file is read as what its ending says and as nothing else: FFmpeg knows formats that are lists of other files and addresses,
and a stranger's "video" must not make it open those. Frames are upright, as a phone's note on how it was held says.
"""

import functools
import io
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data.images import MAX_PIXELS
from hat.errors import DataError, ImageError, MissingExtraError

from ..gallery.person_crops import BOX_ATTRIBUTE, Box, box_text, crop_person
from .items import BOX_COLUMNS, Item, Labels, TableRow, read_rows, refuse

VIDEO_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
    ".ts": "mpegts",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
}
"""Ending -> FFmpeg's name of the format."""

_COLUMNS = ("frame", "time", "pid", "camid", *BOX_COLUMNS)

_SAME_TIME_S = 5e-4  # a time that was rounded to milliseconds still means the frame that is shown then
_MAX_CROP_PIXELS = 10_000_000  # dozens of crops wait for the model at once; who fills a frame of 8K has fewer pixels


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame, not yet turned into pixels."""

    number: int  # from 0
    time_s: float | None  # from the first frame; None where the file does not say
    _frame: Any

    def picture(self) -> Image.Image | ImageError:
        """Return the frame in RGB, upright; or why it cannot be had: it is larger than the limit, or cannot be converted."""
        import av

        width, height = self._frame.width, self._frame.height
        if width * height > MAX_PIXELS:
            return ImageError(f"frame {self.number}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")
        try:
            pixels: npt.NDArray[np.uint8] = self._frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, ValueError, MemoryError) as error:
            return ImageError(f"frame {self.number}: cannot be converted to RGB ({error})")
        return Image.fromarray(np.rot90(pixels, round(self._frame.rotation / 90) % 4))


@dataclass(frozen=True, kw_only=True)
class BoxRow:
    """A person in one frame, which is named by its number or by its time; pid -1 is junk."""

    where: str  # the table and the line, for messages
    frame: int | None = None  # from 0
    time_s: float | None = None  # from the video's first frame
    box: Box
    labels: Labels = field(default_factory=Labels)

    def belongs_to(self, frame: VideoFrame, end_s: float | None) -> bool:
        """Return whether this is the frame that is meant; ``end_s`` is when the next one is shown."""
        if self.frame is not None:
            return self.frame == frame.number
        return self.time_s is not None and end_s is not None and self.time_s < end_s - _SAME_TIME_S


def is_video_name(name: str) -> bool:
    """Return whether a file name is taken for a video's, by its ending."""
    return Path(name).suffix.lower() in VIDEO_FORMATS


def read_boxes(path: Path) -> Iterator[BoxRow]:
    """Read a table of boxes: ``frame`` (from 0) or ``time`` (seconds from the first frame), and left, top, right, bottom.

    ``pid`` and ``camid`` may be there, any other column is an attribute; where both ``frame`` and ``time`` are, the frame
    decides. The rows stand in the order of the frames, as a detector writes them, so that a long video needs no memory.

    A file of the MOT challenge is recognized by its first line, which is numbers and no header: frame (from 1), track, left,
    top, width, height, confidence and up to three more. Tracks become identities, none where the track is -1; rows whose
    confidence is 0 are left out, as that format means it; the order is any, since ground truth comes by track.
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
        yield BoxRow(where=row.where, frame=frame, time_s=time_s, box=box, labels=row.labels(_COLUMNS))


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


def _is_mot(path: Path) -> bool:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            first = file.readline(1000).split(",")
        return 6 <= len(first) <= 10 and all(math.isfinite(float(text)) for text in first)
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
            if frame < 1 or not frame.is_integer() or not track.is_integer():
                raise DataError(f"{where}: frame and track are whole numbers, frames from 1; got {frame:g} and {track:g}")
            if not rest or rest[0] != 0:
                labels = Labels(pid=int(track) if track >= 0 else None)
                rows.append(BoxRow(where=where, frame=int(frame) - 1, box=box, labels=labels))
    yield from sorted(rows, key=lambda row: row.frame or 0)


def read_frames(path: Path) -> Generator[VideoFrame, None, None]:
    """Decode a video from its beginning, frame by frame in the order in which they are shown; closing it closes the file.

    A file that is not a video of the format that its ending says is a `DataError`, one that breaks off an `ImageError`.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "serve", "reading videos") from None

    number = 0
    try:
        container = av.open(str(path), format=VIDEO_FORMATS[path.suffix.lower()], options={"protocol_whitelist": "file"})
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a video ({error})") from None
    with closing(container):
        if not container.streams.video:
            raise DataError(f"{path}: has no video stream")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise DataError(f"{path}: this PyAV has no decoder for its video stream")
        if context.width * context.height > MAX_PIXELS:
            raise DataError(
                f"{path}: {context.width} x {context.height} pixels are more than the limit of {MAX_PIXELS:,} for a frame"
            )
        first_s: float | None = None
        try:
            for frame in container.decode(stream):
                time_s = None if frame.time is None else float(frame.time)
                first_s = time_s if first_s is None else first_s
                yield VideoFrame(number, None if time_s is None or first_s is None else time_s - first_s, frame)
                number += 1
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            raise ImageError(f"{path}: damaged after {number:,} frames ({error})") from None


def video_items(path: Path, rows: Iterable[BoxRow], start_s: float | None = None) -> Iterator[Item]:
    """Yield the people in a video as items to be enrolled; frames are decoded as needed, and none after the last row's.

    The rows are in the order of the frames; ``start_s`` is when the first one was taken, in seconds since 1970 (UTC), if
    that is known. An item's source is ``path#frame``; its crop is lossless: the same video gives the same bytes again. A row
    whose frame is not there, cannot be decoded, or does not hold the box becomes an item that says so when it is read.
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
                picture: Image.Image | ImageError | None = None  # converted once for all people in it
                time_s = None if start_s is None or frame.time_s is None else start_s + frame.time_s
                while row is not None and row.belongs_to(frame, end_s):
                    picture = picture or frame.picture()
                    yield _item(row, f"{source}#{frame.number}", picture, time_s)
                    row = next(waiting, None)
                if row is None:
                    return
        except ImageError as error:
            reason = str(error).removeprefix(f"{path}: ")
    while row is not None:
        missing = f"the video has {num_frames:,} frames" if row.frame is not None else "no frame is shown at this time"
        yield Item(source=source, read=refuse(f"{source}: {row.where}: {reason or missing}"))
        row = next(waiting, None)


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


def _item(row: BoxRow, source: str, picture: Image.Image | ImageError, time_s: float | None) -> Item:
    try:
        if isinstance(picture, ImageError):
            raise picture
        crop = crop_person(picture, row.box, source)
        if crop.width * crop.height > _MAX_CROP_PIXELS:
            raise ImageError(f"{source}: the box has {crop.width} x {crop.height} pixels, the limit is {_MAX_CROP_PIXELS:,}")
        read: Callable[[], bytes] = functools.partial(_encode, crop)
    except ImageError as error:
        read = refuse(str(error))
    attributes = {**row.labels.attributes, BOX_ATTRIBUTE: box_text(row.box)}
    return replace(row.labels.of(Item(source=source, read=read, time_s=time_s)), attributes=attributes)


def _encode(crop: Image.Image) -> bytes:
    # Bitmaps hold pixels and nothing else: encoded by any version of any library, they hash alike.
    encoded = io.BytesIO()
    crop.save(encoded, "BMP")
    return encoded.getvalue()
