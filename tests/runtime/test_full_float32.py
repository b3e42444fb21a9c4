"""float32 without TF32 in torch: its switches, on a machine without a GPU."""

import threading

import numpy as np
import pytest
import torch

import hat
from hat.errors import WorkError
from hat.model.inference import InferenceModel
from hat.runtime import TorchRuntime
from hat.runtime.torch_runtime import full_float32
from hat.train.teacher import OnlineTeacher


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def switches():
    before = tf32()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_full_float32_holds_until_the_last_thread_has_left():
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with full_float32():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    with full_float32():
        thread.start()
        inside.wait()
    assert tf32() == (False, False)
    leave.set()
    thread.join()
    assert tf32() == (True, True)


def test_a_torch_model_runs_without_tf32(tiny_model):
    runtime, seen = TorchRuntime(tiny_model, "cpu"), []
    tiny_model.mfe.register_forward_pre_hook(lambda *_: seen.append(tf32()))
    runtime.run(np.zeros((2, 3, *tiny_model.config.image_size), dtype=np.uint8))
    assert seen == [(False, False)] and tf32() == (True, True)


def in_tf32(values):
    """Ten bits of the mantissa, which is what tensor cores read."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_an_inference_graph_is_made_without_tf32(monkeypatch):
    plain = torch.nn.Conv2d._conv_forward

    def rounded(layer, images, weight, bias):
        if torch.backends.cudnn.allow_tf32 and layer.groups == 1:
            images, weight = in_tf32(images), in_tf32(weight)
        return plain(layer, images, weight, bias)

    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", rounded)
    model = hat.load_checkpoint("hat_mobilenet_v2_market1501")
    with pytest.raises(WorkError, match="folding batch norms changed the output"):
        InferenceModel(model)
    teacher = OnlineTeacher(TorchRuntime(model, "cpu"), "fp32")
    graph = TorchRuntime(model, "cpu", inference_graph=True)
    assert teacher.embed_dim == graph.embed_dim == model.embed_dim and tf32() == (True, True)
