"""`hat doctor`: what it tells of this machine, and what it says of machines that are put together wrongly."""

import json
from types import SimpleNamespace

import pytest
import torch

from hat.commands import doctor
from hat.commands.doctor import diagnose


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a driver, whose torch, runtimes and distributions a test chooses."""
    monkeypatch.setattr(doctor, "JETSON_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setattr(doctor, "_driver", lambda: "580.65")
    monkeypatch.setattr(doctor, "_providers_that_load", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("hat.runtime.tensorrt.library.find_variants", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return monkeypatch


def gpu(machine, cuda):
    properties = SimpleNamespace(name="L4", major=8, minor=9, multi_processor_count=58, total_memory=2**34)
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: 1)
    machine.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    machine.setattr(torch.version, "cuda", cuda)


def test_a_driver_without_a_gpu_in_torch_is_told_and_a_servers_torch_on_a_jetson(machine, tmp_path):
    for built_for, what, command in [
        (None, "torch is built for the CPU alone", "whl/cu130"),
        ("13.0", "torch for CUDA 13.0 sees no GPU", "unset CUDA_VISIBLE"),
    ]:
        machine.setattr(torch.version, "cuda", built_for)
        ((said, mends),) = diagnose().problems.items()
        assert what in said and command in mends
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    found = diagnose()
    assert found.facts["Jetson"] == "R36 (release), REVISION: 4.3"
    ((said, mends),) = found.problems.items()
    assert "wheel for servers" in said and "jetson-ai-lab" in mends


def test_a_gpu_that_onnxruntime_cannot_use_is_told_with_the_extra_of_the_same_cuda(machine, run_hat):
    gpu(machine, "12.8")
    machine.setattr(doctor, "_version", {"onnxruntime": "1.26.0"}.get)
    found = diagnose()
    assert found.facts["GPU 0"] == "L4, compute capability 8.9, 58 SMs, 16 GiB"
    mends = "pip uninstall -y onnxruntime && pip install 'hat-reid[gpu-cu12]' --extra-index-url https://pypi.nvidia.com"
    assert found.problems == {"torch sees a GPU and ONNX Runtime is the build for CPUs": mends}
    told = run_hat("doctor")
    assert told.returncode == 1 and mends in told.stdout  # with the extra in its brackets


def test_two_onnxruntimes_and_another_cuda_of_tensorrt_are_told(machine):
    gpu(machine, "12.8")
    machine.setattr(doctor, "_version", {"onnxruntime": "1.26.0", "onnxruntime-gpu": "1.26.0"}.get)
    machine.setattr(doctor, "_providers_that_load", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    names = [SimpleNamespace(metadata={"Name": name}) for name in ("torch", "tensorrt_cu13", "tensorrt-cu13-libs")]
    machine.setattr(doctor, "distributions", lambda: names)
    found = diagnose().problems
    assert len(found) == 2
    assert any("overwrite each other" in what for what in found)
    assert any("TensorRT is of CUDA 13 and torch of CUDA 12.8" in what for what in found)
    # With one ONNX Runtime, and torch of the same CUDA, all fits.
    machine.setattr(doctor, "_version", {"onnxruntime-gpu": "1.31.1"}.get)
    machine.setattr(torch.version, "cuda", "13.0")
    assert diagnose().problems == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\n", "AMD EPYC, fast in fp32"),
        ("model name\t: Intel N100\nflags\t\t: avx2 avx_vnni\n", "Intel N100, fast in fp32, int8"),
        ("model name\t: Xeon\nflags\t\t: avx512_vnni amx_bf16\n", "Xeon, fast in fp32, int8, bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp bf16\n", ", fast in fp32, int8, bf16"),
        (None, ", fast in fp32; other precisions are unknown here"),
    ],
)
def test_doctor_tells_in_which_precisions_the_processor_is_fast(text, expected, machine, tmp_path):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    machine.setattr("hat.processor._CPUINFO", tmp_path / "cpuinfo")
    assert diagnose().facts["CPU"].endswith(expected)


def test_doctor_tells_this_machine_as_json(run_hat):
    done = run_hat("doctor", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["problems"] else 0)
    assert told["facts"]["torch"].startswith(torch.__version__)
    assert {"Python", "NVIDIA driver", "ONNX Runtime", "TensorRT", "TensorRT for RTX", "OpenVINO"} <= set(told["facts"])
