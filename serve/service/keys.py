"""API keys: who may use the service, kept as hashes in a small JSON file.

A key is 256 random bits behind a short public id, so that one SHA-256 is enough to keep it: there is no word list to try. It is
shown once, when it is made. A running service reads the file again every second, so that a removed key stops working.
"""

import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.errors import ConfigError, UsageError
from hat.io.atomic_output import atomic_output

Role = Literal["read", "write"]  # read embeds, searches and lists; write also enrolls, removes and makes galleries

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_TOKEN = re.compile(r"hat_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_MAX_FILE_BYTES = 2**20
_CHECK_EVERY_S = 1.0


@config_dataclass
class ApiKey:
    """One key, without its secret."""

    id: str  # public part of the key, by which it is removed and which the audit log names
    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]  # whose it is, for people
    role: Role
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # of the whole key
    created: str  # UTC


LOCAL = ApiKey(id="local", name="local", role="write", sha256="0" * 64, created="")
"""Everybody on this machine, where no keys are asked for."""


@config_dataclass
class _Content:
    """A file of keys."""

    version: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()


class KeyFile:
    """The file in which keys are kept; `add` makes it, readable by its owner alone."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()  # of a link, the file: that is what a service reads

    def read(self) -> tuple[ApiKey, ...]:
        """Return the keys; a file that is missing, that others can change, or that holds something else is a `UsageError`."""
        try:
            with self.path.open("rb") as file:
                if os.name == "posix" and os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise UsageError(f"{self.path} can be changed by others, who could let themselves in: chmod 600 it")
                data = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}; make one with `hat keys add`") from None
        try:
            if len(data) > _MAX_FILE_BYTES or not isinstance(content := json.loads(data), dict):
                raise ConfigError("expected a JSON object")
            return config_from_dict(_Content, content, where=str(self.path)).keys
        except (ValueError, ConfigError) as error:
            raise UsageError(f"{self.path} is not a file of keys: {error}") from None

    def add(self, name: str, role: Role) -> tuple[ApiKey, str]:
        """Make a key: what is kept of it, and the key itself, which is shown once and cannot be had again."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"a key's name is 1 to 64 letters, digits, spaces, dots, dashes and underscores, got {name!r}")
        keys = self.read() if self.path.exists() else ()
        while (key_id := secrets.token_hex(4)) in {key.id for key in keys}:
            pass
        token = f"hat_{key_id}_{secrets.token_urlsafe(32)}"
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        key = ApiKey(id=key_id, name=name, role=role, sha256=_digest(token), created=created)
        self._write((*keys, key))
        return key, token

    def remove(self, key_id: str) -> ApiKey:
        """Remove a key by its id."""
        keys = {key.id: key for key in self.read()}
        if key_id not in keys:
            raise UsageError(f"{self.path} has no key {key_id!r}: `hat keys list` shows the ids")
        removed = keys.pop(key_id)
        self._write(tuple(keys.values()))
        return removed

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        with atomic_output(self.path, overwrite=True) as part:
            part.touch(mode=0o600)
            part.write_text(json.dumps(config_to_dict(_Content(keys=keys)), indent=2) + "\n", encoding="utf-8")


class KeyRing:
    """The keys of a running service, read from a file at once, and again when a key is shown a second later or more."""

    def __init__(self, file: KeyFile) -> None:
        self._file = file
        self._keys = {key.id: key for key in file.read()}
        self._checked = time.monotonic()

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)

    def find(self, token: str) -> ApiKey | None:
        """Return the key that a client showed; None where it is none of these, or the file cannot be read any more."""
        now = time.monotonic()
        if now - self._checked >= _CHECK_EVERY_S:
            self._checked, self._keys = now, {}
            with suppress(UsageError):  # a file that cannot be read lets nobody in
                self._keys = {key.id: key for key in self._file.read()}
        match = _TOKEN.fullmatch(token)
        key = self._keys.get(match[1]) if match else None
        expected = key.sha256 if key is not None else "0" * 64
        return key if hmac.compare_digest(_digest(token), expected) else None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address, so that nobody needs a key there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
