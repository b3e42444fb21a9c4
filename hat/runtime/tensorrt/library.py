"""The one place where TensorRT 10, TensorRT 11 and TensorRT for RTX are reached, and where they differ.

They share an API and not its extent: 10 needs a flag for strong typing, 11 ignores it and lost every flag that chose a
precision, RTX has target architectures and neither timing cache nor lean runtime. Everything else asks a `TensorRT` object,
which tests build around a stand-in; nothing imports the libraries directly.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, cast, get_args

import torch

from hat.errors import CheckpointError, MissingExtraError, UsageError, WorkError
from hat.runtime.torch_runtime import choose_device

__all__ = ["Flavor", "Gpu", "TensorRT", "checked_flavor", "current_gpu", "load_tensorrt"]

Flavor = Literal["tensorrt", "tensorrt-rtx"]

_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
_OLDEST = {"tensorrt": (10, 0), "tensorrt-rtx": (1, 0)}
_VENDOR_INDEX = "https://pypi.nvidia.com"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    index: int
    name: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{self.name} (compute capability {major}.{minor})"


def current_gpu(index: int | None = None) -> Gpu | None:
    """A CUDA device as torch sees it, the current one where no index is given; None where there is none."""
    if not torch.cuda.is_available():
        return None
    chosen = torch.cuda.current_device() if index is None else index
    properties = torch.cuda.get_device_properties(chosen)
    return Gpu(chosen, properties.name, (properties.major, properties.minor))


class TensorRT:
    """One TensorRT library with what this package needs of it.

    Args:
        library: The imported module, or a stand-in with the same names.
        flavor: Which product it is.
        find_gpu: Tells the GPU for an index; `current_gpu`.

    Attributes:
        version: The library's own, ``"10.16.1.11"``.
        title: ``"TensorRT 10.16.1.11"``.

    Raises:
        UsageError: The library is older than this package supports.
    """

    def __init__(self, library: Any, flavor: Flavor, find_gpu: Callable[[int | None], Gpu | None] = current_gpu) -> None:
        self.library = library
        self.flavor = flavor
        self.find_gpu = find_gpu
        self.version = str(library.__version__)
        self.title = f"{_TITLES[flavor]} {self.version}"
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        if numbers < _OLDEST[flavor]:
            oldest = ".".join(map(str, _OLDEST[flavor]))
            raise UsageError(
                f"{self.title} is installed: {oldest} or newer is needed, which types a network by its graph alone"
            )
        self.major = numbers[0]
        self.logger = _make_logger(library)

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, which builds without a GPU and finishes the build on the machine that runs."""
        return self.flavor == "tensorrt-rtx"

    @contextmanager
    def listen(self) -> Iterator[list[str]]:
        """Collect what the library reports as an error, for the exception that its caller raises."""
        heard: list[str] = []
        self.logger.listeners[id(heard)] = heard  # by identity: two lists that heard nothing are equal
        try:
            yield heard
        finally:
            del self.logger.listeners[id(heard)]

    def network_flags(self) -> int:
        """How to create a strongly typed network: 10 and RTX have a flag for it; where it is gone, nothing else exists."""
        flags = self.library.NetworkDefinitionCreationFlag
        return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0

    def builder_flag(self, name: str) -> Any:
        """A builder flag by name.

        Raises:
            UsageError: This library has none of that name.
        """
        flag = getattr(self.library.BuilderFlag, name, None)
        if flag is None:
            raise UsageError(f"{self.title} has no builder flag {name}: leave the option out, or use another version")
        return flag

    def device(self, device: str | None) -> torch.device:
        """The CUDA device to run on.

        Raises:
            UsageError: It is not a CUDA device, or is not there.
        """
        chosen = choose_device(device)
        if chosen.type != "cuda":
            asked = f"{device} was asked for" if device not in (None, "auto") else "torch sees no CUDA device"
            raise UsageError(f"{asked}, and {_TITLES[self.flavor]} engines run on NVIDIA GPUs alone")
        index = cast("int | None", chosen.index)  # torch's stubs leave out that "cuda" has none
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)

    def make(self, name: str, *arguments: Any) -> Any:
        """One of the library's own objects by class name; the logger is the last argument of each.

        Raises:
            WorkError: The library cannot start: no driver, or one that is too old; its own messages say why.
        """
        with self.listen() as heard:
            try:
                return getattr(self.library, name)(*arguments, self.logger)
            except TypeError as error:  # what its bindings make of a null pointer
                raise WorkError(f"{self.title} cannot start: {said(heard or [str(error)])}") from None

    def runtime(self, *, host_code: bool = False) -> Any:
        """A runtime; ``host_code`` lets an engine run the lean runtime that it carries, which is native code.

        Raises:
            WorkError: The library cannot start.
        """
        runtime = self.make("Runtime")
        if host_code:
            runtime.engine_host_code_allowed = True
        return runtime

    def deserialize(self, runtime: Any, plan: bytes, source: str) -> Any:
        """Load an engine.

        Raises:
            CheckpointError: The library refuses it; its own messages say why.
        """
        with self.listen() as heard:
            engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise CheckpointError(f"{source} cannot be loaded by {self.title}: {said(heard)}")
        return engine

    def context(self, engine: Any, source: str, *, cuda_graph: bool = False) -> Any:
        """Make an execution context; with ``cuda_graph``, RTX captures and replays by itself.

        Raises:
            WorkError: The library cannot make one, for want of memory for example.
        """
        with self.listen() as heard:
            if cuda_graph and self.is_rtx:
                settings = engine.create_runtime_config()
                settings.cuda_graph_strategy = self.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                context = engine.create_execution_context(settings)
            else:
                context = engine.create_execution_context()
        if context is None:
            raise WorkError(f"{source}: {self.title} cannot make an execution context: {said(heard)}")
        return context


@cache
def load_tensorrt(flavor: Flavor) -> TensorRT:
    """Import a TensorRT library; the same object every time, because TensorRT holds on to the first logger that it is given.

    Raises:
        MissingExtraError: It is not installed.
        UsageError: It is installed and cannot be loaded, or is too old.
    """
    module = flavor.replace("-", "_")
    try:
        library: ModuleType = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise UsageError(f"{flavor} is installed and cannot be loaded: {error}") from None
        missing = MissingExtraError(flavor, flavor, f"{_TITLES[flavor]} engines")
        if flavor == "tensorrt":
            missing.args = (f"{missing} --extra-index-url {_VENDOR_INDEX}",)
        raise missing from None
    except (ImportError, OSError) as error:  # its wheels load shared libraries by hand
        raise UsageError(f"{flavor} is installed and cannot be loaded: {error}") from None
    return TensorRT(library, flavor)


def checked_flavor(flavor: str) -> Flavor:
    """A flavor as typed by a user.

    Raises:
        UsageError: It is none that is known.
    """
    if flavor not in get_args(Flavor):
        raise UsageError(f"unknown TensorRT flavor {flavor!r}: expected {' or '.join(get_args(Flavor))}")
    return cast(Flavor, flavor)


def said(messages: list[str]) -> str:
    """The library's words in one sentence."""
    return "; ".join(dict.fromkeys(messages)) or "it gave no reason"


def _make_logger(library: Any) -> Any:
    """A logger that passes errors on to those who listen; its base class is the library's, hence made at run time."""
    severity = library.ILogger.Severity
    kept = {severity.INTERNAL_ERROR, severity.ERROR}

    class Logger(library.ILogger):  # type: ignore[misc] # the base is known at run time alone
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.listeners: dict[int, list[str]] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in kept:
                for heard in list(self.listeners.values()):
                    heard.append(" ".join(str(message).split()))

    return Logger()
