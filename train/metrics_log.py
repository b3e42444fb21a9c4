"""Figures of a run, one JSON object a line in `metrics.jsonl`, and for TensorBoard where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hat.errors import MissingExtraError, WorkError
from hat.io.checkpoint import write_atomically

__all__ = ["METRICS_FILE", "MetricsLog", "RunningMeans"]

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends lines to `metrics.jsonl`.

    Every line has ``kind`` ("train" or "eval"), ``epoch`` (counted from 1) and ``step`` (steps done in all). Lines later than
    the step at which a run is resumed are dropped, since the run will write them again.

    Args:
        folder: The run's folder.
        resume_step: Steps done when the run is resumed; 0 for a new run.
        tensorboard: Write for TensorBoard too, into the folder ``tensorboard``.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
        WorkError: The file cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int, *, tensorboard: bool) -> None:
        self.path = folder / METRICS_FILE
        self._board = _open_tensorboard(folder / "tensorboard", resume_step) if tensorboard else None
        try:
            kept = _lines_until(self.path, resume_step) if resume_step else []
            write_atomically(self.path, "".join(kept).encode())
        except OSError as error:
            raise WorkError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def write(self, kind: str, epoch: int, step: int, figures: Mapping[str, float]) -> None:
        """Append a line.

        Raises:
            WorkError: The file cannot be written.
        """
        line = json.dumps({"kind": kind, "epoch": epoch, "step": step, **figures})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise WorkError(f"{self.path} cannot be written: {error.strerror or error}") from None
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write what is left to be written."""
        if self._board is not None:
            self._board.close()


class RunningMeans:
    """Means of figures since the last reset; their sums can be saved with the state of a run."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, figures: Mapping[str, float]) -> None:
        """Count one more set of figures."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        """Means by name; empty where nothing was counted."""
        return {name: total / self.count for name, total in self.sums.items()}

    def reset(self) -> None:
        """Begin anew."""
        self.sums, self.count = {}, 0

    def state(self) -> dict[str, list[float]]:
        """Sums and counts, as `restore` takes them."""
        return {name: [total, float(self.count)] for name, total in self.sums.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Take up saved sums."""
        self.sums = {name: total for name, (total, _) in state.items()}
        self.count = max((int(count) for _, count in state.values()), default=0)


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines of steps up to this one; a process killed while writing may have left half a line."""
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("step", step + 1) <= step:
            kept.append(line + "\n")
    return kept


def _open_tensorboard(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "train", "log.tensorboard") from None
    # TensorBoard itself hides what an interrupted run wrote after the step from which it is resumed.
    return SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)
