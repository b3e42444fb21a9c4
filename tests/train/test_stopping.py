"""A run that is ended before its end, by time, by signals or killed as a real process, goes on as if it had never stopped."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_run import CPU, assert_same_weights, configure, options_of_a_run, read_state, run_lines
from typer.testing import CliRunner

from hat.cli import app
from hat.config import config_to_dict
from hat.data import merge_training, open_dataset
from hat.errors import UsageError, WorkError
from hat.train import Trainer, train_model
from hat.train.run import stopping
from hat.train.run.run_folder import RunFolder
from hat.train.run.stopping import StopRequest


def test_a_step_at_a_time_ends_in_the_same_weights(market_folder, tmp_path):
    dataset = open_dataset(market_folder)
    config = configure(num_epochs=1, eval={"every_epochs": 1}, log={"every_steps": 2})
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


def test_the_command_says_that_it_stopped(market_folder, tmp_path):
    options = options_of_a_run(market_folder, tmp_path / "run", num_epochs=1)
    told = CliRunner().invoke(app, ["train", *options, "--stop-after-s", "0.001", "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["stopped"] == "its time is over" and json.loads(told.stdout)["num_steps"] == 1
    assert "stopped after epoch 1, step 1 of 3: its time is over" in told.stderr.replace("\n", " ")
    assert read_state(tmp_path / "run")["global_step"] == 1


def test_the_signal_is_listened_to_inside_the_context_alone():
    heard = []
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


def test_a_second_signal_ends_at_once(monkeypatch):
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
def test_out_of_memory_is_one_sentence(error, market_folder, tmp_path, monkeypatch):
    def fail(trainer, stop_at):
        trainer._write_state()
        raise error

    monkeypatch.setattr(Trainer, "run", fail)
    with pytest.raises(WorkError) as caught:
        train_model(configure(), [open_dataset(market_folder)], tmp_path / "run", device="cpu")
    said = str(caught.value)
    assert said.startswith("memory ran out: lower sampler.num_identities") and "\n" not in said
    assert said.endswith(f"the last state is kept in {tmp_path / 'run' / 'last'}")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_in_another_thread_listens_to_no_signal():
    def heard():
        with StopRequest(None, CPU):
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(heard).result() is signal.getsignal(signal.SIGTERM)


def test_times_that_are_none(market_folder, tmp_path):
    for stop_after_s in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="stop_after_s is above 0"):
            train_model(configure(), [open_dataset(market_folder)], tmp_path / "run", stop_after_s=stop_after_s)
    assert not (tmp_path / "run").exists()


NUM_STEPS = 24


def steps_done(out):
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def signal_after(command, out, num_steps, number):
    """Start the command and signal it as soon as it has written so many lines: lines written, exit code, what it said."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while steps_done(out) < num_steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate()
    return steps_done(out), process.returncode, errors.decode()


def test_a_killed_run_ends_in_the_weights_of_one_that_was_not(market_folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    changes = {"checkpoint": {"every_epochs": 4, "every_steps": 2}, "ema": {"enabled": True}}
    config = configure(num_epochs=8, optim={"clip_grad_norm": 5.0}, **changes)
    train_model(config, [open_dataset(market_folder)], whole, device="cpu")
    command = [sys.executable, "-m", "hat", "train", *options_of_a_run(market_folder, killed, **config_to_dict(config))]

    first, code, said = signal_after(command, killed, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL and 3 <= first < NUM_STEPS, said
    second, code, said = signal_after([*command, "--resume"], killed, first + 3, signal.SIGTERM)
    assert code == 0 and first < second < NUM_STEPS, said
    assert f"step {(second - 1) % 3 + 1} of 3: the process was asked to end" in said.replace("\n", " ")
    assert read_state(killed)["global_step"] == second
    done = subprocess.run([*command, "--resume", "--json"], check=True, capture_output=True, timeout=120, text=True)
    result = json.loads(done.stdout)
    assert result["num_steps"] == NUM_STEPS and result["num_images"] < NUM_STEPS * 8, "it went on and did not start again"

    for folder in ("", "last"):
        assert_same_weights(whole / folder, killed / folder)
    states = [read_state(folder) for folder in (whole, killed)]
    assert all(torch.equal(states[0]["model"][key], states[1]["model"][key]) for key in states[0]["model"])
    assert run_lines(whole) == run_lines(killed)
    assert not [path.name for path in killed.rglob(".*")], "no temporary file is left of a run that ended"
