"""The extras for GPUs, resolved as pip would resolve them: torch and ONNX Runtime of one CUDA. Needs PyPI."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib")  # of Python 3.11

PROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(extra, python):
    """What an extra asks for on a Python, the extras of ours inside it taken apart.

    Markers are evaluated here: pip takes those of the Python that runs it, whatever it resolves for. The libraries of TensorRT
    are left out, as their wheels lie on NVIDIA's own index; that they are of the extra's CUDA is said by their names.
    """
    found = []
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == "hat-reid":
            found += [line for inner in requirement.extras for line in requirements(inner, python)]
        elif requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            requirement.marker = None
            found.append(str(requirement))
    return [line for line in found if not line.startswith("tensorrt")]


def cuda_majors(package):
    """CUDA majors of NVIDIA's libraries that a wheel asks for, of all its own extras too."""
    lines = [line for line in package["metadata"].get("requires_dist", []) if line.startswith(("nvidia-", "cuda-"))]
    named = [re.match(r"nvidia-[a-z-]+-cu(\d+)", line) for line in lines]
    numbered = [re.match(r"(?:cuda-toolkit|nvidia-cuda-runtime)(?:\[.*\])? ?[=~]=(\d+)", line) for line in lines]
    return {match[1] for match in (*named, *numbered) if match}


@pytest.fixture(scope="module")
def pip(tmp_path_factory):
    """A pip that resolves by the metadata alone: older ones download every wheel of a dry run, gigabytes of CUDA."""
    folder = tmp_path_factory.mktemp("pip")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "pip>=25.3"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("PyPI cannot be reached")
    # The machine's own settings may name local builds of torch, which are for no GPU.
    return os.environ | {"PYTHONPATH": str(folder), "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("python", ["3.10", "3.12"])
@pytest.mark.parametrize(("extra", "cuda"), [("gpu-cu12", "12"), ("gpu-cu13", "13")])
def test_the_extra_brings_torch_and_onnxruntime_of_one_cuda(extra, cuda, python, pip, tmp_path):
    assert [line for line in PROJECT["optional-dependencies"][extra] if line.startswith(f"tensorrt-cu{cuda}>")]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(report)]
    command += ["--only-binary=:all:", "--python-version", python, "--target", str(tmp_path / "none")]
    command += [*PROJECT["dependencies"], *requirements(extra, python)]
    done = subprocess.run(command, env=pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {package["metadata"]["name"].lower(): package for package in json.loads(report.read_text())["install"]}
    assert cuda_majors(chosen["torch"]) == {cuda}
    assert "onnxruntime" not in chosen, "it would overwrite the files of onnxruntime-gpu"
    if "onnxruntime-gpu" in chosen or python != "3.10":  # ONNX Runtime for CUDA 13 needs Python 3.11
        assert cuda_majors(chosen["onnxruntime-gpu"]) == {cuda}
