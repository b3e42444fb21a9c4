"""TensorRT for RTX itself: parsing and building ahead of time, without a GPU. What fails without one is told here too."""

import os
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from fake_tensorrt import NAMES, small_info, small_onnx
from tiny_hat import calmed

import hat
from hat.errors import MissingExtraError, UsageError, WorkError
from hat.export.request import Calibration, ExportRequest
from hat.export.tensorrt.builder import build_engine
from hat.export.tensorrt.options import COMPUTE_CAPABILITIES, EngineOptions
from hat.export.tensorrt.precision import network_types
from hat.export.tensorrt.to_tensorrt import export_tensorrt, export_tensorrt_rtx
from hat.io.artifact import ArtifactInfo, BatchProfile
from hat.model import list_models
from hat.runtime.tensorrt.engine import engine_metadata, read_engine_info, sidecar_path
from hat.runtime.tensorrt.library import current_gpu, load_tensorrt

try:
    TRT = load_tensorrt("tensorrt-rtx")
except MissingExtraError as missing:
    pytest.skip(str(missing), allow_module_level=True)

WITHOUT_GPU = pytest.mark.skipif(current_gpu() is not None, reason="tells what fails where there is no GPU")
SLOW_LIMIT = pytest.mark.timeout(1800)
PRODUCTS = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8", "fp8": "FP8"}


def build(onnx_bytes, path, **arguments):
    return build_engine(onnx_bytes, path, variant="tensorrt-rtx", **arguments)


def calibration(size, num_images=4):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_images, 3, *size), dtype=np.uint8)
    return Calibration(images, tuple(f"{number}.jpg" for number in range(num_images)), "noise", 0)


def opset_for(precision):
    return {"bf16": 22, "fp8": 19}.get(precision, 18)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_whole_model_is_built_in_every_precision(precision, tiny_model, tmp_path):
    path = tmp_path / "tiny.engine"
    request = ExportRequest(
        name="tiny",
        precision=precision,
        opset=opset_for(precision),
        batch=BatchProfile(min=1, opt=4, max=16),
        calibration=calibration(tiny_model.config.image_size) if precision == "int8" else None,
    )
    info = export_tensorrt_rtx(tiny_model, path, request)
    metadata = engine_metadata(info, "it")
    assert isinstance(info, ArtifactInfo) and read_engine_info(path) == info
    assert (info.precision, info.name, info.batch.max) == (precision, "tiny", 16)
    assert info.versions["tensorrt-rtx"] == metadata.version == TRT.version
    # On RTX cards int8 is in linear layers alone: the rest would move more bytes than it saves.
    assert metadata.precision_types[PRODUCTS[precision]] > (10 if precision == "int8" else 50)
    assert path.stat().st_size > 1_000_000


def test_bfloat16_parses_operator_by_operator(tmp_path):
    """Convolutions and matrix products are built; what this parser does not take in bfloat16 it says itself."""
    info = build(small_onnx("bf16"), tmp_path / "small.engine")
    assert engine_metadata(info, "it").precision_types == {"BF16": 2}
    proto = onnx.load_model_from_string(small_onnx("bf16"))
    (conv,) = [node for node in proto.graph.node if node.name == "conv"]
    conv.output[0] = "before"
    proto.graph.node.insert(
        list(proto.graph.node).index(conv) + 1, onnx.helper.make_node("HardSwish", ["before"], ["maps"], name="act")
    )
    with pytest.raises(WorkError, match=r"cannot parse the bf16 ONNX: act \(HardSwish\): .*BF16"):
        build(proto.SerializeToString(), tmp_path / "other.engine")
    assert not (tmp_path / "other.engine").exists()


@pytest.mark.parametrize(("precision", "types"), [("fp32", {"FLOAT": 2}), ("fp16", {"HALF": 2}), ("int8", {"INT8": 2})])
def test_types_are_read_from_the_network_that_the_parser_made(precision, types):
    network = TRT.library.Builder(TRT.logger).create_network(TRT.network_flags())
    assert TRT.library.OnnxParser(network, TRT.logger).parse(small_onnx(precision))
    assert network_types(network) == types


@pytest.mark.parametrize(("asked", "computes"), [("fp16", "fp32"), ("fp32", "fp16"), ("int8", "fp32"), ("fp16", "int8")])
def test_an_onnx_that_computes_in_another_precision_than_it_says_is_refused(asked, computes, tmp_path):
    with pytest.raises(WorkError, match=f"{asked} was asked for and the parsed network has"):
        build(small_onnx(asked, computes=computes), tmp_path / "small.engine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("capability", COMPUTE_CAPABILITIES)
def test_every_compute_capability_is_built_for_or_refused_with_a_reason(capability, tmp_path):
    options = EngineOptions(compute_capability=(capability,))
    if capability == "sm75":  # Turing has no float32 matrix product in this library
        with pytest.raises(WorkError, match=r"(?i)turing"):
            build(small_onnx(), tmp_path / "small.engine", options=options)
        return
    info = build(small_onnx(), tmp_path / "small.engine", options=options)
    assert info.device == capability


@pytest.mark.parametrize(("precision", "capability"), [("fp32", "sm75"), ("int8", "sm75")])
def test_a_precision_that_a_gpu_lacks_is_refused_in_the_builders_words(precision, capability, tmp_path):
    with pytest.raises(WorkError, match=r"cannot build the engine: .*(?i:sm75)"):
        build(small_onnx(precision), tmp_path / "small.engine", options=EngineOptions(compute_capability=(capability,)))
    assert list(tmp_path.iterdir()) == []


def test_several_compute_capabilities_go_into_one_engine(tmp_path):
    info = build(small_onnx("fp16"), tmp_path / "small.engine", options=EngineOptions(compute_capability=("sm86", "sm89")))
    assert engine_metadata(info, "it").targets == ("sm86", "sm89")


def test_two_mistakes_are_told_with_their_nodes(tmp_path):
    with pytest.raises(WorkError, match=r"cannot parse the fp32 ONNX: .*conv \(NoSuchOperator\)"):
        build(small_onnx(operator="NoSuchOperator"), tmp_path / "small.engine")
    assert list(tmp_path.iterdir()) == []


@WITHOUT_GPU
def test_without_a_gpu_tensorrt_itself_is_not_built(tiny_model, tmp_path):
    with pytest.raises((UsageError, MissingExtraError)):
        export_tensorrt(tiny_model, tmp_path / "tiny.engine", ExportRequest(name="tiny"))
    assert list(tmp_path.iterdir()) == []


def test_an_input_of_another_size_than_the_metadata_says_is_refused(tmp_path):
    info = small_info(preprocessing=hat.Preprocessing(height=128, width=64))
    with pytest.raises(WorkError, match=r"expected the input \(-1, 3, 128, 64\)"):
        build(small_onnx(info=info), tmp_path / "small.engine")


def test_an_unknown_option_is_refused_before_anything_is_traced(tiny_model, tmp_path):
    with pytest.raises(UsageError, match="no option workspce_bytes"):
        export_tensorrt_rtx(tiny_model, tmp_path / "t.engine", ExportRequest(name="t", options={"workspce_bytes": 1}))
    with pytest.raises(UsageError, match="sm87"):
        export_tensorrt_rtx(
            tiny_model, tmp_path / "t.engine", ExportRequest(name="t", options={"compute_capability": ["sm87"]})
        )
    with pytest.raises(UsageError, match="timing_cache is not for"):
        export_tensorrt_rtx(tiny_model, tmp_path / "t.engine", ExportRequest(name="t", options={"timing_cache": "a"}))


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fake_tensorrt import small_onnx
from hat.export.tensorrt.builder import build_engine

write = Path.write_bytes
def half(self, data):
    write(self, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = half
build_engine(small_onnx(), sys.argv[1], variant="tensorrt-rtx")
"""


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path):
    path = tmp_path / "small.engine"
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - an argument, not a path to work on
    process = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, path, tests], capture_output=True, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not path.exists() and not sidecar_path(path).exists()
    assert all(left.name.startswith(".") and left.name.endswith(".part") for left in tmp_path.iterdir())
    build(small_onnx(), path)  # and the next build is not hindered
    assert read_engine_info(path).name == "small"


def test_weights_above_two_gigabytes_are_read_from_the_file_beside(tmp_path):
    """A small network whose weights stand in a file of their own, as those of a large one must."""
    proto = onnx.load_model_from_string(small_onnx("fp16"))
    onnx.save_model(proto, tmp_path / "large.onnx", save_as_external_data=True, location="large.onnx.data", size_threshold=16)
    assert (tmp_path / "large.onnx.data").stat().st_size > 10_000
    info = build(tmp_path / "large.onnx", tmp_path / "large.engine")
    assert engine_metadata(info, "it").precision_types == {"HALF": 2}
    one_file = build(small_onnx("fp16"), tmp_path / "small.engine")
    assert (tmp_path / "large.engine").stat().st_size == pytest.approx((tmp_path / "small.engine").stat().st_size, rel=0.01)
    assert engine_metadata(one_file, "it").onnx_sha256 != engine_metadata(info, "it").onnx_sha256


def test_the_fakes_has_the_names_of_the_real_library():
    real = {
        name: sorted(member for member in dir(getattr(TRT.library, name)) if not member.startswith("_"))
        for name in NAMES["rtx 1.7.1.116"]
    }
    if TRT.version != "1.7.1.116":
        pytest.skip(f"the list of names is that of 1.7.1.116, {TRT.version} is installed")
    for name, members in NAMES["rtx 1.7.1.116"].items():
        assert set(members.split()) <= set(real[name]), name


@pytest.mark.slow
@SLOW_LIMIT
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", list_models())
def test_every_preset_is_built_in_every_precision(name, precision, tmp_path):
    model = calmed(hat.create_model(name, num_classes=2))
    request = ExportRequest(
        name=name,
        precision=precision,
        opset=opset_for(precision),
        calibration=calibration(model.config.image_size, 1) if precision == "int8" else None,
    )
    info = export_tensorrt_rtx(model, tmp_path / "preset.engine", request)
    assert engine_metadata(info, name).precision_types[PRODUCTS[precision]] > 0
