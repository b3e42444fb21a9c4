"""The audit log: who did what to which gallery and when, one JSON object a line.

It holds no image, no embedding, no name of a file and no label of a person: counts alone. A line is written before the answer
is given; where it cannot be written the answer is withheld, since what nobody can look into later should not be had.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from hat.errors import UsageError


class AuditLog:
    """Appends lines to a file that is readable by its owner alone.

    Args:
        path: The file; lines are added to one that is there. It may be moved away while the service runs (logrotate): the next
            line makes it again.

    Raises:
        UsageError: It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        try:
            os.close(self._open())
        except OSError as error:
            raise UsageError(f"--audit {self.path}: cannot be opened: {error.strerror}") from None

    def write(self, facts: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
            facts: Plain data; the time is added.

        Raises:
            OSError: It cannot be written.
        """
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = orjson.dumps({"time": stamp, **facts}, option=orjson.OPT_APPEND_NEWLINE)
        descriptor = self._open()
        try:
            # One call for one line: appended whole or not at all, also where two processes share the file.
            if os.write(descriptor, line) != len(line):
                raise OSError("the line was cut short")
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
