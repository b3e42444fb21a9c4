"""Nothing is sent anywhere: runtimes under strace look up no host. Memory that is kept, and threads that wait."""

import os
import shutil
import subprocess
import sys

import pytest

from hat.cli import load_command
from hat.process_settings import ENVIRONMENT

USES = {
    "onnxruntime": """
import hat, onnx, onnxruntime
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
session.run(None, {"x": [1.0]})
del session
""",
    "openvino": """
import hat, numpy, openvino
from openvino import opset13 as ops
parameter = ops.parameter([1], openvino.Type.f32)
compiled = openvino.Core().compile_model(openvino.Model([ops.relu(parameter)], [parameter]), "CPU")
compiled([numpy.ones(1, numpy.float32)])
""",
    "nncf": "import hat, nncf\nassert type(nncf.telemetry.wrapper.telemetry).__name__ == 'MagicMock'\n",
    "gradio": "import hat, gradio\nassert not gradio.analytics.analytics_enabled()\n",
}


@pytest.mark.parametrize("library", sorted(USES))
def test_disable_telemetry_under_strace(library, tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    pytest.importorskip(library, reason=f"{library} is not installed")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in {*ENVIRONMENT, "CI", "XDG_CACHE_HOME"}}
    environment |= {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    watch = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace), sys.executable, "-c"]
    result = subprocess.run([*watch, USES[library]], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []
    assert list(home.rglob("*")) == []


def test_disable_telemetry_reaches_child_processes():
    child = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    code = f"import hat, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


KEEPS = """
import resource, sys
from hat.process_settings import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else None
size = 64 * 2**20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b'x' * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(told, min(faults() for _ in range(3)))
"""


def say(*arguments, **environment):
    """What a fresh process prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", KEEPS, *arguments]
    return subprocess.run(command, env={**clean, **environment}, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_keep_freed_memory_saves_page_faults():
    told, kept = say("keep")
    _, returned = say("return")
    assert told == "True" and int(returned) > 10_000 > 100 * int(kept)
    assert say("keep", MALLOC_TOP_PAD_="65536")[0] == "False", "what the user has set stays"


@pytest.mark.parametrize(("command", "policy"), [("train", "passive"), ("eval", "passive"), ("info", None)])
@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_wait_passively_unless_the_user_has_chosen_and_before_the_command_is_imported(command, policy, chosen, monkeypatch):
    environment = dict(chosen)
    seen = []
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr("hat.cli.keep_freed_memory", lambda: None)
    monkeypatch.setattr("pkgutil.resolve_name", lambda name: seen.append(dict(environment)) or (lambda: None))
    load_command(command)
    assert seen == [chosen or ({"OMP_WAIT_POLICY": policy} if policy else {})]
