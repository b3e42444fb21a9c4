"""`hat doctor`: what it tells of this machine, and what it says of machines that are put together wrongly."""

import json
import subprocess
import sys

import pytest
import torch

from hat.commands import doctor
from hat.commands.doctor import Diagnosis, diagnose


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a driver, whose torch, runtimes and distributions a test chooses."""
    monkeypatch.setattr(doctor, "_JETSON_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setattr(doctor, "_driver", lambda: "580.65")
    monkeypatch.setattr(doctor, "_providers_that_load", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("hat.runtime.tensorrt.library.find_variants", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return monkeypatch


def gpu(machine, cuda):
    properties = type(
        "Properties", (), {"name": "L4", "major": 8, "minor": 9, "multi_processor_count": 58, "total_memory": 2**34}
    )
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: 1)
    machine.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    machine.setattr(torch.version, "cuda", cuda)


def problems(found):
    return {problem.what: problem.command for problem in found.problems}


@pytest.mark.parametrize(
    ("built_for", "what", "command"),
    [
        (None, "torch is built for the CPU alone", "whl/cu130"),
        ("13.0", "torch for CUDA 13.0 sees no GPU", "unset CUDA_VISIBLE"),
    ],
)
def test_a_driver_without_a_gpu_in_torch_is_told(built_for, what, command, machine):
    machine.setattr(torch.version, "cuda", built_for)
    ((said, mends),) = problems(diagnose()).items()
    assert what in said and command in mends


def test_a_servers_torch_on_a_jetson_is_told(machine, tmp_path):
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    found = diagnose()
    assert found.facts["Jetson"] == "R36 (release), REVISION: 4.3"
    ((said, mends),) = problems(found).items()
    assert "wheel for servers" in said and "jetson-ai-lab" in mends


def test_a_gpu_that_onnxruntime_cannot_use_is_told_with_the_extra_of_the_same_cuda(machine):
    gpu(machine, "12.8")
    machine.setattr(doctor, "_version", {"onnxruntime": "1.26.0"}.get)
    found = diagnose()
    assert found.facts["GPU 0"] == "L4, compute capability 8.9, 58 SMs, 16 GiB"
    ((said, mends),) = problems(found).items()
    assert said == "torch sees a GPU and ONNX Runtime is the build for CPUs"
    assert mends == "pip uninstall -y onnxruntime && pip install 'hat-reid[gpu-cu12]'"


def test_two_onnxruntimes_and_another_cuda_of_tensorrt_are_told(machine):
    gpu(machine, "12.8")
    machine.setattr(doctor, "_version", {"onnxruntime": "1.26.0", "onnxruntime-gpu": "1.26.0"}.get)
    machine.setattr(doctor, "_providers_that_load", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    machine.setattr(doctor, "_distributions", lambda beginning: ["tensorrt_cu13", "tensorrt_cu13_libs"])
    found = problems(diagnose())
    assert len(found) == 2
    assert any("overwrite each other" in what for what in found)
    assert any("TensorRT is of CUDA 13 and torch of CUDA 12.8" in what for what in found)


def test_a_machine_where_all_fits_has_no_problem(machine):
    gpu(machine, "13.0")
    machine.setattr(doctor, "_version", {"onnxruntime-gpu": "1.31.1"}.get)
    machine.setattr(doctor, "_providers_that_load", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    machine.setattr(doctor, "_distributions", lambda beginning: ["tensorrt-cu13"])
    assert isinstance(found := diagnose(), Diagnosis) and found.problems == []


def test_doctor_tells_this_machine_as_json():
    done = subprocess.run([sys.executable, "-m", "hat", "doctor", "--json"], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["problems"] else 0)
    assert told["facts"]["torch"].startswith(torch.__version__)
    assert {"Python", "NVIDIA driver", "ONNX Runtime", "TensorRT", "TensorRT for RTX", "OpenVINO"} <= set(told["facts"])
