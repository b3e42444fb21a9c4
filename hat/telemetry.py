"""Usage data of the libraries underneath is never collected: switched off when `hat` is imported, before any of them is."""

import os
import sys
from types import ModuleType
from typing import cast

ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, since 1.29 on Linux too
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, which Gradio and timm bring
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}
"""Environment variables that child processes inherit: workers, served replicas, other programs that a command starts."""


def disable_telemetry() -> None:
    """Switch off what ONNX Runtime, OpenVINO, NNCF, Gradio, huggingface_hub and Ray would report of their use.

    OpenVINO and NNCF have no switch of their own: both go without where the package `openvino_telemetry` cannot be imported, so
    it is made so in this process, unless somebody imported it before.
    """
    os.environ.update(ENVIRONMENT)
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
