"""The one place where TensorRT 10, TensorRT 11 and TensorRT for RTX are reached, and where they differ.

They share an API and not its extent: 10 needs a flag for strong typing, 11 ignores it and lost every flag that chose a
precision, RTX has target architectures and a runtime cache and neither timing cache nor lean runtime. Everything else asks a
`TensorRT` object, which tests build around a fake; nothing imports the libraries directly.
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Literal, cast, get_args

import torch

from hat.errors import CheckpointError, HatError, MissingExtraError, UsageError, WorkError
from hat.processor import JETSON_RELEASE
from hat.runtime.torch_runtime import choose_device

Variant = Literal["tensorrt", "tensorrt-rtx"]

_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
_MIN_VERSIONS = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 3)}
_VENDOR_INDEX = "https://pypi.nvidia.com"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    num_sms: int
    """Number of streaming multiprocessors: "Orin" alone is the name of three chips."""

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{self.name} (compute capability {major}.{minor}, {self.num_sms} SMs)"


@dataclass
class Messages:
    """Messages that a library reported meanwhile, each on one line."""

    errors: list[str] = field(default_factory=list)
    """For the exception that follows."""
    warnings: list[str] = field(default_factory=list)
    """Kept in the sidecar of what was built."""
    plans: list[str] = field(default_factory=list)
    """Lists of an engine's layers, as they were printed; TensorRT for RTX prints one for each compute capability."""

    def __str__(self) -> str:
        return joined(self.errors)


def current_gpu(index: int | None = None) -> Gpu | None:
    """Return a CUDA device as torch sees it, the current one where no index is given; None where there is none."""
    if not torch.cuda.is_available():
        return None
    chosen = torch.cuda.current_device() if index is None else index
    properties = torch.cuda.get_device_properties(chosen)
    return Gpu(chosen, properties.name, (properties.major, properties.minor), properties.multi_processor_count)


class TensorRT:
    """One TensorRT library, the imported module or a fake with the same names, with what this package needs of it."""

    def __init__(self, library: Any, variant: Variant) -> None:
        self.library = library
        self.variant = variant
        self.version = str(library.__version__)  # "10.16.1.11"
        self.title = f"{_TITLES[variant]} {self.version}"
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        if numbers < _MIN_VERSIONS[variant]:
            min_version = ".".join(map(str, _MIN_VERSIONS[variant]))
            raise UsageError(
                f"{self.title} is installed: {min_version} or newer is needed, which types a network by its graph alone"
            )
        self.logger = _make_logger(library)

    @property
    def is_rtx(self) -> bool:
        """Return whether it is TensorRT for RTX, which builds without a GPU and finishes the build on the machine that runs."""
        return self.variant == "tensorrt-rtx"

    @contextmanager
    def listen(self) -> Iterator[Messages]:
        """Collect what the library reports."""
        messages = Messages()
        self.logger.listeners[id(messages)] = messages  # by identity: two that collected nothing are equal
        try:
            yield messages
        finally:
            del self.logger.listeners[id(messages)]

    def network_flags(self) -> int:
        """Return how to create a strongly typed network: 10 and RTX have a flag for it; where that is gone, all are."""
        flags = self.library.NetworkDefinitionCreationFlag
        return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0

    def builder_flag(self, name: str) -> Any:
        """Return a builder flag by name; a `UsageError` where this library has none of that name."""
        flag = getattr(self.library.BuilderFlag, name, None)
        if flag is None:
            raise UsageError(f"{self.title} has no builder flag {name}: leave the option out, or use another version")
        return flag

    def device(self, device: str | None) -> torch.device:
        """Return the CUDA device to run on; a `UsageError` where it is no CUDA device, or is not there."""
        chosen = choose_device(device)
        if chosen.type != "cuda":
            asked = f"{device} was asked for" if device not in (None, "auto") else "torch sees no CUDA device"
            raise UsageError(f"{asked}, and {_TITLES[self.variant]} engines run on NVIDIA GPUs alone")
        index = cast("int | None", chosen.index)  # torch's stubs leave out that "cuda" has none
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)

    def find_gpu(self, index: int | None) -> Gpu | None:
        """Return the GPU of an index, see `current_gpu`."""
        return current_gpu(index)

    def make(self, name: str, *arguments: Any) -> Any:
        """Return one of the library's own objects by class name; the logger is the last argument of each.

        A `WorkError` tells in the library's own words that it cannot start: no driver, or one that is too old.
        """
        with self.listen() as messages:
            try:
                return getattr(self.library, name)(*arguments, self.logger)
            except TypeError as error:  # what its bindings make of a null pointer
                raise WorkError(f"{self.title} cannot start: {joined(messages.errors or [str(error)])}") from None

    def runtime(self, *, host_code: bool = False) -> Any:
        """Return a runtime; ``host_code`` lets an engine run the lean runtime that it carries, which is native code."""
        runtime = self.make("Runtime")
        if host_code:
            runtime.engine_host_code_allowed = True
        return runtime

    def deserialize(self, runtime: Any, plan: bytes, source: str) -> Any:
        """Load an engine; what the library refuses is a `CheckpointError` in its own words."""
        with self.listen() as messages:
            engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise CheckpointError(f"{source} cannot be loaded by {self.title}: {messages}")
        return engine

    def context(self, engine: Any, source: str, settings: Any = None) -> Any:
        """Make an execution context: one of RTX by its settings, any other one without scratch memory of its own."""
        with self.listen() as messages:
            shared = self.library.ExecutionContextAllocationStrategy.USER_MANAGED
            context = engine.create_execution_context(shared if settings is None else settings)
        if context is None:
            raise WorkError(f"{source}: {self.title} cannot make an execution context: {messages}")
        return context


@cache
def load_tensorrt(variant: Variant) -> TensorRT:
    """Import a TensorRT library; the same object every time, because TensorRT holds on to the first logger that it is given.

    Where it is not installed that is a `MissingExtraError`; where it cannot be loaded or is too old, another `UsageError`.
    """
    module = variant.replace("-", "_")
    try:
        library: ModuleType = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise UsageError(f"{variant} is installed and cannot be loaded: {error}") from None
        missing = MissingExtraError(variant, variant, f"{_TITLES[variant]} engines")
        if variant == "tensorrt" and JETSON_RELEASE.exists():
            missing.args = (
                "TensorRT of JetPack is not seen by this environment: install python3-libnvinfer and make the "
                "environment with python3 -m venv --system-site-packages; no wheel of TensorRT runs on a Jetson",
            )
        elif variant == "tensorrt":
            missing.args = (f"{missing} --extra-index-url {_VENDOR_INDEX}",)
        raise missing from None
    except (ImportError, OSError) as error:  # its wheels load shared libraries by hand
        raise UsageError(f"{variant} is installed and cannot be loaded: {error}") from None
    return TensorRT(library, variant)


def find_variants() -> dict[Variant, str]:
    """Return the versions of the TensorRT libraries that are installed, or why one does not load."""
    found: dict[Variant, str] = {}
    for variant in get_args(Variant):
        try:
            found[variant] = load_tensorrt(variant).version
        except MissingExtraError:
            continue
        except HatError as error:
            found[variant] = str(error)
    return found


def joined(messages: list[str]) -> str:
    """Join a library's messages to one sentence."""
    return "; ".join(dict.fromkeys(messages)) or "it gave no reason"


def _make_logger(library: Any) -> Any:
    """Return a logger that passes messages on to those who listen; its base class is the library's, hence made at run time."""
    levels = library.ILogger.Severity

    class Logger(library.ILogger):  # type: ignore[misc] # the base is known at run time alone
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.listeners: dict[int, Messages] = {}

        def log(self, severity: Any, message: str) -> None:
            for messages in list(self.listeners.values()):
                if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                    messages.errors.append(" ".join(str(message).split()))
                elif severity == levels.WARNING:
                    messages.warnings.append(" ".join(str(message).split()))
                elif message.startswith("Layers:\n"):
                    messages.plans.append(message)

    return Logger()
