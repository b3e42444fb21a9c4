"""The state of a run: all that is needed to go on as if it had never stopped."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from hat.config import config_from_dict, config_to_dict
from hat.data.datasets import Split
from hat.errors import CheckpointError, ConfigError, WorkError
from hat.io.checkpoint import write_atomically

from ..config import TrainConfig

STATE_FILE = "state.pt"
FORMAT_VERSION = 1

_FREE_TO_CHANGE = ("num_epochs", "data", "eval", "checkpoint", "log")
"""Parts of the configuration that may differ when a run goes on: they change no batch, no gradient and no step. The length of
the run does where the schedule is a cosine, and is then fixed too."""


_ADDED_LATER: dict[str, Any] = {"projection": None, "teacher": None}
"""Parts that states of earlier versions lack, and what that means."""


class StepState(TypedDict):
    """What a `TrainingStep` needs to go on."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Tensor] | None
    """Weights of the moving average."""
    num_average_updates: int
    projection: dict[str, Tensor] | None
    """The projection that learns a teacher's embeddings."""


class RunState(StepState):
    """What `write_state` writes. Random numbers need no state: each is derived from (seed, epoch, step)."""

    format_version: int
    config: dict[str, Any]
    """The training configuration, as plain data."""
    data: str
    """Digest of the training set: `describe_data`."""
    epoch: int
    """The epoch to go on with, counted from 0."""
    step: int
    """Steps of that epoch already done."""
    global_step: int
    """Steps done in all."""
    teacher: str | None
    """The teacher's fingerprint."""
    interval: dict[str, list[float]]
    """Sums of metrics since the last line of `metrics.jsonl`."""
    whole_epoch: dict[str, list[float]]
    """Sums of metrics since the epoch began."""
    best: dict[str, Any] | None
    """Metrics of the best evaluation so far."""


def write_state(state: RunState, folder: Path) -> None:
    """Write a state atomically: a kill at any moment leaves the previous one or the new one.

    Raises:
        WorkError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / STATE_FILE, buffer.getvalue())
    except OSError as error:
        raise WorkError(f"{folder / STATE_FILE}: the state of the run cannot be written: {error.strerror or error}") from None


def read_state(folder: Path) -> RunState:
    """Read a state; nothing but tensors and plain data is accepted.

    Raises:
        CheckpointError: There is none, it is damaged, or it was written by a newer version.
    """
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
    """Refuse to go on with another configuration, other images or another teacher.

    A field that the state's version did not know has its default there: defaults are what was done before a field was added.

    Args:
        state: What was read.
        config: The configuration asked for, as plain data.
        data: `describe_data` of the training set asked for.
        teacher: Fingerprint of the teacher asked for.

    Raises:
        ConfigError: Something that changes results differs, and every such key is named; or the state's configuration has
            fields that this version does not know.
    """
    where = "the state of the run, which another version wrote"
    saved = config_to_dict(config_from_dict(TrainConfig, state["config"], where=where))
    free = set(_FREE_TO_CHANGE)
    if config["schedule"]["kind"] == "cosine":
        free.discard("num_epochs")
    before = {key: value for key, value in saved.items() if key not in free}
    now = {key: value for key, value in config.items() if key not in free}
    changes = _differences(before, now, "")
    if changes:
        raise ConfigError(
            f"the run to be resumed has another configuration: {'; '.join(changes)}; start a new run in another folder"
        )
    if state["data"] != data:
        raise ConfigError(f"the run to be resumed was trained on other images: {state['data']}; got {data}")
    if state["teacher"] != teacher:
        raise ConfigError("the run to be resumed learned from another teacher than the one that is there now")


def _differences(before: Any, now: Any, path: str) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found: list[str] = []
        for key in list(before) + [key for key in now if key not in before]:
            found += _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if before == now else [f"{path} was {before!r} and is {now!r}"]
