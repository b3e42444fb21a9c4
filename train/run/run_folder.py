"""The folder of a run: what is in it, when it may be written to, by whom, and the state from which a run goes on.

``OUT`` itself is a checkpoint, the run's product: the best evaluated weights, or the last where nothing is evaluated. Beside it
stand ``config.yaml``, ``metrics.jsonl`` and ``last/``: the last weights as a checkpoint, and the state to resume from; and
``teacher.safetensors`` where a teacher's embeddings were computed once. ``.lock`` names the process that trains in it.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from hat.config import config_from_dict, config_to_dict, config_to_yaml, differences
from hat.data.datasets import Split
from hat.errors import CheckpointError, ConfigError, UsageError
from hat.io.atomic_output import clear_leftovers, write_atomically, writing
from hat.io.checkpoint import CONFIG_FILE, WEIGHTS_FILE

from ..config import TrainConfig
from ..teacher import TEACHER_FILE
from .log import METRICS_FILE

RECIPE_FILE = "config.yaml"
_LOCK_FILE = ".lock"
STATE_FILE = "state.pt"
FORMAT_VERSION = 1

_FREE_TO_CHANGE = ("num_epochs", "data", "eval", "checkpoint", "log")
"""Parts of the configuration that may differ when a run goes on: they change no batch, no gradient and no step. The length of
the run does where the schedule is a cosine, and is then fixed too."""

_ADDED_LATER: dict[str, Any] = {"projection": None, "teacher": None, "world_size": None}
"""Parts that states of earlier versions lack, and what that means."""

_REMOVED: dict[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8, "nesterov": False}
"""Options of the optimizer that are gone, and the values that they have been fixed to."""


class RunFolder:
    """A run's folder, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()

    @property
    def last(self) -> Path:
        """Folder of the last weights and the state."""
        return self.path / "last"

    @property
    def has_state(self) -> bool:
        """Return whether there is a state to resume from; a run that was killed early has none and begins again."""
        return (self.last / STATE_FILE).is_file()

    def describe_state(self) -> str:
        """Return the location of the last state, for the message of a run that failed."""
        return f"the last state is kept in {self.last}" if self.has_state else "no state was written yet"

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse a folder in which a run may not ``resume``, or be replaced by ``force``, or begin; nothing is changed."""
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

    def check_inputs(self, config: TrainConfig, *, resume: bool) -> None:
        """Refuse to begin a run with weights that its beginning would delete: those of a run that is replaced."""
        folder = self.path.resolve()
        for name in (config.initial_checkpoint, config.backbone_weights, config.distill.teacher):
            path = None if name is None else Path(name).expanduser().resolve()
            if path is not None and not resume and path.exists() and folder in (path, *path.parents):
                raise UsageError(
                    f"the run would begin with {name}, which --force removes: choose another --out, or copy it first"
                )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other trainings out of the folder for as long as the context lasts.

        The system gives the lock of a process on this machine back however it ends; that of another machine, which shares the
        folder, stays until its process or somebody removes it. Where another training has the folder, a UsageError names its
        host and process.
        """
        import fcntl  # here, so that the rest of the package can be imported where there is none

        made = not self.path.exists()
        path, host = self.path / _LOCK_FILE, socket.gethostname()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
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
        """Make the folder ready and write the configuration into it; a run that is there and not resumed is removed."""
        products = (WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE, TEACHER_FILE)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.last):  # temporary files of a process that was killed while it wrote
                for name in (*products, RECIPE_FILE, STATE_FILE):
                    clear_leftovers(folder / name)
            if not resume:  # nothing but what a run writes: somebody may have put something else beside it
                for name in products:
                    (self.path / name).unlink(missing_ok=True)
                for folder in (self.last, self.path / "tensorboard"):
                    if folder.is_dir() and not folder.is_symlink():
                        shutil.rmtree(folder)
            write_atomically(self.path / RECIPE_FILE, config_to_yaml(config).encode())


def _read_owner(path: Path) -> tuple[str, str]:
    """(host, process) that a lock names; the first is empty where it names none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["host"]), str(content["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", "unknown"


class StepState(TypedDict):
    """State of a `TrainingStep`."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Tensor] | None
    num_average_updates: int
    projection: dict[str, Tensor] | None  # which learns a teacher's embeddings


class RunState(StepState):
    """State of a run, as `write_state` writes it. Random numbers need no state: each is derived from (seed, epoch, step)."""

    format_version: int
    config: dict[str, Any]
    data: str  # what `describe_data` says of the training set
    epoch: int  # to go on with, counted from 0
    step: int  # steps of that epoch already done
    global_step: int  # steps done in all
    teacher: str | None  # its fingerprint
    world_size: int | None  # number of processes; None is not known
    interval: dict[str, list[float]]  # sums of metrics since the last line of `metrics.jsonl`
    whole_epoch: dict[str, list[float]]  # and since the epoch began
    best: dict[str, Any] | None  # metrics of the best evaluation so far


def write_state(state: RunState, folder: Path) -> None:
    """Write a state atomically: a kill at any moment leaves the previous one or the new one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with writing(folder / STATE_FILE):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / STATE_FILE, buffer.getvalue())


def read_state(folder: Path) -> RunState:
    """Read a state; a file of anything but tensors and plain data, or of a newer version, is a CheckpointError."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: no state to resume from")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); start again with --force") from None
    content = {**_ADDED_LATER, **content} if isinstance(content, Mapping) else {}
    missing = set(RunState.__annotations__) - set(content)
    if missing:
        raise CheckpointError(f"{path} is no state of a run: {', '.join(sorted(missing))} missing")
    if content["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"{path} is of format {content['format_version']}, this version reads up to {FORMAT_VERSION}")
    return cast(RunState, content)


def describe_data(split: Split) -> str:
    """Return a digest of a training set's file names and labels, in order, wherever its folder is."""
    digest = hashlib.sha256()
    for sample in split:
        name = sample.path.replace("\\", "/").rsplit("/", 1)[-1]
        digest.update(f"{name}\t{sample.pid}\t{sample.camid}\n".encode("utf-8", "surrogateescape"))
    return f"{len(split)} images, {split.num_pids} identities, sha256 {digest.hexdigest()[:16]}"


def check_same_run(state: RunState, config: Mapping[str, Any], data: str, teacher: str | None = None) -> None:
    """Refuse to go on with another configuration (plain data), other images (`describe_data`) or another teacher (fingerprint).

    A field that the state's version did not know has its default there: defaults are what was done before a field was added.
    The ConfigError names every key that differs and changes results, or that this version does not know.
    """
    where = "the state of the run, which another version wrote"
    saved = config_to_dict(config_from_dict(TrainConfig, _without_removed(state["config"]), where=where))
    free = set(_FREE_TO_CHANGE) - ({"num_epochs"} if config["schedule"]["kind"] == "cosine" else set())
    differing = [difference for difference in differences(saved, config) if difference[0].split(".")[0] not in free]
    changes = [f"{name} was {before!r} and is {now!r}" for name, before, now in differing]
    if changes:
        raise ConfigError(
            f"the run to be resumed has another configuration: {'; '.join(changes)}; start a new run in another folder"
        )
    if state["data"] != data:
        raise ConfigError(f"the run to be resumed was trained on other images: {state['data']}; got {data}")
    if state["teacher"] != teacher:
        raise ConfigError("the run to be resumed learned from another teacher than the one that is there now")


def _without_removed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the options that earlier versions had, unless one of them was set."""
    optim = {key: value for key, value in config.get("optim", {}).items() if _REMOVED.get(key, ...) != value}
    return {**config, "optim": optim}
