"""The one exception tree: every error that this package raises on purpose is a `HatError`.

A message says what is wrong, what was expected, what was got and what to do next. The command line prints the message alone,
without a traceback, and exits with `exit_code`: 2 when the request was wrong, 1 when the request was right and the work failed.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class HatError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = 1


class WorkError(HatError):
    """The request was sound and the work failed: a tolerance was not met, a loss became NaN, a disk is full."""


class UsageError(HatError):
    """The request cannot be met as it was made; nothing was changed."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """A configuration has an unknown key, a value of the wrong type, or values that contradict each other."""


class ModelError(UsageError):
    """A model cannot be built or fed as asked: unknown name, unsupported backbone option, wrong image size."""


class WeightsError(UsageError):
    """A file of weights is missing, is refused, or does not fit the model."""


class CheckpointError(UsageError):
    """A checkpoint folder is missing, incomplete, or of another version or model."""


class DataError(UsageError):
    """A data set is missing, incomplete or laid out in an unexpected way."""


class ImageError(DataError):
    """One image cannot be used: missing, empty, truncated, too large, or not an image. The message begins with its path."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed: the distribution ``library``, which an extra of hat-reid brings."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{library} is needed for {purpose} and is not installed: pip install 'hat-reid[{extra}]'")


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return one sentence about a name that is none of those known: the nearest of them, or all where none is near.

    ``what`` says what it would have been, and shows the name as it was typed: ``preset 'markt'``, ``key optim.rl``.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} ({hint})"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that says anything, or its type where none does."""
    return (_lines(error) or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """Return the last such line: OpenVINO's messages begin with its own source files."""
    return (_lines(error) or [type(error).__name__])[-1]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]


_MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "failed to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on the host or on a GPU, whichever library raised it."""
    if isinstance(error, HatError):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be loaded
        return True
    text = str(error).lower()
    return any(words in text for words in _MEMORY_WORDS)  # ONNX Runtime's exceptions have no class of their own


def describe_failure(error: BaseException) -> str:
    """Return one sentence about an error that nobody foresaw: what failed and what to do next."""
    if is_out_of_memory(error):
        return "memory ran out: lower the batch size, the image size or the number of workers, or close other programs"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {(_lines(error) or ['no message'])[0]} (set HAT_DEBUG=1 to see where)"
