"""Identities: a number, or a name where people are known by name; in stores, which keep numbers, a name has a number too."""

import hashlib

from hat.data.labels import parse_label
from hat.errors import DataError, UsageError

Identity = int | str  # a person: a whole number, or a name that is not the text of one
FIRST_NAMED = -(2**62)  # numbers up to this one stand for names; no identity of another kind has them


def parse_identity(text: str, where: str) -> Identity:
    """Return the identity that a text means: ``7``, ``007`` and ``7.0`` are the number 7, anything else is a name.

    What is no label, or junk (-1), is a `UsageError` that begins with ``where``.
    """
    try:
        identity = parse_label(text)
    except DataError as error:
        raise UsageError(f"{where}: {error}") from None
    if identity == -1:
        raise UsageError(f"{where}: {text} is junk, which is not an identity")
    return identity


def check_identity(value: object, where: str) -> Identity:
    """Return an identity as a plain number or name; a text that means a number would be another person than the number.

    Anything else is a `UsageError` that begins with ``where``.
    """
    if isinstance(value, str):
        try:
            if parse_label(value) == value:
                return value
        except DataError as error:
            raise UsageError(f"{where}: {error}") from None
        raise UsageError(f"{where}: the text {value!r} means a number: give the number, {parse_label(value)!r}")
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{where}: expected a whole number or a name, got {value!r:.80}")
    number = int(value.__index__())
    if not FIRST_NAMED < number < 2**63:
        raise UsageError(f"{where}: expected a number between -2**62 and 2**63, got {number}")
    return number


def name_number(identity: Identity) -> int:
    """Return the number that stores keep for an identity: its own, or for a name one of 62 bits of the name's SHA-256."""
    if not isinstance(identity, str):
        return int(identity)  # NumPy's numbers too
    return FIRST_NAMED - int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") % 2**62
