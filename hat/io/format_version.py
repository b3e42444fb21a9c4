"""Facts that are stored with the version of their format: read where it is known, refused where it is newer."""

from collections.abc import Mapping
from typing import Any, TypeVar

from hat.config import config_from_dict
from hat.errors import CheckpointError, ConfigError

T = TypeVar("T")


def facts_from_dict(cls: type[T], content: Mapping[str, Any], *, newest: int, source: str) -> T:
    """Build an object with a field ``format_version`` from plain data.

    Args:
        cls: A class made by `hat.config.config_dataclass`.
        content: Plain data.
        newest: The newest version that is known.
        source: What it was read from, for the error message.

    Raises:
        CheckpointError: The version is newer, or a field is unknown, missing or wrong.
    """
    version = content.get("format_version")
    if isinstance(version, int) and version > newest:
        raise CheckpointError(f"{source} is of format {version}, this version reads up to {newest}: update hat-reid")
    try:
        return config_from_dict(cls, content, where=source)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
