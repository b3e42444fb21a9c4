"""float32 that is float32: without TF32, which rounds the inputs of products and convolutions to ten bits of significand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.Lock()
_depth = 0
_outside = (True, False)


@contextmanager
def full_float32() -> Iterator[None]:
    """Switch TF32 off in torch, for as long as any thread is inside.

    torch's switches belong to the process and not to a thread: they are turned back when the last thread leaves. cuDNN's is on
    by default, so that a float32 model would differ by 1e-3 between a CPU and any GPU from Ampere on.
    """
    global _depth, _outside  # noqa: PLW0603 - the switches are the process's too
    with _LOCK:
        if _depth == 0:
            _outside = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        _depth += 1
    try:
        yield
    finally:
        with _LOCK:
            _depth -= 1
            if _depth == 0:
                torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = _outside
