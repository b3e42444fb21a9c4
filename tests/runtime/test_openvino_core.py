"""One OpenVINO for the process: signals still arrive after its plugins were loaded and unloaded."""

import subprocess
import sys

import pytest

pytest.importorskip("openvino", reason="the extra openvino is not installed")

SIGNAL_AFTER_UNLOADING = """
import signal
import openvino
from hat.runtime.openvino_core import kept_signal_stack, openvino_core

assert openvino_core("testing") is openvino_core("testing")
cores = []
for _ in range(2):
    with kept_signal_stack():  # as around NNCF, which loads its own
        cores.append(openvino.Core())
        cores[-1].get_versions("CPU")
while cores:
    cores.pop(0)  # the first is unloaded first: the second would put back the first one's stack
signal.signal(signal.SIGTERM, lambda number, frame: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_arrives_after_plugins_were_unloaded():
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNAL_AFTER_UNLOADING]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (finished.returncode, finished.stdout) == (0, "heard\n"), finished.stderr
