"""A run that is ended before its end goes on as if it had never stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import TINY_RUN
from typer.testing import CliRunner
from whole_runs import CPU, assert_same_weights, run_lines

from hat.cli import app
from hat.config import merge
from hat.data import merge_training, open_dataset
from hat.errors import UsageError, WorkError
from hat.train import Trainer, compose_config, train_model
from hat.train.run import stopping
from hat.train.run.run_folder import RunFolder
from hat.train.run.stopping import StopRequest


def test_a_step_at_a_time_ends_in_the_same_weights(market_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(market_folder)
    changes = {"num_epochs": 1, "eval": {"every_epochs": 1}, "log": {"every_steps": 2}}
    config = compose_config([("", TINY_RUN), ("", changes)])
    best = train_model(config, [dataset], tmp_path / "whole", device="cpu").best
    parts = tmp_path / "parts"
    for step in range(1, 4):
        trainer = Trainer(config, merge_training([dataset]), RunFolder(parts), CPU, resume=step > 1, evaluation=dataset)
        trainer.folder.begin(config, resume=step > 1)
        result = trainer.run(stop_at=0.0)
        assert result.stopped == "its time is over" and result.num_steps == step
        # The last step of an epoch counts as done before the evaluation that follows it.
        assert (trainer.epoch, trainer.epoch_step) == (0, step)
    result = train_model(config, [dataset], parts, device="cpu", resume=True, stop_after_s=1000)
    assert result.stopped is None and result.num_images == 0 and result.best == best
    assert_same_weights(tmp_path / "whole", parts)
    assert_same_weights(tmp_path / "whole" / "last", parts / "last")
    assert run_lines(parts) == run_lines(tmp_path / "whole")


def test_the_command_says_that_it_stopped(market_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(merge(TINY_RUN, {"num_epochs": 1})))
    options = ["--config", str(recipe), "--data", str(market_folder), "--out", str(tmp_path / "run"), "--device", "cpu"]
    told = CliRunner().invoke(app, ["train", "market1501", *options, "--stop-after-s", "0.001", "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["stopped"] == "its time is over" and json.loads(told.stdout)["num_steps"] == 1
    assert "stopped after epoch 1, step 1 of 3: its time is over" in told.stderr.replace("\n", " ")
    assert torch.load(tmp_path / "run" / "last" / "state.pt", weights_only=True)["global_step"] == 1
    refused = CliRunner().invoke(app, ["train", "market1501", *options, "--stop-after-s", "0"])
    assert isinstance(refused.exception, UsageError) and "is above 0, got 0" in str(refused.exception)


def test_the_signal_is_listened_to_inside_the_context_alone() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with StopRequest(None, CPU) as stop:
            assert not stop.is_due(together=True)
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_due(together=True) and stop.reason == "the process was asked to end"
        assert not heard
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest(None, CPU) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # torchrun passes on what the terminal has sent already
        assert stop.is_due(together=True)
    monkeypatch.setattr(stopping, "_SAME_REQUEST_S", 0.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest(None, CPU) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_due(together=True) and stop.reason == "the process was asked to end"
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    code = (
        "import signal, torch\nfrom hat.train.distributed import DistributedContext\n"
        "from hat.train.run import stopping\nfrom hat.train.run.stopping import StopRequest\nstopping._SAME_REQUEST_S = 0\n"
        "with StopRequest(None, DistributedContext(torch.device('cpu'))):\n"
        "    signal.raise_signal(signal.SIGTERM)\n    print('goes on', flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM)\n    print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGTERM and done.stdout == "goes on\n" and "once more ends at once" in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_is_one_sentence(error: Exception, market_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(trainer: Trainer, stop_at: float | None) -> None:
        trainer._write_state()
        raise error

    monkeypatch.setattr(Trainer, "run", fail)
    with pytest.raises(WorkError) as caught:
        train_model(compose_config([("", TINY_RUN)]), [open_dataset(market_folder)], tmp_path / "run", device="cpu")
    said = str(caught.value)
    assert said.startswith("memory ran out: lower sampler.num_identities") and "\n" not in said
    assert said.endswith(f"the last state is kept in {tmp_path / 'run' / 'last'}")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_in_another_thread_listens_to_no_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter() -> None:
        with StopRequest(None, CPU):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("stop_after_s", [0, -1, float("nan")])
def test_times_that_are_none(stop_after_s: float, market_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stop_after_s is above 0"):
        train_model(
            compose_config([("", TINY_RUN)]), [open_dataset(market_folder)], tmp_path / "run", stop_after_s=stop_after_s
        )
    assert not (tmp_path / "run").exists()
