"""``hat doctor``: the installation, what runs on this machine, and problems with the command that fixes each."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hat.commands.options import AsJson
from hat.console import emit, make_table
from hat.processor import JETSON_RELEASE, fast_precisions, processor_name

if TYPE_CHECKING:
    from rich.console import RenderableType


_TORCH_INDEX = "https://download.pytorch.org/whl"
_NEWEST_TORCH_CUDA = "cu130"


@dataclass
class Diagnosis:
    """Installed components of a machine, and their problems."""

    facts: dict[str, str] = field(default_factory=dict)
    """Name -> description, in the order of the table."""

    problems: dict[str, str] = field(default_factory=dict)
    """Problem, in one sentence -> the command that fixes it."""


def doctor(as_json: AsJson = False) -> None:
    """Check the installation and report problems, each with the command that fixes it.

    Exits with 1 if there is a problem. Nothing is changed and nothing is sent anywhere.

    Examples:

      hat doctor

      hat doctor --json > machine.json
    """
    diagnosis = diagnose()
    problems = [{"what": what, "command": command} for what, command in diagnosis.problems.items()]
    emit({"facts": diagnosis.facts, "problems": problems}, _table(diagnosis), as_json)
    if diagnosis.problems:
        raise typer.Exit(1)


def diagnose() -> Diagnosis:
    """Check Python, torch, the driver, GPUs, and every runtime that is installed: each is really loaded."""
    diagnosis = Diagnosis()
    diagnosis.facts["Python"] = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    )
    fast = fast_precisions()
    diagnosis.facts["CPU"] = (
        f"{processor_name()}, fast in {', '.join(fast) if fast else 'fp32; other precisions are unknown here'}"
    )
    if JETSON_RELEASE.exists():
        diagnosis.facts["Jetson"] = JETSON_RELEASE.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip("# ")
    diagnosis.facts["hat-reid"] = _version("hat-reid") or "not installed"
    driver = _driver()
    diagnosis.facts["NVIDIA driver"] = driver or "none"
    cuda = _check_torch(diagnosis, driver)
    _check_onnxruntime(diagnosis, cuda)
    _check_tensorrt(diagnosis, cuda)
    _check_openvino(diagnosis)
    return diagnosis


def _check_torch(diagnosis: Diagnosis, driver: str | None) -> str | None:
    """Return the CUDA version of torch where it sees a GPU."""
    import torch

    built_for = torch.version.cuda
    diagnosis.facts["torch"] = f"{torch.__version__}, built for {f'CUDA {built_for}' if built_for else 'the CPU alone'}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            diagnosis.facts[f"GPU {index}"] = (
                f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.multi_processor_count} SMs, "
                f"{gpu.total_memory / 2**30:.0f} GiB"
            )
        return built_for
    diagnosis.facts["GPU"] = "torch sees none"
    if driver is not None:
        what, command = _blind_torch(built_for)
        diagnosis.problems[what] = command
    return None


def _blind_torch(built_for: str | None) -> tuple[str, str]:
    if JETSON_RELEASE.exists():
        what = "a Jetson's torch comes from NVIDIA, and this one sees no GPU: a wheel for servers has replaced it"
        return what, "pip install --force-reinstall --no-deps torch --index-url https://pypi.jetson-ai-lab.io/jp6/cu126"
    reinstall = f"pip install --force-reinstall torch torchvision --index-url {_TORCH_INDEX}"
    if built_for is None:
        return "a driver is there and torch is built for the CPU alone", f"{reinstall}/{_NEWEST_TORCH_CUDA}"
    reason = "the driver is older, or CUDA_VISIBLE_DEVICES hides it"
    what = f"a driver is there and torch for CUDA {built_for} sees no GPU: {reason}"
    return what, f"unset CUDA_VISIBLE_DEVICES; or {reinstall}/cu126"


def _check_onnxruntime(diagnosis: Diagnosis, cuda: str | None) -> None:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if not installed:
        diagnosis.facts["ONNX Runtime"] = "not installed"
        return
    if len(installed) > 1:
        what = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        diagnosis.problems[what] = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    providers = _providers_that_load()
    diagnosis.facts["ONNX Runtime"] = f"{_version(installed[0])}, loads {', '.join(providers) or 'no provider'}"
    if cuda is not None and "CUDAExecutionProvider" not in providers:
        gpu_build = "onnxruntime-gpu" in installed
        what = "loads no CUDA: its build is for another CUDA than torch's" if gpu_build else "is the build for CPUs"
        fix = f"pip uninstall -y {' '.join(installed)} && pip install {_gpu_extra(cuda)}"
        diagnosis.problems[f"torch sees a GPU and ONNX Runtime {what}"] = fix


def _providers_that_load() -> list[str]:
    """Return providers with which a session of one node really opens: the list of a build says only what it was built with."""
    code = (
        "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'\n"
        "import torch, onnxruntime as ort\n"  # torch brings the CUDA libraries
        "from onnx import TensorProto as T, helper as h\n"
        "x, y = (h.make_tensor_value_info(n, T.FLOAT, [1]) for n in 'xy')\n"
        "graph = h.make_graph([h.make_node('Abs', ['x'], ['y'])], 'g', [x], [y])\n"
        "model = h.make_model(graph, opset_imports=[h.make_opsetid('', 18)], ir_version=9).SerializeToString()\n"
        "options = ort.SessionOptions(); options.log_severity_level = 4\n"
        "for name in ('CUDAExecutionProvider', 'CPUExecutionProvider'):\n"
        "    if name in ort.get_available_providers():\n"
        "        if name in ort.InferenceSession(model, options, providers=[name]).get_providers(): print(name)\n"
    )
    # In a process of its own: a provider that cannot be loaded may take the process with it.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    return done.stdout.split()


def _check_tensorrt(diagnosis: Diagnosis, cuda: str | None) -> None:
    from hat.runtime.tensorrt.library import find_variants

    variants = find_variants()
    diagnosis.facts["TensorRT"] = variants.get("tensorrt", "not installed")
    diagnosis.facts["TensorRT for RTX"] = variants.get("tensorrt-rtx", "not installed")
    for variant, status in variants.items():
        if "cannot be loaded" in status or "is needed" in status:
            diagnosis.problems[status] = f"pip install --force-reinstall 'hat-reid[{variant}]'"
    majors = _tensorrt_cuda_majors()
    if cuda is not None and majors and cuda.partition(".")[0] not in majors:
        what = f"TensorRT is of CUDA {', '.join(sorted(majors))} and torch of CUDA {cuda}: they cannot share a process"
        diagnosis.problems[what] = f"pip install {_gpu_extra(cuda)}"


def _gpu_extra(cuda: str) -> str:
    """Return what pip is to install for a version of CUDA, TensorRT from its own index."""
    return f"'hat-reid[gpu-cu{cuda.partition('.')[0]}]' --extra-index-url https://pypi.nvidia.com"


def _tensorrt_cuda_majors() -> set[str]:
    """Return the CUDA majors that the names of TensorRT's installed distributions say."""
    names = " ".join(str(distribution.metadata["Name"]) for distribution in distributions())
    return set(re.findall(r"tensorrt[-_]cu(\d+)", names, re.IGNORECASE))


def _check_openvino(diagnosis: Diagnosis) -> None:
    installed = _version("openvino")
    if installed is None:
        diagnosis.facts["OpenVINO"] = "not installed"
        return
    from hat.errors import MissingExtraError
    from hat.runtime.openvino_runtime import openvino_core

    try:
        devices = list(openvino_core("running OpenVINO files").available_devices)
    except (MissingExtraError, RuntimeError) as error:
        reason = error.__context__ or error  # it is there and one of its libraries is not
        diagnosis.problems[f"OpenVINO cannot be loaded: {reason}"] = "pip install --force-reinstall openvino"
        devices = []
    diagnosis.facts["OpenVINO"] = f"{installed}, devices {', '.join(devices) or 'none'}"


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, None where there is none."""
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    loaded = Path("/proc/driver/nvidia/version")
    return loaded.read_text(encoding="utf-8").splitlines()[0].strip() if loaded.is_file() else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _table(diagnosis: Diagnosis) -> RenderableType:
    from rich.console import Group

    lines = [f"{what}:\n  {command}" for what, command in diagnosis.problems.items()]
    verdict = "\n".join(lines) or "Everything that is installed fits together."
    return Group(make_table(diagnosis.facts.items()), "", verdict)
