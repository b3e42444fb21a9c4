"""What TensorRT understood of our graphs, computed; and what it makes of them for a GPU that is not there.

The network that the parser of TensorRT for RTX made of an ONNX file is computed by `network_interpreter` and compared with the
model; float16 is computed literally by ONNX's reference evaluator; the fused plan in the build log is held to limits.
"""

import numpy as np
import pytest
import torch
from convolution_graphs import convolution, graph, pictures, run
from network_interpreter import Interpreter, parsed_network
from onnx import TensorProto
from tiny_hat import calmed

import hat
from hat.errors import MissingExtraError, WorkError
from hat.export.graph.onnx_activations import tensor_ranges
from hat.export.int8.qdq_insertion import find_layers, insert_qdq
from hat.export.request import Calibration, ExportRequest
from hat.export.tensorrt.builder import build_engine
from hat.export.tensorrt.options import EngineOptions
from hat.export.tensorrt.plan import read_plan
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

SLOW_LIMIT = pytest.mark.timeout(3600)
WORST_COSINE = {"fp32": 0.999999, "fp16": 0.9995, "bf16": 0.998, "int8": 0.97, "fp8": 0.95}
OPSETS = {"fp32": 19, "fp16": 19, "bf16": 22, "int8": 19, "fp8": 19}


def noise(model, count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *model.config.image_size), dtype=np.uint8)


def write_onnx(model, precision, folder, pixels, **options):
    quantizes = precision in ("int8", "fp8")
    calibration = Calibration(pixels, tuple(map(str, range(len(pixels)))), "noise", 0) if quantizes else None
    request = ExportRequest("model", precision, opset=OPSETS[precision], calibration=calibration, options=options)
    built = build_onnx(model, request)
    path = folder / f"{precision}.onnx"
    save_onnx(built.proto, describe(model, request, name="model", details=built.details), path)
    return path


def expected(model, images):
    with torch.inference_mode():
        return InferenceModel(model).cpu()(torch.from_numpy(images)).numpy()


def interpreted(path, images):
    network, _alive = parsed_network(TRT, path.read_bytes())
    return Interpreter(TRT.library, network).run(images)


def plan_of(path, folder, *, batch=8, capability="sm89"):
    """Figures of the plan for one batch size, at which its bytes are exact."""
    profile = BatchProfile(min=batch, opt=batch, max=batch)
    options = EngineOptions(compute_capability=(capability,))
    info = build_engine(path, folder / f"{path.name}.engine", variant="tensorrt-rtx", profile=profile, options=options)
    return engine_metadata(info, "it").plan


@pytest.fixture(scope="module")
def small_files(small_model, pixels, tmp_path_factory):
    """ONNX files of the small model by precision, each made when it is first asked for."""
    folder = tmp_path_factory.mktemp("small")

    class Files(dict):
        def __missing__(self, precision):
            plain = {"rounding": "nearest", "cross_layer_equalization": False} if precision in ("int8", "fp8") else {}
            self[precision] = write_onnx(small_model, precision, folder, pixels, **plain)
            return self[precision]

    return Files()


@pytest.fixture(scope="module")
def edge_model():
    torch.manual_seed(0)
    return calmed(hat.create_model("hat_mobilenet_v2", num_classes=2))


@pytest.fixture(scope="module")
def edge_file(edge_model, tmp_path_factory):
    return write_onnx(edge_model, "fp16", tmp_path_factory.mktemp("edge"), None)


@pytest.mark.parametrize("precision", list(WORST_COSINE))
def test_the_parsed_network_embeds_as_the_model_does(precision, small_files, small_model, pixels):
    """For one image and for several: what the parser took for constant would show."""
    reference = expected(small_model, pixels)
    found = interpreted(small_files[precision], pixels)
    assert (found * reference).sum(axis=1).min() > WORST_COSINE[precision]
    np.testing.assert_allclose(
        interpreted(small_files[precision], pixels[:1]), found[:1], atol=1e-5 if precision == "fp32" else 5e-3
    )
    if precision == "fp32":
        np.testing.assert_allclose(found, reference, atol=1e-5)


def test_the_parsed_network_of_the_edge_model_embeds_as_the_model_does(edge_file, edge_model):
    images = noise(edge_model, 2)
    assert (interpreted(edge_file, images) * expected(edge_model, images)).sum(axis=1).min() > WORST_COSINE["fp16"]


@pytest.mark.parametrize("kind", ["bf16", "fp8"])
def test_weights_that_numpy_has_no_type_for_are_computed_with(kind):
    """The bindings give bfloat16 and float8 weights as objects without values."""
    generator = np.random.default_rng(0)
    constants = {"a.weight": generator.normal(size=(8, 3, 3, 3)) / 4, "b.weight": generator.normal(size=(4, 8, 1, 1)) / 2}
    constants |= {"a.bias": generator.normal(size=8), "b.bias": generator.normal(size=4)}
    nodes = [convolution("a", "x", "m", strides=[2, 1], pads=[0, 2, 1, 0]), convolution("b", "m", "y")]
    proto, images = graph(nodes, constants), pictures(4)
    reference = run(proto, images)
    if kind == "bf16":
        lower = graph(nodes, constants, element=TensorProto.BFLOAT16)
    else:
        proto.opset_import[0].version = 19
        layers, ranges = find_layers(proto, attention=False), tensor_ranges(proto, ["Conv"], images)
        lower = insert_qdq(proto, layers, ranges, kind="fp8")
    network, _alive = parsed_network(TRT, lower.SerializeToString())
    found = Interpreter(TRT.library, network).run(images)
    error = np.abs(found - reference).max() / np.abs(reference).max()
    assert 1e-4 < error < 0.06, "near the float32 graph, and not it"


def test_an_interpreted_network_is_what_the_file_says_and_no_other(small_files, pixels, small_model, tmp_path):
    """The comparison can fail: with the last convolution's weights reversed it does."""
    import onnx

    proto = onnx.load(small_files["fp32"])
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    conv = [node for node in proto.graph.node if node.op_type == "Conv"][-1]
    kernel = weights[conv.input[1]]
    kernel.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(onnx.numpy_helper.to_array(kernel)[::-1]), kernel.name))
    onnx.save(proto, tmp_path / "reversed.onnx")
    reference = expected(small_model, pixels)
    assert (interpreted(tmp_path / "reversed.onnx", pixels) * reference).sum(axis=1).min() < WORST_COSINE["fp32"]


def test_float16_computed_literally_stays_finite_and_near(small_files, small_model, pixels):
    """ONNX Runtime widens float16 on a CPU, which hides an overflow; the reference evaluator rounds every result."""
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(str(small_files["fp16"])).run(None, {"images": pixels[:3]})
    assert np.isfinite(found).all()
    assert (found * expected(small_model, pixels[:3])).sum(axis=1).min() > WORST_COSINE["fp16"]


def test_the_input_feeds_a_cast_alone(small_files):
    """No other layer of TensorRT takes uint8."""
    for path in map(small_files.__getitem__, ("fp32", "fp16")):
        network, _alive = parsed_network(TRT, path.read_bytes())
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        readers = {
            TRT.library.ILayer.type.fget(layer).name
            for layer in layers
            for place in range(layer.num_inputs)
            if layer.get_input(place) is not None and layer.get_input(place).name == "images"
        }
        assert readers == {"CAST"}


def test_the_plan_of_the_edge_model_in_float16(edge_file, tmp_path):
    """Few kernels, attention in one each, nothing wider than asked: what a GPU's time depends on."""
    plan = plan_of(edge_file, tmp_path)
    assert plan["fused_attentions"] == 4  # one for each transformer block
    assert plan["products_wider_than_asked"] == 0
    assert plan["kernels"] <= 128 and plan["megabytes_moved"] <= 250


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 95), ("fp16", 88), ("int8", 140)])
def test_the_plan_of_a_small_model(precision, limit, small_files, tmp_path):
    plan = plan_of(small_files[precision], tmp_path)
    assert 10 < plan["kernels"] <= limit
    assert plan["batch"] == 8 and plan["megabytes_moved"] > 1


def listed(name, kind, inputs=(), constants=(), outputs=(), nodes=(), event=""):
    def tensors(found):
        each = (
            f"{{ Name: {n}, Dimensions: [{d}], Strides: [1], Datatype: {t}, Format: (NHWC) Channel major }}"
            for n, d, t in found
        )
        return f"[ {', '.join(each)}]" if found else "[]"

    read = f"Inputs: {tensors(inputs)}, Constants: {tensors(constants)}, Outputs: {tensors(outputs)}"
    origin = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return f"Name: {name}, LayerType: {kind}, {read}, TacticName: , StreamId: 0, {event}Metadata: {origin}\n"


CONV = [("x", "-1,8,4,2", "Int8")], [("w", "4,8,1,1", "Int8")], [("y", "-1,4,4,2", "Float")], ["a/Conv", "a/Relu"]
LISTING = (
    "Layers:\n"
    + listed("a/Conv_myl0_1", "correlation", *CONV)
    + listed("__mye7", "signal", event="EventId: 1, ")
    + listed("_gemm_mha_v2_myl0_3", "kgen", [("y", "-1,32", "Half")], (), [("z", "-1,32", "Half")])
    + listed("n_4", "cast", (), (), [("n", "1", "Int64")])
    + "\nI/O Tensors:\n Name: images\n"
)


def test_read_plan_counts_what_it_lists():
    plan = read_plan(LISTING)
    assert [layer.kind for layer in plan.layers] == ["correlation", "signal", "kgen", "cast"]
    conv = plan.layers[0]
    assert conv.nodes == ("a/Conv", "a/Relu") and conv.inputs[0].shape == (-1, 8, 4, 2)
    assert (conv.inputs[0].dtype, conv.inputs[0].layout) == ("Int8", "(NHWC) Channel major")
    assert plan.summary(batch=2, dtype="Half") == {
        "kernels": 2,
        "fused_attentions": 1,
        "products_wider_than_asked": 1,
        "batch": 2,
        # The convolution reads 2 x 64 and 32 bytes and writes 2 x 32 x 4; the attention reads and writes 2 x 32 x 2.
        "megabytes_moved": round((128 + 32 + 256 + 128 + 128) / 1e6, 1),
    }
    assert plan.moved_bytes(2) == 672
    assert plan.wider_than("Float") == []


@pytest.mark.parametrize("listing", ["", "Layers:\n", "Layers:\nName: a, LayerType: b"])
def test_read_plan_refuses_what_it_cannot_read(listing):
    with pytest.raises(WorkError, match="plan"):
        read_plan(listing)


def test_a_plan_with_a_type_that_is_unknown_is_refused():
    plan = read_plan(LISTING.replace("Float", "Int3"))
    with pytest.raises(WorkError, match="unknown type Int3"):
        plan.moved_bytes(1)


@pytest.mark.slow
@SLOW_LIMIT
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", list_models())
def test_the_parsed_network_and_the_plan_of_every_preset(name, precision, tmp_path):
    torch.manual_seed(0)
    model = calmed(hat.create_model(name, num_classes=2))
    images = noise(model, 2)
    path = write_onnx(model, precision, tmp_path, images, **({"layers": "linear"} if precision == "int8" else {}))
    assert (interpreted(path, images) * expected(model, images)).sum(axis=1).min() > WORST_COSINE[precision]
    plan = plan_of(path, tmp_path)
    num_stages = sum(depth > 0 for depth in model.config.depths)
    assert precision == "fp32" or plan["fused_attentions"] >= num_stages  # float32 attention has no kernel of its own
    assert plan["products_wider_than_asked"] == 0
