"""What a run writes and reads back: its state, its metrics, its folder."""

import json
import os
import re
import socket
import sys

import pytest
import torch

from hat.config import config_to_dict
from hat.data.datasets import Sample, Split
from hat.errors import CheckpointError, ConfigError, MissingExtraError, UsageError, WorkError
from hat.train import TrainConfig, compose_config
from hat.train.config import DistillConfig
from hat.train.run.log import RunLog, RunningMeans
from hat.train.run.run_folder import RunFolder, check_same_run, describe_data, read_state, write_state


def some_state(**changes):
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1.0, "params": [0]}]}
    whole = {"format_version": 1, "config": config_to_dict(TrainConfig()), "data": "x", "teacher": None, "world_size": 1}
    at = {"epoch": 1, "step": 2, "global_step": 9, "interval": {}, "whole_epoch": {"loss": [1.5, 2.0]}, "best": {"mAP": 0.5}}
    weights = {"model": {"weight": torch.arange(3.0)}, "average": None, "num_average_updates": 0, "projection": None}
    return {**whole, **at, **weights, "optimizer": optimizer, "scaler": {}, **changes}


def test_state_comes_back(tmp_path):
    write_state(some_state(), tmp_path / "last")
    found = read_state(tmp_path / "last")
    assert torch.equal(found["model"]["weight"], torch.arange(3.0))
    assert found.keys() == some_state().keys()
    assert all(value == some_state()[key] for key, value in found.items() if key not in ("model", "optimizer"))
    assert [path.name for path in (tmp_path / "last").iterdir()] == ["state.pt"]


def test_a_damaged_or_foreign_state_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no state to resume from"):
        read_state(tmp_path)
    path = tmp_path / "state.pt"
    write_state(some_state(), tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state(tmp_path)
    foreign = [({"model": {}}, "is no state of a run"), (some_state(format_version=2), "of format 2"), (path, "is damaged")]
    for content, match in foreign:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=match):
            read_state(tmp_path)


def test_a_failed_write_keeps_the_state_before(tmp_path, monkeypatch):
    write_state(some_state(), tmp_path)
    before = (tmp_path / "state.pt").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WorkError, match="No space left on device"):
        write_state(some_state(epoch=5), tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def changed(**changes):
    return config_to_dict(compose_config([("", changes)]))


def test_only_what_changes_no_result_may_differ_on_resuming():
    state = some_state()
    check_same_run(state, changed(num_epochs=10, eval={"every_epochs": 1}, log={"every_steps": 7}, data={"cache": "none"}), "x")
    with pytest.raises(ConfigError, match=r"optim\.lr was 0\.0004 and is 0\.001; start a new run"):
        check_same_run(state, changed(optim={"lr": 1e-3}), "x")
    with pytest.raises(ConfigError, match="trained on other images: x; got y"):
        check_same_run(state, changed(), "y")
    cosine = {"schedule": {"kind": "cosine"}}
    with pytest.raises(ConfigError, match="num_epochs was 150 and is 100"):
        check_same_run(some_state(config=changed(**cosine)), changed(num_epochs=100, **cosine), "x")


def test_a_state_of_an_earlier_version_goes_on(tmp_path):
    config = config_to_dict(TrainConfig())
    del config["distill"], config["data"], config["loss"]["label_smoothing"]
    added = ("projection", "teacher", "world_size")
    old = {key: value for key, value in some_state(config=config).items() if key not in added}
    write_state(old, tmp_path)
    state = read_state(tmp_path)
    assert [state[key] for key in added] == [None, None, None]
    check_same_run(state, changed(), "x")
    with pytest.raises(ConfigError, match=r"loss\.label_smoothing was 0\.1 and is 0\.2"):
        check_same_run(state, changed(loss={"label_smoothing": 0.2}), "x")
    gone = {"betas": [0.9, 0.999], "eps": 1e-8, "nesterov": False}  # options of the optimizer, at the values that now hold
    check_same_run(state | {"config": config | {"optim": config["optim"] | gone}}, changed(), "x")
    with pytest.raises(ConfigError, match=r"another version wrote: unknown key optim\.betas"):
        check_same_run(state | {"config": config | {"optim": config["optim"] | gone | {"betas": [0.5, 0.999]}}}, changed(), "x")
    config["novelty"] = 1
    with pytest.raises(ConfigError, match="another version wrote: unknown key novelty"):
        check_same_run(state | {"config": config}, changed(), "x")


def test_the_digest_of_the_data_knows_names_and_labels_but_not_folders():
    def split(folder, pid=1, name="b"):
        return Split("train", [Sample(f"{folder}/a.jpg", 0, 1), Sample(f"{folder}/{name}.jpg", pid, 1)])

    assert describe_data(split("/x")) == describe_data(split("c:\\y".replace("\\", "/")))
    assert len({describe_data(split("/x")), describe_data(split("/x", pid=2)), describe_data(split("/x", name="c"))}) == 3


def test_metrics_of_a_resumed_run_have_no_duplicates(tmp_path):
    log = RunLog(tmp_path, 1, 5, 0)
    for step in range(1, 6):
        log.write("train", 1, step, {"loss": float(step)})
    log.path.write_text(log.path.read_text() + '{"kind": "train", "st')
    again = RunLog(tmp_path, 1, 5, 3)
    again.write("train", 1, 4, {"loss": 40.0})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    RunLog(tmp_path, 1, 5, 0)
    assert log.path.read_text() == ""


def test_tensorboard_gets_the_same_figures_or_is_asked_for(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with RunLog(tmp_path, 1, 5, 0, tensorboard=True) as log:
        log.write("train", 1, 3, {"loss": 2.5})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 2.5)]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hat-reid\[train\]'"):
        RunLog(tmp_path, 1, 5, 0, tensorboard=True)


def test_running_means_go_on_from_saved_sums_and_count_a_metric_where_a_step_has_it():
    means = RunningMeans()
    means.add({"loss": 1.0, "grad_norm": 4.0})
    means.add({"loss": 2.0})  # fp16 overflowed: the step was left out and its norm says nothing
    other = RunningMeans()
    other.restore(means.state())
    other.add({"loss": 6.0, "grad_norm": 2.0})
    assert other.means() == {"loss": 3.0, "grad_norm": 3.0}
    other.reset()
    assert other.means() == {}


def test_lock_refuses_a_second_training_and_names_the_first(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.check(resume=False, force=False)
        owner = rf"process {os.getpid()} on {re.escape(socket.gethostname())}; stop it or wait"
        with pytest.raises(UsageError, match=owner), folder.lock():
            pytest.fail("two trainings in one folder")
    assert not folder.path.exists(), "a lock alone leaves nothing"


def test_lock_of_a_dead_process_is_taken_over_and_that_of_another_host_stays(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    with RunFolder(tmp_path).lock():
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    lock.write_text("half a li")
    with RunFolder(tmp_path).lock():
        pass
    assert list(tmp_path.iterdir()) == []
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    match = r"process 7 on elsewhere; if it has ended, remove .*\.lock"
    with pytest.raises(UsageError, match=match), RunFolder(tmp_path).lock():
        pytest.fail("another host's training was not seen")
    assert lock.is_file()


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.check(resume=False, force=False)
    with pytest.raises(UsageError, match="holds no run to resume"):
        folder.check(resume=True, force=False)
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"is not empty; go on with --resume"):
        folder.check(resume=False, force=False)
    with pytest.raises(UsageError, match=r"holds no run .* --force does not empty it"):
        folder.check(resume=False, force=True)
    folder.begin(TrainConfig(), resume=True)
    folder.check(resume=True, force=False)
    folder.check(resume=False, force=True)
    with pytest.raises(UsageError, match="give one of them"):
        folder.check(resume=True, force=True)
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(folder.path / "notes.txt").check(resume=False, force=True)


def test_a_run_is_not_replaced_by_one_that_begins_with_its_weights(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(), resume=False)
    weights = folder.path / "model.safetensors"
    weights.write_bytes(b"weights")
    (tmp_path / "link").symlink_to(folder.path)
    for name, value in (
        ("initial_checkpoint", folder.path),
        ("initial_checkpoint", tmp_path / "link"),
        ("backbone_weights", weights),
    ):
        config = TrainConfig(**{name: str(value)})
        with pytest.raises(UsageError, match="which --force removes"):
            folder.check_inputs(config, resume=False)
        folder.check_inputs(config, resume=True)
    taught = TrainConfig(distill=DistillConfig(teacher=str(weights)))
    with pytest.raises(UsageError, match="which --force removes"):
        folder.check_inputs(taught, resume=False)
    folder.check_inputs(TrainConfig(initial_checkpoint=str(tmp_path), backbone_weights="none"), resume=False)


def test_force_removes_the_run_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin(TrainConfig(), resume=False)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    write_state(some_state(), folder.last)
    for leftover in (tmp_path / ".model.safetensors.x1y2z3w4.part", folder.last / ".state.pt.x1y2z3w4.part"):
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"half a file")
    folder.begin(TrainConfig(), resume=True)
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["config.yaml", "last", "metrics.jsonl", "notes.txt", "state.pt"]
    folder.begin(TrainConfig(), resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]
