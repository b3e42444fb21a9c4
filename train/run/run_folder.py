"""The folder of a run: what is in it, when it may be written to, and by whom.

``OUT`` itself is a checkpoint, the run's product: the best evaluated weights, or the last where nothing is evaluated. Beside it
stand ``config.yaml``, ``metrics.jsonl`` and ``last/``: the last weights as a checkpoint, and the state to resume from; and
``teacher.safetensors`` where a teacher's embeddings were computed once. ``.lock`` names the process that trains in it.
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from hat.config import config_to_yaml
from hat.errors import UsageError, WorkError
from hat.io.checkpoint import CONFIG_FILE, WEIGHTS_FILE, write_atomically

from ..config import TrainConfig
from ..teacher_rows import TEACHER_FILE
from .log import METRICS_FILE
from .state import STATE_FILE

RECIPE_FILE = "config.yaml"
_LOCK_FILE = ".lock"


class RunFolder:
    """A run's folder.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()

    @property
    def last(self) -> Path:
        """Folder of the last weights and the state."""
        return self.path / "last"

    @property
    def has_state(self) -> bool:
        """Whether there is a state to resume from; a run that was killed early has none and begins again."""
        return (self.last / STATE_FILE).is_file()

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse a folder that may not be written to; nothing is changed.

        Args:
            resume: Go on with the run that is there.
            force: Replace the run that is there.

        Raises:
            UsageError: Something is there and neither was asked for, or what is there is no run.
        """
        if resume and force:
            raise UsageError("--resume goes on with a run and --force replaces it: give one of them")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; --out names a folder")
        is_run = (self.path / RECIPE_FILE).is_file()
        if resume and not is_run:
            raise UsageError(f"{self.path} holds no run to resume: {RECIPE_FILE} is not there")
        occupied = self.path.is_dir() and any(path.name != _LOCK_FILE for path in self.path.iterdir())
        if occupied and not (resume or force):
            raise UsageError(
                f"{self.path} is not empty; go on with --resume, replace the run with --force, or choose another --out"
            )
        if occupied and force and not is_run:
            raise UsageError(
                f"{self.path} holds no run ({RECIPE_FILE} is not there), so --force does not empty it; choose another --out"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other trainings out of the folder for as long as the context lasts.

        The system gives the lock of a process on this machine back when it ends, however it ends. A lock that was taken on
        another machine, which shares the folder, stays until its process or somebody removes it.

        Raises:
            UsageError: Another training has the folder; its host and process are named.
            WorkError: The folder cannot be written.
        """
        import fcntl  # here, so that the rest of the package can be imported where there is none

        made = not self.path.exists()
        path, host = self.path / _LOCK_FILE, socket.gethostname()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WorkError(f"{self.path} cannot be written: {error.strerror or error}") from None
        try:
            owner_host, pid = _read_owner(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                locked = False
            else:  # unless it is the file that another process has removed meanwhile
                locked = path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino
            elsewhere = owner_host not in ("", host)
            if elsewhere or not locked:
                name, hint = owner_host or host, f"if it has ended, remove {path}" if elsewhere else "stop it or wait for it"
                raise UsageError(
                    f"another training works in {self.path}: process {pid} on {name}; {hint}, or choose another --out"
                )
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps({"host": host, "pid": os.getpid()}).encode())
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
            if made:
                with contextlib.suppress(OSError):  # it is not empty: the run has begun
                    self.path.rmdir()

    def begin(self, config: TrainConfig, *, resume: bool) -> None:
        """Make the folder ready and write the configuration into it; a run that is there and not resumed is removed.

        Raises:
            WorkError: The folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            if not resume:
                self._remove_run()
            write_atomically(self.path / RECIPE_FILE, config_to_yaml(config).encode())
        except OSError as error:
            raise WorkError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def _remove_run(self) -> None:
        """Remove what a run writes, and nothing else that somebody may have put beside it."""
        for name in (WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE, TEACHER_FILE):
            (self.path / name).unlink(missing_ok=True)
        for name in ("last", "tensorboard"):
            folder = self.path / name
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed while it wrote."""
        for folder in (self.path, self.last):
            for name in (WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE, RECIPE_FILE, STATE_FILE, TEACHER_FILE):
                for leftover in folder.glob(f".{name}.*"):
                    leftover.unlink()


def _read_owner(path: Path) -> tuple[str, str]:
    """(host, process) that a lock names; the first is empty where it names none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["host"]), str(content["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", "unknown"
