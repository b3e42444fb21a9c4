"""API keys: who may use the service, kept as hashes in a small JSON file.

A key is 256 random bits behind a short public id, so that one SHA-256 is enough to keep it: there is no word list to try. The
key itself is shown once, when it is made, and is in no file. A running service reads the file again when it changes: a key
that was removed stops working within a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.errors import ConfigError, UsageError, WorkError

__all__ = ["ApiKey", "KeyFile", "KeyRing", "Role"]

Role = Literal["read", "write"]
"""``"read"`` embeds, searches and lists; ``"write"`` also enrolls, removes and makes galleries."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_TOKEN = re.compile(r"hat_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_MAX_FILE_BYTES = 2**20
_CHECK_EVERY_S = 1.0


@config_dataclass
class ApiKey:
    """One key, without its secret."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    """Public part of the key, by which it is removed and which the audit log names."""

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
    """Whose it is, for people."""

    role: Role
    """What it allows."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hash of the whole key."""

    created: str
    """When it was made, UTC."""


@config_dataclass
class _Content:
    """A file of keys."""

    version: Literal[1] = 1
    """Of the format."""

    keys: tuple[ApiKey, ...] = Field(default=())
    """The keys."""


class KeyFile:
    """The file in which keys are kept.

    Args:
        path: The file; `add` makes it, readable by its owner alone.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()

    def read(self) -> tuple[ApiKey, ...]:
        """The keys.

        Raises:
            UsageError: The file is not there, is no file of keys, or can be changed by others.
        """
        try:
            with self.path.open("rb") as file:
                if os.name == "posix" and os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise UsageError(f"{self.path} can be changed by others, who could let themselves in: chmod 600 it")
                data = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}; make one with `hat keys add`") from None
        try:
            content = json.loads(data) if len(data) <= _MAX_FILE_BYTES else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise UsageError(f"{self.path} is no file of keys: expected a JSON object")
        try:
            return config_from_dict(_Content, content, where=str(self.path)).keys
        except ConfigError as error:
            raise UsageError(f"{self.path} is no file of keys: {error}") from None

    def add(self, name: str, role: Role) -> tuple[ApiKey, str]:
        """Make a key.

        Args:
            name: Whose it is; 1 to 64 letters, digits, spaces, dots, dashes and underscores.
            role: What it allows.

        Returns:
            What is kept of it, and the key itself, which is shown once and cannot be had again.

        Raises:
            UsageError: The name is of another form, or the file is no file of keys.
            WorkError: The file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"a key's name is 1 to 64 letters, digits, spaces, dots, dashes and underscores, got {name!r}")
        keys = self.read() if self.path.exists() else ()
        identity = secrets.token_hex(4)
        while any(key.id == identity for key in keys):
            identity = secrets.token_hex(4)
        token = f"hat_{identity}_{secrets.token_urlsafe(32)}"
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        key = ApiKey(id=identity, name=name, role=role, sha256=_digest(token), created=created)
        self._write((*keys, key))
        return key, token

    def remove(self, identity: str) -> ApiKey:
        """Remove a key by its id.

        Raises:
            UsageError: There is no such key.
            WorkError: The file cannot be written.
        """
        keys = self.read()
        for key in keys:
            if key.id == identity:
                self._write(tuple(one for one in keys if one is not key))
                return key
        raise UsageError(f"{self.path} has no key {identity!r}: `hat keys list` shows the ids")

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        text = json.dumps(config_to_dict(_Content(keys=keys)), indent=2) + "\n"
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    beside.unlink()
                raise
        except OSError as error:
            raise WorkError(f"{self.path}: cannot be written: {error.strerror}") from None


class KeyRing:
    """The keys of a running service.

    Args:
        file: Where they are kept; read at once, and again whenever it changes.

    Raises:
        UsageError: See `KeyFile.read`.
    """

    def __init__(self, file: KeyFile) -> None:
        self._file = file
        self._state = self._file_state()
        self._keys = {key.id: key for key in file.read()}
        self._checked = time.monotonic()

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._keys)

    def find(self, token: str) -> ApiKey | None:
        """The key that a client showed; None where it is none of these, or the file cannot be read any more."""
        self._refresh()
        match = _TOKEN.fullmatch(token)
        key = self._keys.get(match[1]) if match else None
        expected = key.sha256 if key is not None else "0" * 64
        return key if hmac.compare_digest(_digest(token), expected) else None

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._checked < _CHECK_EVERY_S:
            return
        self._checked = now
        if (state := self._file_state()) != self._state:
            self._state, self._keys = state, {}
            with contextlib.suppress(UsageError):  # a file that cannot be read lets nobody in
                self._keys = {key.id: key for key in self._file.read()}

    def _file_state(self) -> tuple[int, int, int] | None:
        try:
            status = self._file.path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
