"""A whole step on torch's meta device: what a GPU would be asked to do (printed with -s), and what it would wait for."""

from collections import Counter

import pytest
import torch
from tiny_run import FixedTeacher
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hat.model import HAT
from hat.train.distillation import Distillation
from hat.train.distributed import DistributedContext
from hat.train.presets import compose_config, preset_differences
from hat.train.step import Batch, TrainingStep

META = DistributedContext(torch.device("meta"))
FREE = {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach"}
FREE |= {"alias", "split", "split_with_sizes", "unbind", "as_strided", "empty", "empty_like", "empty_strided", "new_empty"}


class Recorder(TorchDispatchMode):
    """Counts what is done to tensors on the meta device, and what would let a real one wait for Python, or the reverse."""

    def __init__(self):
        super().__init__()
        self.phase = ""
        self.kernels = {}
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        options = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        on_device = [tensor.is_meta for tensor in inputs]
        name = func.overloadpacket.__name__
        if any(on_device) and name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"):
            self.waits.append(name)
        result = func(*args, **options)
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name in ("_to_copy", "copy_", "_copy_from"):
            ends = {tensor.is_meta for tensor in [*inputs, *results] if tensor.dim() or not tensor.is_meta}
            if len(ends) == 2:
                self.waits.append(f"{name} between host and device")
        if (any(on_device) or any(tensor.is_meta for tensor in results)) and name not in FREE:
            self.kernels.setdefault(self.phase, Counter())[name] += 1
        return result


class MetaTeacher(FixedTeacher):
    def embed(self, images, indices):
        return torch.ones(len(images), self.embed_dim, device=images.device)


def record(config, monkeypatch):
    """Take one step; the optimizer has no fused kernel for this device, so that its count is that of a loop."""
    with torch.device("meta"):
        model = HAT(config.model, 751)
    distillation = Distillation(config, MetaTeacher(), model, META)
    step = TrainingStep(model, model.preprocessing, config, META, distillation)
    rows = torch.empty(64, dtype=torch.int64, device="meta")
    batch = Batch(torch.empty(64, 3, *config.model.image_size, dtype=torch.uint8, device="meta"), rows, rows, rows)
    recorder = Recorder()

    def phase(name, owner, attribute):
        inner = getattr(owner, attribute)

        def told(*args, **options):
            before, recorder.phase = recorder.phase, name
            result = inner(*args, **options)
            recorder.phase = before
            return result

        monkeypatch.setattr(owner, attribute, told)

    phase("augmentation", step, "augmentation")
    phase("forward", step, "_forward")
    phase("backward", Tensor, "backward")
    phase("optimizer", step.scaler, "step")
    phase("moving average", step.average, "update")
    recorder.phase = "losses and the rest"
    with recorder:
        metrics = step([batch], 0, 0, 1e-3)
    assert all(value.is_meta for value in metrics.values())
    return recorder


EVERYTHING = {
    "augmentation": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05, "blur": 0.1, "grayscale": 0.1},
    **{"optim": {"clip_grad_norm": 5.0}, "ema": {"enabled": True}, "loss": {"circle_weight": 0.1}},
    **{"distill": {"teacher": "anything"}, "compute": {"precision": "fp32"}},
}


@pytest.mark.parametrize("preset", ["market1501-edge", "market1501-plus"])
def test_a_step_never_waits_for_the_device(preset, monkeypatch):
    config = compose_config([("", preset_differences(preset)), ("", EVERYTHING)])
    recorder = record(config, monkeypatch)
    for phase, counts in recorder.kernels.items():
        often = ", ".join(f"{name} {count}" for name, count in counts.most_common(6))
        print(f"{preset} {phase:<22} {counts.total():>6}  {often}")  # noqa: T201 (seen with -s)
    phases = {"augmentation", "forward", "backward", "optimizer", "moving average", "losses and the rest"}
    assert recorder.waits == [] and set(recorder.kernels) == phases
    assert recorder.kernels["augmentation"].total() < 300
    # Lists of tensors are one call each, however many weights there are.
    assert recorder.kernels["moving average"].total() < 15


def test_a_wait_would_be_seen():
    recorder = Recorder()
    device = torch.empty(3, device="meta")
    with recorder:
        torch.ones(3).to("meta")
        device.copy_(torch.ones(3))
        with pytest.raises((NotImplementedError, RuntimeError)):
            device.sum().item()
    assert recorder.waits == ["_to_copy between host and device", "copy_ between host and device", "_local_scalar_dense"]
