"""Runtimes: one contract, a file each."""

from hat.runtime.opening import open_runtime
from hat.runtime.protocol import Runtime, runtime_info
from hat.runtime.torch_runtime import TorchRuntime, choose_device

__all__ = ["Runtime", "TorchRuntime", "choose_device", "open_runtime", "runtime_info"]
