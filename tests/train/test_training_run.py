"""Whole runs in this process: learning, determinism, resuming at every step, and what ends a run."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from tiny_run import CPU, NO_AUGMENTATION, NUM_PIDS, assert_same_weights, configure, interrupt, read_state, run, run_lines

import hat
from hat.data import merge_training, open_dataset
from hat.data.datasets import Sample, Split
from hat.errors import ConfigError, DataError, WorkError
from hat.train import Trainer
from hat.train.distributed import DistributedContext
from hat.train.run.run_folder import RunFolder, write_state
from hat.train.run.stopping import StopRequest
from hat.train.step import TrainingStep


@pytest.fixture(scope="module")
def dataset(market_folder):
    return open_dataset(market_folder)


def test_a_tiny_problem_is_learned(dataset, tmp_path):
    quiet = {"augmentation": NO_AUGMENTATION, "model": {"transformer": {"dropout": 0}}}
    config = configure(num_epochs=8, checkpoint={"every_epochs": 8}, optim={"lr": 2e-3}, **quiet)
    result = run(config, dataset, tmp_path / "run")
    losses = [line["loss"] for line in run_lines(tmp_path / "run")]
    # Label smoothing keeps a cross entropy above its own entropy, here about 0.44 a branch.
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    assert result.num_steps == len(losses) == 24
    assert result.num_images == 24 * 8
    assert result.metrics["mfe_ce"] < 0.75 * math.log(NUM_PIDS)


def test_the_same_seed_gives_the_same_run(dataset, tmp_path):
    for name, changes in (("a", {}), ("b", {"data": {"cache": "none"}}), ("c", {"seed": 1})):
        run(configure(num_epochs=1, **changes), dataset, tmp_path / name)
    assert run_lines(tmp_path / "a") == run_lines(tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert run_lines(tmp_path / "a") != run_lines(tmp_path / "c")


def test_resuming_after_any_step_ends_in_the_same_weights(dataset, tmp_path):
    changes = {"ema": {"enabled": True}, "eval": {"every_epochs": 1}, "checkpoint": {"every_steps": 2}}
    changes |= {"log": {"every_steps": 2}, "optim": {"clip_grad_norm": 1.0}, "schedule": {"kind": "cosine", "warmup_epochs": 1}}
    config = configure(**changes, compute={"precision": "bf16", "channels_last": True})
    whole = tmp_path / "whole"
    best = run(config, dataset, whole).best
    state, kept, name = read_state(whole), hat.load_checkpoint(whole / "last").state_dict(), "classifiers.mfe.weight"
    assert torch.equal(kept[name], state["average"][name]), "the moving average is kept"
    assert not torch.equal(kept[name], state["model"][name])
    # Before any state is there, right after one, at the end of an epoch, and a step after a state.
    for num_batches in (0, 2, 3, 5):
        out = tmp_path / f"stopped{num_batches}"
        interrupt(config, dataset, out, num_batches)
        result = run(config, dataset, out, resume=True)
        assert result.num_steps == 6
        for folder in ("", "last"):
            assert_same_weights(whole / folder, out / folder)
        assert run_lines(out) == run_lines(whole)
        assert result.best == best
        states = [read_state(folder) for folder in (whole, out)]
        for slot, values in states[0]["optimizer"]["state"].items():
            assert all(torch.equal(value, states[1]["optimizer"]["state"][slot][name]) for name, value in values.items())


def test_the_last_step_of_an_epoch_is_one_after_which_the_state_is_written(dataset, tmp_path):
    interrupt(configure(checkpoint={"every_steps": 3}), dataset, tmp_path / "run", 4)
    state = read_state(tmp_path / "run")
    assert (state["global_step"], state["epoch"], state["step"]) == (3, 1, 0)


def test_for_a_process_that_writes_no_state_it_is_due_no_more_often(dataset, tmp_path):
    trainer = Trainer(configure(), merge_training([dataset]), RunFolder(tmp_path / "run"), CPU)
    trainer.context = DistributedContext(torch.device("cpu"), rank=1)
    trainer._state_written -= 3600
    assert trainer._state_is_due()
    trainer._write_state()
    assert not trainer._state_is_due() and not (tmp_path / "run").exists()


def test_another_number_of_processes_is_told(dataset, tmp_path, capsys):
    out, config = tmp_path / "run", configure(num_epochs=1)
    run(config, dataset, out)
    state = read_state(out)
    assert state.pop("world_size") == 1
    for changes, told in (({"world_size": 2}, True), ({"world_size": 1}, False), ({}, False)):
        write_state({**state, **changes}, out / "last")
        capsys.readouterr()
        Trainer(config, merge_training([dataset]), RunFolder(out), CPU, resume=True)
        assert ("processes: 2 before, 1 now" in capsys.readouterr().err) == told


def test_processes_beside_gpus_ask_each_other_whether_to_stop_every_twenty_steps(dataset, tmp_path, monkeypatch):
    asked = []

    class Recorder(StopRequest):
        def is_due(self, *, together):
            asked.append(together)
            return super().is_due(together=together)

    monkeypatch.setattr("hat.train.trainer.StopRequest", Recorder)
    monkeypatch.setattr(TrainingStep, "__call__", lambda *_: {"loss": torch.tensor(1.0)})
    config = configure(num_epochs=7, log={"every_steps": 1000})
    trainer = Trainer(config, merge_training([dataset]), RunFolder(tmp_path / "run"), CPU)
    trainer.pids = trainer.pids.to("meta")  # a device that is no CPU
    trainer.folder.begin(config, resume=False)
    trainer.run()
    assert asked == [step % 3 == 0 or step % 20 == 0 for step in range(1, 22)], "or with the line at the end of an epoch"


def test_a_finished_run_can_be_made_longer_and_is_no_other(dataset, tmp_path):
    run(configure(num_epochs=3), dataset, tmp_path / "whole")
    run(configure(num_epochs=1), dataset, tmp_path / "parts")
    assert run(configure(num_epochs=1), dataset, tmp_path / "parts", resume=True).num_images == 0
    with pytest.raises(ConfigError, match=r"seed was 0 and is 5"):
        run(configure(num_epochs=1, seed=5), dataset, tmp_path / "parts", resume=True)
    run(configure(num_epochs=3), dataset, tmp_path / "parts", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_the_product_is_the_best_evaluated(dataset, tmp_path, monkeypatch):
    maps = iter([0.4, 0.9, 0.5])
    monkeypatch.setattr(Trainer, "_evaluate", lambda trainer: {"mAP": next(maps), "rank1": 0.1})
    result = run(configure(num_epochs=3, eval={"every_epochs": 1}), dataset, tmp_path / "run")
    assert result.best == {"mAP": 0.9, "rank1": 0.1, "epoch": 2}
    two = run(configure(num_epochs=2), dataset, tmp_path / "two")
    assert_same_weights(tmp_path / "run", two.folder)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["metrics"] == {
        "mAP": 0.9,
        "rank1": 0.1,
        "dataset": dataset.name,
    }
    three = run(configure(num_epochs=3), dataset, tmp_path / "three")
    assert_same_weights(tmp_path / "run" / "last", three.folder)


def test_evaluation_does_not_disturb_training(dataset, tmp_path):
    for name, every in (("with", 1), ("without", 0)):
        run(configure(eval={"every_epochs": every}, compute={"channels_last": True}), dataset, tmp_path / name)
    assert_same_weights(tmp_path / "with" / "last", tmp_path / "without" / "last")
    found = [line for line in run_lines(tmp_path / "with") if line["kind"] == "eval"]
    assert [line["epoch"] for line in found] == [1, 2]
    reopened = hat.evaluate(hat.Embedder.open(tmp_path / "with" / "last", device="cpu"), dataset)
    assert found[-1]["mAP"] == pytest.approx(reopened.mAP, abs=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_state(dataset, tmp_path):
    config = configure(checkpoint={"every_steps": 1})
    trainer = Trainer(config, merge_training([dataset]), RunFolder(tmp_path / "run"), CPU)
    trainer.folder.begin(config, resume=False)
    forward = trainer.step._forward

    def poisoned(images):
        outputs = forward(images)
        if trainer.global_step == 4:
            last = outputs.branches["tfc3"]
            outputs.branches["tfc3"] = last._replace(logits=last.logits * float("nan"))
        return outputs

    trainer.step._forward = poisoned
    with pytest.raises(WorkError, match=r"epoch 2, step 2 of 3: loss is nan, tfc3_ce is nan; the last state is kept"):
        trainer.run()
    state = read_state(tmp_path / "run")
    assert state["global_step"] == 4
    assert all(torch.isfinite(value).all() for value in state["model"].values())


@pytest.mark.parametrize(
    ("lr", "every_epochs", "match"),
    [(1e38, 0, "epoch 1.* (is nan|is inf|weights are not finite)"), (1e15, 1, "epoch 1.*(is nan|cannot be evaluated)")],
)
def test_a_model_that_diverges_in_the_last_step_of_an_epoch_is_not_kept(lr, every_epochs, match, dataset, tmp_path):
    config = configure(num_epochs=1, optim={"lr": lr}, eval={"every_epochs": every_epochs})
    trainer = Trainer(config, merge_training([dataset]), RunFolder(tmp_path / "run"), CPU, evaluation=dataset)
    trainer.num_steps = 1  # the loss of its only step is that of the weights before it
    trainer.folder.begin(config, resume=False)
    with pytest.raises(WorkError, match=f"{match}.*Lower optim.lr"):
        trainer.run()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_run_goes_on_without_the_checkpoint_that_it_began_with(dataset, tmp_path):
    train, begin = merge_training([dataset]), tmp_path / "begin"
    hat.save_checkpoint(hat.HAT(configure().model, NUM_PIDS), begin)
    config = configure(backbone_weights=None, initial_checkpoint=str(begin))
    folder = RunFolder(tmp_path / "run")
    folder.begin(config, resume=False)
    assert Trainer(config, train, folder, CPU).run(stop_at=0).stopped
    shutil.rmtree(begin)
    result = Trainer(config, train, folder, CPU, resume=True).run()
    assert result.stopped is None and result.num_steps == 6


def test_contradictions_are_refused(dataset, tmp_path):
    train, folder = merge_training([dataset]), RunFolder(tmp_path / "run")
    nowhere, strangers = str(tmp_path / "nowhere.pth"), Split("train", [Sample("a", 5, 0)])
    say = "say --backbone-weights torchvision, timm, the path of a file, or none"
    for error, match, changes, split, world_size in (
        (ConfigError, say, {"backbone_weights": None}, train, 1),
        (ConfigError, "no data set given has both query and gallery", {"eval": {"every_epochs": 1}}, train, 1),
        (ConfigError, "an epoch has 3 batches and a step accumulates 4", {"optim": {"accumulate": 4}}, train, 1),
        (ConfigError, "num_identities=4 is no multiple of the 3 processes", {}, train, 3),
        (DataError, "identities of training images are 0 to 0; got 5 to 5", {}, strangers, 1),
        (hat.HatError, r"nowhere\.pth", {"backbone_weights": nowhere}, train, 1),
    ):
        with pytest.raises(error, match=match):
            Trainer(configure(**changes), split, folder, DistributedContext(torch.device("cpu"), 0, world_size))
    assert not (tmp_path / "run").exists()
