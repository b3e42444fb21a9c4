"""Two processes on the CPU against one with the same global batch."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from tiny_run import CPU, FixedTeacher, Plain, configure, options_of_a_run, run_lines, some_batch
from torch import nn

from hat.data import open_dataset
from hat.errors import UsageError
from hat.model import HAT
from hat.preprocessing import Preprocessing
from hat.runtime import choose_device
from hat.train import train_model
from hat.train.distillation import Distillation
from hat.train.distributed import GlobalBatchNorm, gather_rows, process_group, synchronize_batch_norms
from hat.train.run.stopping import StopRequest
from hat.train.step import Batch, TrainingStep

NO_DROPOUT = {"transformer": {"dropout": 0.0}}
NUM_STEPS = 4


def train_in_float64(context, projection_dim=None):
    """Some accumulated Adam steps in float64, where rounding is far below what a mistake would change.

    The projection to the teacher's five values is the run's, or the student's own.
    """
    changes = {"optim": {"lr": 1e-3, "clip_grad_norm": 1.0, "accumulate": 2}, "loss": {"circle_weight": 0.1}}
    changes |= {"model": {**NO_DROPOUT, "projection_dim": projection_dim}}
    config = configure(ema={"enabled": True}, distill={"teacher": "a stand-in"}, **changes)
    rank, world_size = context.rank, context.world_size
    torch.manual_seed(rank)  # processes begin with different weights; the first one's count
    model = HAT(config.model, 4).double()
    distillation = Distillation(config, FixedTeacher(), model, context)
    projection = (distillation.projection or model.projection).double()
    assert (distillation.projection is None) == (projection_dim is not None)
    step = TrainingStep(model, model.preprocessing, config, context, distillation)
    prepare = step.prepare
    step.prepare = lambda images: prepare(images).double()
    rows = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    batches = [Batch(*(part[rows] for part in some_batch(n))) for n in range(2 * NUM_STEPS)]
    metrics = [step(batches[2 * n : 2 * n + 2], 0, n, 1e-3) for n in range(NUM_STEPS)]
    weights = {**model.state_dict(), "projection": projection.weight.detach()}
    return [{name: value.item() for name, value in figure.items()} for figure in metrics], weights


def _worker(rank, port, out):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    with process_group("cpu") as context:
        trained = [train_in_float64(context), train_in_float64(context, 5)]
        parts = _norms_and_gathering(rank) | {"exchanged": _gradients_are_exchanged(context)}
        torch.save((trained, parts, _stopping(context)), Path(out) / f"{rank}.pt")


def _gradients_are_exchanged(context):
    """Are gradients the same everywhere after a batch before the last, and after the last; of a plain and a compiled model."""
    compiler, found = torch.compile, []
    torch.compile = lambda model, **options: compiler(model, backend="eager")  # no need for a C++ compiler
    for compiled in (False, True):
        torch.manual_seed(0)
        step = TrainingStep(Plain(), Preprocessing(height=32, width=16), configure(compute={"compile": compiled}), context)
        same = []
        for last in (False, True):
            step._accumulate(Batch(*(part.chunk(2)[context.rank] for part in some_batch(int(last)))), 0, 2, last=last)
            rows = gather_rows(step.model.mfe.weight.grad[None])
            same.append(torch.equal(rows[0], rows[1]))
        found.append(same)
    torch.compile = compiler
    return found


def _stopping(context):
    """The first process's time is over; the second one is asked to end later."""
    past, never = StopRequest(0.0, context), StopRequest(0.0 if context.rank else None, context)
    found = [past.is_due(together=False), past.is_due(together=True), past.reason]
    with never:
        found.append(never.is_due(together=True))
        if context.rank == 1:
            signal.raise_signal(signal.SIGTERM)
        found += [never.is_due(together=True), never.reason]
    return found


def _normalized(norm, values):
    """The result of a batch norm, and the gradient of a function of it."""
    values = values.clone().requires_grad_()
    result = norm(values)
    (result * torch.arange(24, dtype=torch.float64).reshape(1, 3, 4, 2)).pow(2).sum().backward()
    return result.detach(), values.grad


def _values():
    return torch.randn(6, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def _norms_and_gathering(rank):
    mine = _values().chunk(2)[rank]
    norm = GlobalBatchNorm(3, momentum=0.3).double()
    result, gradient = _normalized(norm, mine)
    rows = torch.arange(4.0).reshape(2, 2) + 10 * rank
    rows.requires_grad_()
    gathered = gather_rows(rows)
    # Each process weights the rows of all in its own way, so that every process's gradient has to reach every row.
    (gathered * (rank + 1) * torch.arange(1.0, 9.0).reshape(4, 2)).sum().backward()
    return {
        "output": result,
        "gradient": gradient,
        "weight_gradient": norm.weight.grad,
        "running": torch.stack([norm.running_mean, norm.running_var]),
        "gathered": gathered.detach(),
        "labels": gather_rows(torch.tensor([rank, rank + 10])),
        "rows_gradient": rows.grad,
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both of two gloo processes came to."""
    out = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_worker, args=(port, str(out)), nprocs=2)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("projection_dim", [None, 5])
def test_two_processes_train_like_one(projection_dim, two):
    metrics, weights = train_in_float64(CPU, projection_dim)
    for trained, *_ in two:
        theirs, their_weights = trained[projection_dim is not None]
        for ours, other in zip(metrics, theirs, strict=True):
            assert ours.keys() == other.keys()
            assert all(other[name] == pytest.approx(value, rel=1e-7) for name, value in ours.items())
        for name, value in weights.items():
            assert torch.allclose(their_weights[name].double(), value.double(), rtol=1e-6, atol=1e-8), name
    assert metrics[0]["loss"] != metrics[-1]["loss"]


def test_global_batch_norm_equals_one_over_the_whole_batch(two):
    norm = nn.BatchNorm2d(3, momentum=0.3).double()
    result, gradient = _normalized(norm, _values())
    found = [parts for _, parts, _ in two]
    torch.testing.assert_close(torch.cat([parts["output"] for parts in found]), result)
    torch.testing.assert_close(torch.cat([parts["gradient"] for parts in found]), gradient)
    # A parameter's gradient is this process's share; DDP adds them up.
    torch.testing.assert_close(sum(parts["weight_gradient"] for parts in found), norm.weight.grad)
    for parts in found:
        torch.testing.assert_close(parts["running"], torch.stack([norm.running_mean, norm.running_var]))


def test_gathering_brings_rows_and_gradients(two):
    rows = torch.cat([torch.arange(4.0).reshape(2, 2), torch.arange(4.0).reshape(2, 2) + 10])
    gradients = 3 * torch.arange(1.0, 9.0).reshape(4, 2)  # weights 1 and 2 of the two processes
    for rank, (_, parts, _) in enumerate(two):
        assert torch.equal(parts["gathered"], rows)
        assert parts["labels"].tolist() == [0, 10, 1, 11]
        assert torch.equal(parts["rows_gradient"], gradients[2 * rank : 2 * rank + 2])


def test_processes_exchange_accumulated_gradients_once_compiled_or_not_and_stop_together(two):
    assert [parts["exchanged"] for _, parts, _ in two] == [[[False, True], [False, True]]] * 2
    expected = [False, True, "its time is over", False, True, "the process was asked to end"]
    assert [stopping for *_, stopping in two] == [expected, expected]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "timm/mobilenetv3_small_100"])
def test_replacing_batch_norms_changes_no_name_and_no_value(backbone, device):
    if "timm" in backbone:
        pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = HAT(configure(model={**NO_DROPOUT, "backbone": {"name": backbone, "last_stride": 2}}).model, 4).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(4, 3, 32, 16, dtype=torch.float64)
    trained = copy.deepcopy(model)(images).embedding
    expected = model.eval()(images)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model = synchronize_batch_norms(model, torch.device(device))
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) for module in model.modules())
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(model.eval()(images), expected)
    torch.testing.assert_close(model.train()(images).embedding, trained)


def test_one_process_needs_no_group_and_wrong_places_are_refused(monkeypatch):
    rows = torch.randn(2, 2)
    with process_group("cpu") as context:
        assert context == CPU and context.is_main
        assert gather_rows(rows) is rows and not dist.is_initialized()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"cuda:1 was asked for and torch .* sees 0 CUDA devices"):
        choose_device("cuda:1")
    for name in ("gpu", "cuda:x", ""):
        with pytest.raises(UsageError, match="expected auto, cpu, cuda or cuda:N"):
            choose_device(name)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is a whole number set by torchrun, got 'two'"), process_group("cpu"):
        pass


def test_torchrun_trains_like_one_process(market_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    changes = {"model": NO_DROPOUT, "num_epochs": 1, "optim": {"name": "sgd", "lr": 1e-3}, "eval": {"every_epochs": 1}}
    result = train_model(configure(**changes), [open_dataset(market_folder)], one, device="cpu")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hat", "train"]
    in_two = {**changes, "compute": {"channels_last": True}}
    command = [*torchrun, *options_of_a_run(market_folder, two, **in_two), "--json"]
    done = subprocess.run(command, capture_output=True, timeout=180, text=True, check=False)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    output = json.loads(done.stdout)
    assert result.num_images == output["num_images"] == 24 and np.isfinite(output["best"]["mAP"])
    lines = run_lines(one), run_lines(two)
    assert [line["kind"] for line in lines[0]] == ["train"] * 3 + ["eval"] == [line["kind"] for line in lines[1]]
    for ours, theirs in zip(*(found[:3] for found in lines), strict=True):
        # Float32 sums in another order: about 1e-6, which three small steps do not blow up beyond this.
        assert theirs.pop("kind") == ours.pop("kind") and theirs == pytest.approx(ours, rel=1e-3, abs=1e-4)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours) < 1e-3
    # Asked to stop, they do so after the step under way, however rarely they write to the log.
    options = options_of_a_run(market_folder, tmp_path / "stopped", **changes, log={"every_steps": 1000})
    done = subprocess.run(
        [*torchrun, *options, "--stop-after-s", "0.001", "--json"], capture_output=True, timeout=180, check=False
    )
    assert done.returncode == 0 and json.loads(done.stdout)["num_images"] == 8
