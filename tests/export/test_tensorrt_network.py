"""What TensorRT understood of our graphs, computed; and what it makes of them for a GPU that is not there.

The network that the parser of TensorRT for RTX made of an ONNX file is computed by `network_interpreter` and compared with the
model; ONNX's reference evaluator computes float16 literally; the plan in the build log is held to limits.
"""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from network_interpreter import Interpreter
from tiny_hat import calmed

import hat
from hat.errors import MissingExtraError, WorkError
from hat.export.request import Calibration, ExportRequest
from hat.export.tensorrt.builder import build_engine
from hat.export.tensorrt.inspection import moved_bytes, plan_figures, read_plan
from hat.export.tensorrt.options import EngineOptions
from hat.export.to_onnx import build_onnx, describe, save_onnx
from hat.io.artifact import BatchProfile
from hat.model import list_models
from hat.model.inference import InferenceModel
from hat.runtime.tensorrt.engine import engine_metadata
from hat.runtime.tensorrt.library import load_tensorrt

try:
    TRT = load_tensorrt("tensorrt-rtx")
except MissingExtraError as missing:
    pytest.skip(str(missing), allow_module_level=True)

WORST_COSINE = {"fp32": 0.999999, "fp16": 0.9995, "bf16": 0.998, "int8": 0.97, "fp8": 0.95}


def noise(model, count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *model.config.image_size), dtype=np.uint8)


def write_onnx(model, precision, folder, pixels, **options):
    quantizes = precision in ("int8", "fp8")
    calibration = Calibration(pixels, tuple(map(str, range(len(pixels)))), "noise", 0) if quantizes else None
    opset = 22 if precision == "bf16" else 19
    request = ExportRequest("model", precision, opset=opset, calibration=calibration, options=options)
    built = build_onnx(model, request)
    path = folder / f"{precision}.onnx"
    save_onnx(built.proto, describe(model, request, built.details, name="model"), path)
    return path


def expected(model, images):
    with torch.inference_mode():
        return InferenceModel(model).cpu()(torch.from_numpy(images)).numpy()


def interpreted(path, images):
    return Interpreter(TRT, path.read_bytes()).run(images)


def plan_of(path, folder):
    """Figures of the plan for one batch size, at which its bytes are exact."""
    profile, options = BatchProfile(min=8, opt=8, max=8), EngineOptions(compute_capability=("sm89",))
    info = build_engine(path, folder / f"{path.name}.engine", variant="tensorrt-rtx", profile=profile, options=options)
    return engine_metadata(info, "it").plan


@pytest.fixture(scope="module")
def small_file(small_model, pixels, tmp_path_factory):
    """Return a function from a precision to an ONNX file of the small model."""
    folder = tmp_path_factory.mktemp("small")
    plain = {name: {"rounding": "nearest", "cross_layer_equalization": False} for name in ("int8", "fp8")}
    return cache(lambda precision: write_onnx(small_model, precision, folder, pixels, **plain.get(precision, {})))


@pytest.mark.parametrize("precision", list(WORST_COSINE))
def test_the_parsed_network_embeds_as_the_model_does(precision, small_file, small_model, pixels):
    """For one image and for several: what the parser took for constant would show."""
    reference, tolerance = expected(small_model, pixels), 1e-5 if precision == "fp32" else 5e-3
    found = interpreted(small_file(precision), pixels)
    assert (found * reference).sum(axis=1).min() > WORST_COSINE[precision]
    np.testing.assert_allclose(interpreted(small_file(precision), pixels[:1]), found[:1], atol=tolerance)
    if precision == "fp32":
        np.testing.assert_allclose(found, reference, atol=1e-5)


def test_the_edge_model_in_float16_is_understood_and_planned_well(tmp_path):
    """Few kernels, attention in one each, nothing wider than asked: what a GPU's time depends on."""
    torch.manual_seed(0)
    model = calmed(hat.create_model("hat_mobilenet_v2", num_classes=2))
    path, images = write_onnx(model, "fp16", tmp_path, None), noise(model, 2)
    assert (interpreted(path, images) * expected(model, images)).sum(axis=1).min() > WORST_COSINE["fp16"]
    plan = plan_of(path, tmp_path)
    if plan["kernels"] > 128:  # the compiler does not always fuse alike: of the same file it made 138 once, and 117 ten times
        (tmp_path / "again").mkdir()
        plan = plan_of(path, tmp_path / "again")
    assert plan["fused_attentions"] == 4  # one for each transformer block
    assert plan["products_wider_than_asked"] == 0 and plan["batch"] == 8
    assert plan["kernels"] <= 128 and 1 < plan["megabytes_moved"] <= 250


def test_an_interpreted_network_is_what_the_file_says_and_no_other(small_file, pixels, small_model, tmp_path):
    """The comparison can fail: with the last convolution's weights reversed it does."""
    proto = onnx.load(small_file("fp32"))
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    conv = [node for node in proto.graph.node if node.op_type == "Conv"][-1]
    kernel = weights[conv.input[1]]
    kernel.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(onnx.numpy_helper.to_array(kernel)[::-1]), kernel.name))
    onnx.save(proto, tmp_path / "reversed.onnx")
    reference = expected(small_model, pixels)
    assert (interpreted(tmp_path / "reversed.onnx", pixels) * reference).sum(axis=1).min() < WORST_COSINE["fp32"]


def test_float16_computed_literally_stays_finite_and_near(small_file, small_model, pixels):
    """ONNX Runtime widens float16 on a CPU, which hides an overflow; the reference evaluator rounds every result."""
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(str(small_file("fp16"))).run(None, {"images": pixels[:3]})
    assert np.isfinite(found).all()
    assert (found * expected(small_model, pixels[:3])).sum(axis=1).min() > WORST_COSINE["fp16"]


LISTING = """Layers:
Name: a/Conv_myl0_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [-1,8,4,2], Strides: [1], Datatype: Int8, Format: (NHWC) Channel major }], Constants: [ { Name: w, Dimensions: [4,8,1,1], Strides: [1], Datatype: Int8, Format: Linear }], Outputs: [ { Name: y, Dimensions: [-1,4,4,2], Strides: [1], Datatype: Float, Format: Linear }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: a/Conv][ONNX Layer: a/Relu]
Name: __mye7, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1, Metadata:
Name: _gemm_mha_v2_myl0_3, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [-1,32], Strides: [1], Datatype: Half, Format: Linear }], Constants: [], Outputs: [ { Name: z, Dimensions: [-1,32], Strides: [1], Datatype: Half, Format: Linear }], TacticName: , StreamId: 0, Metadata:
Name: n_4, LayerType: cast, Inputs: [], Constants: [], Outputs: [ { Name: n, Dimensions: [1], Strides: [1], Datatype: Int64, Format: Linear }], TacticName: , StreamId: 0, Metadata:

I/O Tensors:
 Name: images
"""  # noqa: E501 - as TensorRT for RTX prints it


def test_read_plan_counts_what_it_lists_and_refuses_what_it_cannot_read():
    layers = read_plan(LISTING)
    assert [layer.kind for layer in layers] == ["correlation", "signal", "kgen", "cast"]
    conv = layers[0]
    assert conv.nodes == ("a/Conv", "a/Relu") and conv.inputs[0].shape == (-1, 8, 4, 2)
    assert (conv.inputs[0].dtype, conv.inputs[0].layout) == ("Int8", "(NHWC) Channel major")
    # The convolution reads 2 x 64 and 32 bytes and writes 2 x 32 x 4; the attention reads and writes 2 x 32 x 2.
    assert moved_bytes([layers[0], layers[2]], 2) == 128 + 32 + 256 + 128 + 128
    figures = {"kernels": 2, "fused_attentions": 1, "products_wider_than_asked": 1, "batch": 2, "megabytes_moved": 0.0}
    assert plan_figures(layers, "HALF", 2) == figures
    assert plan_figures(layers, "FLOAT", 2) == figures | {"products_wider_than_asked": 0}
    for listing in ("", "Layers:\n", "Layers:\nName: a, LayerType: b"):
        with pytest.raises(WorkError, match="plan"):
            read_plan(listing)
    with pytest.raises(WorkError, match="unknown type Int3"):
        moved_bytes(read_plan(LISTING.replace("Float", "Int3")), 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", list_models())
def test_the_parsed_network_and_the_plan_of_every_preset(name, precision, tmp_path):
    torch.manual_seed(0)
    model = calmed(hat.create_model(name, num_classes=2))
    images = noise(model, 2)
    # How weights are rounded changes nothing in the graph, and the better way takes minutes for a large model.
    quick = {"layers": "linear", "rounding": "nearest", "cross_layer_equalization": False}
    path = write_onnx(model, precision, tmp_path, images, **(quick if precision == "int8" else {}))
    assert (interpreted(path, images) * expected(model, images)).sum(axis=1).min() > WORST_COSINE[precision]
    plan = plan_of(path, tmp_path)
    num_stages = sum(depth > 0 for depth in model.config.depths)
    assert precision == "fp32" or plan["fused_attentions"] >= num_stages  # float32 attention has no kernel of its own
    assert plan["products_wider_than_asked"] == 0
