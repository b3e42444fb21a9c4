"""Uploads of visitors: images and zip files, bounded in number, bytes and pixels, read into memory and then deleted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from hat.data import decode_image
from hat.data.archives import list_members, read_member
from hat.data.datasets import JUNK_PID
from hat.data.images import IMAGE_SUFFIXES, MAX_FILE_BYTES, image_size
from hat.errors import ImageError, UsageError
from hat.serve.enroll.items import Item, Labels, read_name, refuse
from hat.serve.gallery.identities import Identity


class Upload(NamedTuple):
    """An image as a visitor handed it in: RGB and upright, with how long it took to read."""

    name: str
    image: Image.Image
    decode_s: float


@dataclass(frozen=True)
class UploadLimits:
    """Limits of uploads: of one file, of a query, and of one enrollment with the unpacked content of its zip files."""

    file_bytes: int = MAX_FILE_BYTES
    pixels: int = 32_000_000
    query_images: int = 8
    query_pixels: int = 1_000_000  # a query of more is reduced to so many
    photo_pixels: int = 8_000_000  # and so is a picture that is to be cropped
    enroll_images: int = 500
    enroll_bytes: int = 256 * 2**20


UPLOAD_LIMITS = UploadLimits()


def uploaded_image(path: str, limits: UploadLimits = UPLOAD_LIMITS) -> Upload:
    """Read one uploaded image; one that cannot be used is an ImageError that begins with its name."""
    started = time.perf_counter()
    name = Path(path).name
    image = decode_image(_file_bytes(path, limits.file_bytes), name, max_pixels=limits.pixels)
    return Upload(name, image, time.perf_counter() - started)


def reduce_image(image: Image.Image, max_pixels: int) -> Image.Image:
    """Return an image of at most so many pixels, proportions kept; a smaller one as it is."""
    excess = image.width * image.height / max_pixels
    if excess <= 1:
        return image
    size = (max(1, int(image.width / excess**0.5)), max(1, int(image.height / excess**0.5)))
    return image.resize(size, Image.Resampling.LANCZOS)


@contextmanager
def received_files(paths: Sequence[str] | None) -> Iterator[list[str]]:
    """Give the uploaded files that are there, and delete them in the end; a page may name one again that is gone."""
    at_hand = [path for path in paths or () if Path(path).is_file()]
    try:
        yield at_hand
    finally:
        for path in at_hand:
            Path(path).unlink(missing_ok=True)


def upload_items(
    paths: Sequence[str],
    *,
    pid: Identity | None = None,
    camid: int | None = None,
    parse_labels_from_names: bool = True,
    limits: UploadLimits = UPLOAD_LIMITS,
) -> list[Item]:
    """Return images that are to be enrolled, from uploaded images and zip files; they are read when they are needed.

    ``pid`` and ``camid`` are those of all images; where they are not given, a name such as ``0002_c1s1_000451_03.jpg`` tells
    them, if it may. A UsageError where there is nothing to read, or too much.
    """
    found = (source for path in paths for source in _sources(path, limits))
    sources = list(islice(found, limits.enroll_images + 1))
    if not sources:
        raise UsageError(f"no image was found: give {', '.join(IMAGE_SUFFIXES)} files, or a zip file of them")
    if len(sources) > limits.enroll_images:
        raise UsageError(
            f"there are more than the {limits.enroll_images:,} images that this page takes at once: use `hat enroll`"
        )
    read_within = _budget(limits)
    given = Labels(pid=pid, camid=camid)
    items = []
    for name, read in sources:
        named = read_name(Path(name.rpartition("!")[2]).name) if parse_labels_from_names else None
        item = given.of((named or Labels()).of(Item(source=name, read=partial(read_within, read, name))))
        if item.pid == JUNK_PID:
            item = Item(source=name, read=refuse("left out: its name says that it is junk (-1)"))
        items.append(item)
    return items


def _budget(limits: UploadLimits) -> Callable[[Callable[[], bytes], str], bytes]:
    """Return what reads an image, until the bytes of one enrollment are spent; one of too many pixels is refused."""
    spent = 0

    def read_within(read: Callable[[], bytes], name: str) -> bytes:
        nonlocal spent
        if spent > limits.enroll_bytes:
            raise ImageError(f"{name}: left out, the images before it have {limits.enroll_bytes // 2**20} MB together already")
        data = read()
        spent += len(data)
        image_size(data, name, max_pixels=limits.pixels)
        return data

    return read_within


def _sources(path: str, limits: UploadLimits) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reader of every image that one uploaded file holds."""
    name = Path(path).name
    if not name.lower().endswith(".zip"):
        yield name, partial(_file_bytes, path, limits.file_bytes)
        return
    for member in list_members(Path(path)):
        if member.lower().endswith(IMAGE_SUFFIXES) and not member.startswith("__MACOSX/"):
            yield f"{name}!{member}", partial(read_member, path, member, max_bytes=limits.file_bytes)


def _file_bytes(path: str, limit: int) -> bytes:
    with Path(path).open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ImageError(f"{Path(path).name}: more than the limit of {limit // 2**20} MB")
    return data
