"""float32 without TF32 in torch: its switches, on a machine without a GPU."""

import threading

import numpy as np
import pytest
import torch

from hat.runtime import TorchRuntime
from hat.runtime.torch_runtime import full_float32


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
