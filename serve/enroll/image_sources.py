"""Sources of images: files, folders, zip files, tables, and videos with a table of boxes; all as one stream of items."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from hat.data.archives import split_location
from hat.data.csv_table import locate
from hat.data.datasets import DISTRACTOR_PID, JUNK_PID
from hat.data.folders import find_people
from hat.data.image_trees import ImageTree, open_tree
from hat.data.images import describe_frames, read_encoded
from hat.data.labels import parse_label
from hat.data.registry import detect_dataset, load_dataset
from hat.errors import DataError, UsageError

from ..gallery.gallery import Gallery
from ..gallery.identities import Identity
from .items import BOX_COLUMNS, CAMERA_ATTRIBUTE, Item, Labels, read_name, read_rows
from .video import BoxRow, is_video_name, read_boxes, video_items

NameStyle = Literal["auto", "market", "none"]  # file names are read where they look like Market's, always, or never

_JUNK = "junk, pid -1"
_UNREAD = "neither images nor texts, or links that lead nowhere"
_NAMED_MARKETS_WAY = ("market1501", "dukemtmc-reid", "synth", "market-style", "csv")

_Person = tuple[Identity | None, int | None]  # identity, -1 for junk and 0 for distractors, and camera
_MAX_UNREAD = 20
_TABLE_COLUMNS = ("path", "pid", "camid", "time", *BOX_COLUMNS)


class ImageSources:
    """Sources of one enrollment: images, folders (with all that is in them), zip files, tables (``.csv``) or one video.

    ``labels`` are known of all of them, a time is a video's beginning; ``boxes`` is the table of the people in it. ``cameras``
    gives the numbers of cameras that a gallery knows by name, and the largest number of any camera there: it is asked where
    tables call cameras by names.

    Attributes:
        left_out: Why -> how many files were left out, of those that were listed last.
        unread: The first of the files that are not read.
        notes: Notes for the user.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        labels: Labels | None = None,
        names: NameStyle = "auto",
        boxes: Path | None = None,
        cameras: Callable[[], tuple[Mapping[str, int], int]] = lambda: ({}, 0),
    ) -> None:
        if names not in get_args(NameStyle):
            raise UsageError(f"names are read as {', '.join(get_args(NameStyle))}, got {names!r}")
        self._inputs = [str(Path(text)) for text in inputs]
        self._labels = labels or Labels()
        self._names: NameStyle = names
        self._boxes = boxes
        self._known_cameras = cameras
        self.left_out: Counter[str] = Counter()
        self.unread: list[str] = []
        self.notes: list[str] = []
        videos = [text for text in self._inputs if is_video_name(text)]
        if videos and boxes is None:
            raise UsageError(
                f"{videos[0]} is a video: give a table of the people in it with --boxes (columns frame or time, "
                f"{', '.join(BOX_COLUMNS)}), as a detector or tracker finds them"
            )
        if boxes is not None and (len(self._inputs) != 1 or not videos):
            raise UsageError("--boxes belongs to one video, given by itself")
        for text in self._inputs:
            _check_presence(text)

    def count(self) -> int:
        """Return how many items there are; every list and table is read for it, and of images some headers, for a note."""
        self._clear()
        if self._boxes is not None:
            return sum(1 for _ in self._rows(self._boxes))
        whole = [None if item.box else item.source for item in self._listed()]
        self._note(*describe_frames([path for path in whole if path is not None]))
        return len(whole)

    def items(self) -> Iterator[Item]:
        """Yield the items, in an order that is always the same."""
        self._clear()
        if self._boxes is not None:
            stream = video_items(Path(self._inputs[0]), self._rows(self._boxes), self._labels.time_s)
            yield from map(replace(self._labels, time_s=None).of, stream)
        else:
            yield from map(self._labels.of, self._listed())

    @functools.cached_property
    def _named_cameras(self) -> dict[str, int]:
        """The number of every camera that a table calls by a name: one name is one number, in all tables and in the gallery."""
        named: set[str] = set()
        largest = 0
        for text in self._inputs:
            if not text.lower().endswith(".csv"):
                continue
            for row in read_rows(Path(text), required=("path",)):
                camera = row.label("camid")
                if isinstance(camera, str):
                    named.add(camera)
                else:
                    largest = max(largest, camera or 0)
        if not named:
            return {}
        known, largest_known = self._known_cameras()
        new = sorted(named - known.keys())
        return {**known, **{name: number for number, name in enumerate(new, start=max(largest, largest_known) + 1)}}

    def _clear(self) -> None:
        self.left_out.clear()
        self.unread.clear()

    def _note(self, *notes: str) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def _is_junk(self, pid: Identity | None) -> bool:
        if pid == JUNK_PID:
            self.left_out[_JUNK] += 1
        return pid == JUNK_PID

    def _rows(self, boxes: Path) -> Iterator[BoxRow]:
        return (row for row in read_boxes(boxes) if not self._is_junk(row.labels.pid))

    def _listed(self) -> Iterator[Item]:
        for text in self._inputs:
            path = Path(text)
            if text.lower().endswith(".csv"):
                yield from self._table(path)
            elif path.is_dir() or (path.is_file() and text.lower().endswith(".zip")):
                yield from self._tree(path)
            else:
                yield from self._named(path.name if split_location(text) is None else text.rpartition("/")[2], text)

    def _tree(self, path: Path) -> Iterator[Item]:
        """Yield all images in a folder or a zip file and below, folder by folder in sorted order."""
        people: dict[str, _Person] = {}
        if self._names == "auto":
            try:
                people = _read_people(path)
            except DataError as error:
                self._note(f"no identities are read: {error}")
        root: ImageTree = open_tree(path)
        waiting: list[tuple[ImageTree, frozenset[str]]] = [(root, frozenset({os.path.realpath(root.where)}))]
        while waiting:
            tree, above = waiting.pop()
            for name, location in tree.images():
                yield from self._named(name, location, people.get(location))
            for name in tree.unread():
                self.left_out[_UNREAD] += 1
                if len(self.unread) < _MAX_UNREAD:
                    self.unread.append(f"{tree.where}/{name}")
            for name in reversed(tree.folders()):
                child = tree.child(name)
                key = os.path.realpath(child.where)
                if key not in above:  # a link to a folder above would never end
                    waiting.append((child, above | {key}))

    def _named(self, name: str, location: str, person: _Person | None = None) -> Iterator[Item]:
        """Yield an image with the labels that its data set says, or its name, unless it is to be left out."""
        item = _image(_absolute(location))
        labels = None if self._names == "none" else read_name(name)
        if person is not None:
            pid, camid = person
            named = labels or Labels()
            camid = named.camid if camid is None else camid
            labels = replace(named, pid=None if pid == DISTRACTOR_PID else pid, camid=camid)
        if labels is None:
            if self._names == "market":
                self.left_out["their names are not Market-style"] += 1
            else:
                yield item
        elif self._labels.pid is not None or not self._is_junk(labels.pid):
            yield labels.of(item)

    def _table(self, path: Path) -> Iterator[Item]:
        for row in read_rows(path, required=("path",)):
            text = row.text("path")
            if "\0" in text:
                raise DataError(f"{row.where}: path is {text!r}, expected a file's path")
            labels = row.labels(_TABLE_COLUMNS, self._named_cameras)
            if not self._is_junk(labels.pid):
                item = _image(_absolute(locate(text, path.parent)))
                yield labels.of(replace(item, box=row.box(), time_s=row.timestamp("time")))


def gallery_cameras(location: str) -> tuple[dict[str, int], int]:
    """Return the cameras that a gallery knows by name, with their numbers, and the largest number of any camera there."""
    try:
        gallery = Gallery.open(location, read_only=True)
    except UsageError:  # there is none yet; whatever else is wrong is said when it is opened to be written
        return {}, 0
    with gallery:
        named: dict[str, int] = {}
        for record in gallery.records():
            name = record.attributes.get(CAMERA_ATTRIBUTE)
            if isinstance(name, str) and record.camid is not None:
                named.setdefault(name, record.camid)
        return named, max((camid or 0 for camid in gallery.counts().by_camid), default=0)


def _check_presence(text: str) -> None:
    try:
        member = split_location(text)
        found = Path(text).exists() if member is None else Path(member[0]).is_file()
    except OSError as error:
        raise DataError(f"{text:.200}: cannot be looked up ({error.strerror})") from None
    if not found:
        raise DataError(f"{text}: there is no such file or folder")


def _read_people(root: Path) -> dict[str, _Person]:
    """Return who is on the images of a data set without Market-style names, by location, as ``hat eval`` reads it."""
    try:
        kind = detect_dataset(root)
    except DataError:
        return {}
    if kind in _NAMED_MARKETS_WAY or (kind == "folder" and open_tree(root).images()):  # images beside folders: of no layout
        return {}
    if kind == "folder":
        return {path: (parse_label(label), camid) for path, (label, camid) in find_people(root).items()}
    dataset = load_dataset(kind, root)
    samples = [*dataset.train, *dataset.query, *dataset.gallery]
    return {sample.path: (sample.pid, sample.camid if dataset.has_cameras else None) for sample in samples}


def _image(source: str) -> Item:
    return Item(source=source, read=functools.partial(read_encoded, source))


def _absolute(location: str) -> str:
    """Return a location that means the same wherever a later command is called."""
    member = split_location(location)
    return str(Path(location).absolute()) if member is None else f"{Path(member[0]).absolute()}!{member[1]}"
