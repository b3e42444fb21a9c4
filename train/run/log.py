"""Metrics of a run, one JSON object a line in `metrics.jsonl`, and for TensorBoard where that is asked for."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import Progress, TaskID

from hat.console import percent, progress, stderr
from hat.errors import MissingExtraError, WorkError
from hat.io.checkpoint import write_atomically

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

    def write(self, kind: str, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line.

        Raises:
            WorkError: The file cannot be written.
        """
        line = json.dumps({"kind": kind, "epoch": epoch, "step": step, **metrics})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise WorkError(f"{self.path} cannot be written: {error.strerror or error}") from None
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write what is left to be written."""
        if self._board is not None:
            self._board.close()


class RunningMeans:
    """Means of metrics since the last reset; their sums can be saved with the state of a run."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # name -> [sum, count]; a metric that a step lacks does not count for it

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count one more set of metrics."""
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = [total + value, count + 1]

    def means(self) -> dict[str, float]:
        """Means by name; empty where nothing was counted."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def reset(self) -> None:
        """Begin anew."""
        self._sums = {}

    def state(self) -> dict[str, list[float]]:
        """Return sums and counts, as `restore` takes them."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Take up saved sums."""
        self._sums = {name: list(pair) for name, pair in state.items()}


class RunDisplay:
    """Shows a run on stderr; silent in all processes but the first.

    Args:
        num_epochs: Length of the run.
        num_steps: Steps of an epoch.
        done: Steps done before, in a run that is resumed.
        silent: Show nothing.
    """

    def __init__(self, num_epochs: int, num_steps: int, done: int, *, silent: bool) -> None:
        self.num_epochs = num_epochs
        self.num_steps = num_steps
        self.done = done
        self.silent = silent
        self._began = time.monotonic()
        self._done_at_start = done
        self._context = progress()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> RunDisplay:
        if not self.silent:
            self._bar = self._context.__enter__()
            self._task = self._bar.add_task("training", total=self.num_epochs * self.num_steps, completed=self.done, info="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._context.__exit__(kind, error, traceback)

    def step(self, epoch: int, metrics: Mapping[str, float] | None, lr: float, images_per_s: float) -> None:
        """Count a step.

        Args:
            epoch: The epoch, counted from 0.
            metrics: Losses to show, or None to leave those shown before.
            lr: Learning rate.
            images_per_s: Images of all processes a second.
        """
        self.done += 1
        if self._bar is None:
            return
        if metrics is not None:
            parts = " ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name != "loss")
            info = f"loss {metrics.get('loss', 0):.3f} ({parts})  {images_per_s:.0f} images/s  lr {lr:.2e}"
            self._bar.update(self._task, info=info)
        self._bar.update(self._task, completed=self.done, description=f"epoch {epoch + 1}/{self.num_epochs}")

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print a line for an epoch, where there is no terminal to draw a bar on as well."""
        if self.silent:
            return
        per_step = (time.monotonic() - self._began) / max(1, self.done - self._done_at_start)
        left = datetime.timedelta(seconds=round(per_step * (self.num_epochs * self.num_steps - self.done)))
        loss = metrics.get("loss", float("nan"))
        stderr.print(f"epoch {epoch + 1}/{self.num_epochs}: loss {loss:.4f}, {1 / per_step:.2f} steps/s, {left} left")

    def evaluated(self, epoch: int, metrics: Mapping[str, float], *, is_best: bool) -> None:
        """Print a line for an evaluation."""
        if not self.silent:
            shown = ", ".join(f"{name} {percent(metrics[name])}" for name in ("mAP", "rank1", "mINP") if name in metrics)
            stderr.print(f"epoch {epoch + 1}: {shown}{' (best so far)' if is_best else ''}")


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
