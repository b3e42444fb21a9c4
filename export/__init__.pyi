"""The public names, said once: for type checkers, and for the package, which imports each at its first use."""

from .foreign.adoption import adopt as adopt
from .parity.verification import verify as verify
from .request import Calibration as Calibration
from .request import ExportRequest as ExportRequest
from .request import calibration_from as calibration_from
from .request import export_function as export_function
from .tensorrt.builder import build_engine as build_engine
from .tensorrt.options import EngineOptions as EngineOptions
from .to_onnx import export_onnx as export_onnx
