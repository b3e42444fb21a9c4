"""Starting, asking and stopping the processes of a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from types import TracebackType
from typing import Any

from hat.errors import UsageError, WorkError


class WorkerProcess:
    """One process that runs `hat.export.bench.worker`; a context manager that ends it.

    Args:
        name: What it works on, for messages.
        num_threads: Threads of the libraries that read their number when they start; None leaves it to them.
    """

    def __init__(self, name: str, num_threads: int | None = None) -> None:
        self.name = name
        environment = dict(os.environ)
        if num_threads is not None:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(num_threads))
        self._messages = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hat.export.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            encoding="utf-8",
            env=environment,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let it do something and wait for the answer.

        Raises:
            UsageError: What was asked for cannot be had.
            WorkError: It failed, or the process died: its last words are in the message.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkError(f"{self.name}: its process ended with code {self._process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = UsageError if answer["exit_code"] == UsageError.exit_code else WorkError
            raise kind(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._messages.seek(0)
        lines = [line.strip() for line in self._messages.read().splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing; a process that is out of memory is killed with code -9"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # it died with a request unread, which was told already
            self._process.stdin.close()
        self._messages.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
