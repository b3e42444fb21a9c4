"""The frames of a video file, one after the other, decoded by PyAV (FFmpeg).

A file is read as what its ending says and as nothing else: FFmpeg knows formats that are lists of other files and addresses,
and a stranger's "video" must not make it open those. Frames are upright, as a phone's note on how it was held says, and as
players and detectors see them.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.data.images import MAX_PIXELS
from hat.errors import DataError, ImageError, MissingExtraError

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

_QUARTER_TURN = 90


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame, not yet turned into pixels.

    Attributes:
        number: Its place in the video, from 0.
        time_s: When it is shown, in seconds from the first frame; None where the file does not say.
    """

    number: int
    time_s: float | None
    _frame: Any

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright.

        Raises:
            ImageError: It is larger than the limit, or cannot be converted.
        """
        import av

        width, height = self._frame.width, self._frame.height
        if width * height > MAX_PIXELS:
            raise ImageError(f"frame {self.number}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")
        try:
            pixels: npt.NDArray[np.uint8] = self._frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise ImageError(f"frame {self.number}: cannot be converted to RGB ({error})") from None
        return np.rot90(pixels, round(self._frame.rotation / _QUARTER_TURN) % 4)


def is_video_name(name: str) -> bool:
    """Return whether a file name is taken for a video's, by its ending."""
    return Path(name).suffix.lower() in VIDEO_FORMATS


def read_frames(path: Path) -> Generator[VideoFrame, None, None]:
    """Decode a video from its beginning, frame by frame in the order in which they are shown.

    Args:
        path: The file; its ending says what it is.

    Yields:
        The frames. The file is closed when the iterator is.

    Raises:
        MissingExtraError: PyAV is not installed.
        DataError: The file is missing, is no video of that format, or has no picture that can be decoded.
        ImageError: It breaks off or is damaged in the middle.
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
