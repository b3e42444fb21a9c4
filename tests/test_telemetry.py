"""Nothing is sent anywhere: runtimes under strace look up no host, and leave nothing in the home folder."""

import os
import shutil
import subprocess
import sys

import pytest

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
    watch = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]
    command = [*watch, sys.executable, "-c", USES[library]]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []
    assert list(home.rglob("*")) == []


def test_disable_telemetry_reaches_child_processes():
    child = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    code = f"import hat, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
