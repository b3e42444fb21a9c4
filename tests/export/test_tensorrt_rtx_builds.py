"""TensorRT for RTX itself: parsing and building ahead of time, without a GPU. What fails without one is told here too."""

import types

import onnx
import pytest
from fake_tensorrt import NAMES, small_info, small_onnx

import hat
from hat.errors import MissingExtraError, UsageError, WorkError
from hat.export.request import ExportRequest
from hat.export.tensorrt.builder import build_engine, export_tensorrt_rtx, int8_warning
from hat.export.tensorrt.inspection import network_types
from hat.export.tensorrt.options import COMPUTE_CAPABILITIES, EngineOptions
from hat.io.artifact import BatchProfile
from hat.runtime.tensorrt.engine import engine_metadata, onnx_sha256, read_engine_info
from hat.runtime.tensorrt.library import load_tensorrt

try:
    TRT = load_tensorrt("tensorrt-rtx")
except MissingExtraError as missing:
    pytest.skip(str(missing), allow_module_level=True)

PRODUCTS = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}
NUM_PRODUCTS = {"fp32": 50, "fp16": 45, "int8": 15}  # on RTX cards int8 is in linear layers alone, see `int8_warning`
KERNELS = {"fp32": 95, "fp16": 88, "int8": 95}


def build(onnx_bytes, path, **arguments):
    return build_engine(onnx_bytes, path, variant="tensorrt-rtx", **arguments)


@pytest.mark.parametrize("precision", list(PRODUCTS))
def test_a_whole_model_is_built_in_every_precision(precision, small_model, calibration, tmp_path):
    path = tmp_path / "small.engine"
    images, plain = (calibration, {"rounding": "nearest"}) if precision == "int8" else (None, {})
    batch = BatchProfile(min=1, opt=4, max=16)
    request = ExportRequest("small", precision, batch=batch, calibration=images, options=plain)
    info = export_tensorrt_rtx(small_model, path, request)
    metadata = engine_metadata(info, "it")
    assert read_engine_info(path) == info
    assert (info.precision, info.name, info.batch.max) == (precision, "small", 16)
    assert info.versions["tensorrt-rtx"] == metadata.version == TRT.version
    assert metadata.precision_types[PRODUCTS[precision]] >= NUM_PRODUCTS[precision]
    assert 10 < metadata.plan["kernels"] <= KERNELS[precision] and path.stat().st_size > 1_000_000


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


def test_every_compute_capability_is_built_for(tmp_path):
    """All in one engine, but for Turing, which has no bfloat16."""
    named = [name for name in COMPUTE_CAPABILITIES if name != "sm75"]
    info = build(small_onnx("bf16"), tmp_path / "small.engine", options=EngineOptions(compute_capability=named))
    assert info.device == ", ".join(named) and engine_metadata(info, "it").targets == tuple(named)
    assert engine_metadata(info, "it").precision_types == {"BF16": 2}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_precision_that_a_gpu_lacks_is_refused_in_the_builders_words(precision, tmp_path):
    with pytest.raises(WorkError, match=r"(?i)cannot build the engine: .*(sm75|turing)"):
        build(small_onnx(precision), tmp_path / "small.engine", options=EngineOptions(compute_capability=("sm75",)))
    assert list(tmp_path.iterdir()) == []


def test_what_the_parser_refuses_is_told_and_an_input_of_another_size_than_the_metadata_says(tmp_path):
    with pytest.raises(WorkError, match=r"cannot parse the fp32 ONNX: .*conv \(NoSuchOperator\)"):
        build(small_onnx(operator="NoSuchOperator"), tmp_path / "small.engine")
    info = small_info(preprocessing=hat.Preprocessing(height=128, width=64))
    with pytest.raises(WorkError, match=r"expected the input \(-1, 3, 128, 64\)"):
        build(small_onnx(info=info), tmp_path / "small.engine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workspce_bytes": 1}, "no option workspce_bytes"),
        ({"compute_capability": ["sm87"]}, "sm87"),
        ({"timing_cache": "a"}, "timing_cache is not for"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_traced(options, words, small_model, tmp_path):
    with pytest.raises(UsageError, match=words):
        export_tensorrt_rtx(small_model, tmp_path / "t.engine", ExportRequest(name="t", options=options))


def test_int8_that_gains_nothing_says_so():
    source = types.SimpleNamespace(config=hat.ModelConfig(backbone={"name": "resnet18"}))
    assert "fp16 160 kernels and 357 MB, int8 201 kernels and 398 MB" in int8_warning(source, "int8")
    assert int8_warning(source, "fp8") is None
    assert int8_warning(types.SimpleNamespace(config=hat.ModelConfig(backbone={"name": "resnet50"})), "int8") is None


def test_weights_above_two_gigabytes_are_read_from_the_file_beside(tmp_path):
    """A small network whose weights stand in a file of their own, as those of a large one must."""
    proto = onnx.load_model_from_string(small_onnx("fp16"))
    for tensor in proto.graph.initializer:  # as bytes, which alone can stand in another file
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(proto, tmp_path / "large.onnx", save_as_external_data=True, location="large.onnx.data", size_threshold=16)
    assert (tmp_path / "large.onnx.data").stat().st_size > 10_000
    info = build(tmp_path / "large.onnx", tmp_path / "large.engine")
    assert engine_metadata(info, "it").precision_types == {"HALF": 2}
    data = tmp_path / "large.onnx.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert engine_metadata(info, "it").onnx_sha256 != onnx_sha256(tmp_path / "large.onnx")  # other weights, another hash


def test_the_fake_has_no_names_but_those_of_the_real_library():
    if TRT.version != "1.7.1.116":
        pytest.skip(f"the list of names is that of 1.7.1.116, {TRT.version} is installed")
    for name, members in NAMES["rtx 1.7.1.116"].items():
        assert set(members.split()) <= set(dir(getattr(TRT.library, name))), name
