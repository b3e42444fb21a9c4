"""From the labels that people write to identities: one rule for file names, folders, tables, the command line and HTTP."""

import re
import unicodedata
from collections.abc import Iterable

from hat.errors import DataError

MAX_LABEL_LENGTH = 200  # characters that a name may have

# Spreadsheets write whole numbers as 7.0. More than 18 digits would not fit into int64: such a label is a name.
_INTEGER = re.compile(r"[+-]?0*([0-9]{1,18})(?:\.0*)?")

_CAMERA_WORD = r"c(?:am(?:era)?[_\- ]?)?([0-9]{1,6})|cam(?:era)?[_\- ]?([a-z])"
_CAMERA_IN_NAME = re.compile(rf"(?:^|[_\-. ])(?:{_CAMERA_WORD})(?=[sft][0-9]|[_\-. ]|$)", re.IGNORECASE)
_CAMERA_FOLDER = re.compile(_CAMERA_WORD, re.IGNORECASE)
_TRACKLET_NAME = re.compile(r"(?:-1|[0-9]{4})C([0-9]{1,2})T[0-9]{4}F[0-9]{3}")  # MARS: identity, camera, tracklet, frame


def plain_name(name: str) -> str:
    """Return a name as it is compared: lower case, letters and digits alone, so that ``CUHK03-NP`` is ``cuhk03_np``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def parse_camera(file_name: str) -> int | None:
    """Return the camera that a file name says, or None.

    Read are ``c1``, ``cam1``, ``Cam_1`` and ``camera-1`` as a part of the name (``0002_c1s1_000451.jpg``, ``front_cam2.jpg``),
    with a letter in place of the number (``camA`` is 1, ``camB`` is 2), and MARS's ``0001C1T0001F001``.
    """
    stem = file_name.rpartition(".")[0] or file_name
    tracklet = _TRACKLET_NAME.match(stem)
    return int(tracklet[1]) if tracklet else _camera_number(_CAMERA_IN_NAME.search(stem))


def parse_camera_folder(name: str) -> int | None:
    """Return the camera that a folder's whole name says (``cam1``, ``Cam_A``), or None."""
    return _camera_number(_CAMERA_FOLDER.fullmatch(name))


def _camera_number(match: re.Match[str] | None) -> int | None:
    if match is None:
        return None
    return int(match[1]) if match[1] else ord(match[2].lower()) - ord("a") + 1


def parse_label(text: str) -> int | str:
    """Return what a label means: a number where it is written as a whole one, otherwise the name as it stands.

    ``7``, ``007``, ``+7`` and ``7.0`` are the number 7, ``0000`` is 0 (distractors), ``-1`` and ``-1.0`` are -1 (junk). A
    `DataError` for what is empty, too long, cannot be printed, or is a negative number other than -1.
    """
    label = unicodedata.normalize("NFC", text.strip())  # macOS writes the same name in other characters
    match = _INTEGER.fullmatch(label)
    if match is None:
        if not label or len(label) > MAX_LABEL_LENGTH or not label.isprintable():
            raise DataError(
                f"{text!r:.100} is no label: expected a number or a printable name of 1 to {MAX_LABEL_LENGTH} characters"
            )
        return label
    number = int(match[1])
    if label.startswith("-") and number > 1:
        raise DataError(f"the label {label} is a negative number: expected -1 (junk), 0 (distractors) or more")
    return -number if label.startswith("-") else number


def number_labels(labels: Iterable[str], where: str) -> dict[str, int]:
    """Return an integer for every label as it is written, since arrays hold integers; ``where`` begins an error's message.

    Numbers keep their values; names are numbered in sorted order after the largest, from 1 at the least: 0 is the label of
    distractors. Labels that mean the same (``7`` and ``007``) get the same integer.
    """
    try:
        meaning = {label: parse_label(label) for label in set(labels)}
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    numbers = [value for value in meaning.values() if isinstance(value, int)]
    names = sorted({value for value in meaning.values() if isinstance(value, str)})
    named = {name: number for number, name in enumerate(names, start=max([0, *numbers]) + 1)}
    return {label: value if isinstance(value, int) else named[value] for label, value in meaning.items()}
