"""ONNX files give the model's embeddings, and compute in the precision that they are said to."""

import copy
import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_hat import calmed

import hat
from hat.commands.info import artifact_result
from hat.errors import CheckpointError, UsageError, WorkError
from hat.export.graph.onnx_float16 import half_inference_model
from hat.export.graph.onnx_trace import fold_weights
from hat.export.request import Calibration, ExportRequest
from hat.export.to_onnx import build_onnx, check_built, export_onnx, save_onnx
from hat.io.artifact import METADATA_KEY, info_from_json
from hat.io.onnx_file import compute_types, graph_precision, onnx_opset, read_onnx
from hat.runtime.onnxruntime_runtime import OnnxRuntime

slow = pytest.mark.slow
WORST_COSINE = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.99}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_embeddings_are_the_models_for_every_batch_size(precision, onnx_files, pixels, reference):
    runtime = OnnxRuntime(onnx_files[precision].path, "cpu", num_threads=1)
    for size in (1, 5, 12):
        rows = runtime.run(pixels[:size])
        assert rows.shape == (size, runtime.embed_dim) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert (rows * reference[:size]).sum(axis=1).min() > WORST_COSINE[precision]
    if precision == "fp32":
        np.testing.assert_allclose(rows, reference, atol=1e-5)
    else:
        assert np.abs(rows - reference).max() > 1e-6, "a lower precision must differ, or it is none"


@pytest.mark.parametrize(("precision", "product"), [("fp32", "float"), ("fp16", "float16"), ("int8", "int8")])
def test_a_file_is_what_was_asked_for_and_tells_nothing_of_the_machine(precision, product, onnx_files):
    path, info = onnx_files[precision].path, onnx_files[precision].info
    proto, result = read_onnx(path), artifact_result(path)
    types = compute_types(proto)
    assert graph_precision(proto) == result["built_precision"] == info.precision == precision
    assert set(types["Conv"]) == {product} and product in types["MatMul"]
    assert set(types["LayerNormalization"]) == set(types["Softmax"]) == set(types["ReduceL2"]) == {"float"}
    if precision != "int8":
        assert set(types["MatMul"]) == {product}

    onnx.checker.check_model(proto, full_check=True)
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(precision)] == [f"{precision}.onnx"]
    assert {entry.key for entry in proto.metadata_props} == {METADATA_KEY}
    assert info_from_json(proto.metadata_props[0].value, "") == info
    assert info.details["opset"] == onnx_opset(proto) == 18
    content = path.read_bytes()
    assert b"site-packages" not in content and b"/export/" not in content and b".py" not in content
    (image,) = proto.graph.input
    assert image.name == "images" and image.type.tensor_type.elem_type == TensorProto.UINT8
    assert image.type.tensor_type.shape.dim[0].dim_param, "the batch is dynamic"
    assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)

    infos = [onnx_files[precision].info for precision in ("fp32", "fp16", "int8")]
    assert len({info.source_sha256 for info in infos}) == 1 and len({info.fingerprint for info in infos}) == 3


def test_float_pixels_and_another_opset(small_model, pixels, reference, tmp_path):
    path = tmp_path / "float.onnx"
    info = export_onnx(small_model, path, ExportRequest(name="x", input_type="float32", opset=20))
    runtime = OnnxRuntime(path, "cpu")
    np.testing.assert_allclose(runtime.run(pixels), reference, atol=1e-5)
    assert (info.input_type, onnx_opset(read_onnx(path))) == ("float32", 20)


def test_bfloat16_keeps_its_norms_in_float32(small_model, pixels, reference):
    proto = build_onnx(small_model, ExportRequest(name="x", precision="bf16", opset=22)).proto
    types = compute_types(proto)
    assert graph_precision(proto) == "bf16" and set(types["Conv"]) == set(types["MatMul"]) == {"bfloat16"}
    assert set(types["LayerNormalization"]) == set(types["Softmax"]) == {"float"}
    with torch.inference_mode():
        rows = half_inference_model(small_model, torch.bfloat16)(torch.from_numpy(pixels)).numpy()
    assert (rows * reference).sum(axis=1).min() > 0.999


def test_the_half_model_leaves_the_trained_one_alone(small_model):
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    half = half_inference_model(small_model, torch.float16)
    assert all(torch.equal(value, before[name]) for name, value in small_model.state_dict().items())
    kept = {name for name, value in half.state_dict().items() if value.dtype == torch.float32}
    assert all("norm" in name or name.startswith(("pixel_", "embedding_")) for name in kept)
    assert any("norm1" in name for name in kept)


def test_what_goes_beyond_float16_is_named(small_model):
    model = copy.deepcopy(small_model)
    model.dsa["tfc3"].blocks[0].ffn.down.weight.data.fill_(1e4)  # itself within float16
    with pytest.raises(WorkError, match=r"^dsa\.tfc3\.blocks\.0\.ffn\.down gives values up to .* float16 ends at"):
        half_inference_model(model, torch.float16)
    model.dsa["tfc2"].blocks[0].ffn.up.weight.data[0, 0] = 1e5
    with pytest.raises(WorkError, match=r"the weight dsa\.tfc2\.blocks\.0\.ffn\.up\.weight reaches 1e\+05"):
        half_inference_model(model, torch.float16)
    half_inference_model(model, torch.bfloat16)  # whose range is float32's


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"precision": "bf16", "opset": 18}, {}, "from opset 22 on"),
        ({"precision": "int8", "calibration": None}, {}, "int8 needs calibration images"),
        ({"precision": "fp8", "calibration": None}, {}, "fp8 needs calibration images"),
        ({"precision": "fp8", "opset": 18}, {}, "ONNX has float8 from opset 19 on, got 18"),
        ({"precision": "fp8"}, {"scheme": "cpu"}, "no CPU computes in it"),
        ({"precision": "fp32"}, {"speed": 1}, "no option speed"),
        ({}, {"scheme": "gpu"}, "scheme"),
        ({}, {"max_drp": 1}, r"max_drp \(did you mean max_drop\?\)"),
        ({}, {"max_drop": 2.0}, "max_drop"),
        ({}, {"percentile": 3}, "percentile"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_work(changes, options, sentence, small_model, calibration, tmp_path):
    request = ExportRequest(name="x", precision="int8", calibration=calibration, options=options)
    with pytest.raises(UsageError, match=sentence):
        export_onnx(small_model, tmp_path / "x.onnx", dataclasses.replace(request, **changes))
    assert list(tmp_path.iterdir()) == []


def test_another_opset_or_precision_than_asked_for_is_an_error(onnx_files):
    proto = onnx.load(onnx_files["fp32"].path)
    asked = ExportRequest(name="x", opset=18)
    check_built(proto, asked)
    with pytest.raises(WorkError, match="opset 17 was asked for and the exporter made 18"):
        check_built(proto, dataclasses.replace(asked, opset=17))
    with pytest.raises(WorkError, match="fp16 was asked for and the graph computes in fp32"):
        check_built(proto, dataclasses.replace(asked, precision="fp16"))
    proto.graph.node[-1].input[0] = "nowhere"
    with pytest.raises(WorkError, match="does not pass ONNX's checker"):
        check_built(proto, asked)


def test_graph_precision_of_hand_made_graphs():
    def made(element, quantized=False):
        value = helper.make_tensor_value_info
        nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
        inputs, weights = [value(name, element, [2, 2]) for name in ("a", "b")], {}
        if quantized:
            pairs = [("QuantizeLinear", "x", "q"), ("DequantizeLinear", "q", "a"), ("DequantizeLinear", "w", "b")]
            nodes = [helper.make_node(kind, [source, "scale", "zero"], [target]) for kind, source, target in pairs] + nodes
            inputs = [value("x", element, [2, 2])]
            weights = {"scale": np.float32(1), "zero": np.int8(0), "w": np.ones((2, 2), np.int8)}
        constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
        graph = helper.make_graph(nodes, "g", inputs, [value("y", element, [2, 2])], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])

    assert graph_precision(made(TensorProto.FLOAT)) == "fp32"
    assert graph_precision(made(TensorProto.FLOAT16)) == "fp16"
    assert graph_precision(made(TensorProto.FLOAT, quantized=True)) == "int8"
    with pytest.raises(CheckpointError, match="no known precision"):
        graph_precision(made(TensorProto.DOUBLE))


def test_fold_weights_computes_what_the_nodes_computed():
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Split", ["w", "sizes"], ["first", "second"], axis=0),
        helper.make_node("Transpose", ["second"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in "xy")
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([2, 4]), "sizes")]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    fold_weights(proto)
    assert [node.op_type for node in proto.graph.node] == ["MatMul"]
    (kept,) = proto.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(kept), weight[2:].T)


def test_weights_above_the_limit_of_protobuf_lie_beside_and_are_found(onnx_files, pixels, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 1_000_000)
    proto = onnx.load(onnx_files["fp32"].path)
    path = tmp_path / "large.onnx"
    save_onnx(proto, onnx_files["fp32"].info, path)
    assert path.stat().st_size < 1_000_000 < (tmp_path / "large.onnx.data").stat().st_size
    np.testing.assert_allclose(OnnxRuntime(path, "cpu").run(pixels[:2]), reference[:2], atol=1e-5)
    assert graph_precision(read_onnx(path)) == "fp32"


def worst_cosine(model, precision, images, folder):
    """Between the model's embeddings and those of its file, which is calibrated on the very images."""
    calibration = Calibration(images, tuple(map(str, range(len(images)))), "drawn", 0) if precision == "int8" else None
    export_onnx(model, folder / "model.onnx", ExportRequest(name="model", precision=precision, calibration=calibration))
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    rows = OnnxRuntime(folder / "model.onnx", "cpu").run(images)
    assert np.isfinite(rows).all()
    return (rows * expected).sum(axis=1).min()


@slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", hat.list_models())
def test_every_preset_in_every_precision(name, precision, tmp_path):
    torch.manual_seed(1)
    model = calmed(hat.create_model(name, num_classes=2))
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, *model.config.image_size), dtype=np.uint8)
    assert worst_cosine(model, precision, noise, tmp_path) > {"fp32": 0.99999, "fp16": 0.999, "int8": 0.9}[precision]


@pytest.mark.parametrize(
    ("precision", "least"),
    [("fp16", 0.9999), pytest.param("fp32", 0.999999, marks=slow), pytest.param("int8", 0.98, marks=slow)],
)
def test_a_generalized_mean_keeps_its_embeddings(precision, least, pixels, tmp_path):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        model = hat.create_model("hat_resnet18", num_classes=3, image_size=(64, 32), pooling="gem", depths=(0, 0, 0, 0))
        model.train()(torch.randn(8, 3, 64, 32))  # running statistics of something
        model.pooling.p.fill_(3.5)
    assert worst_cosine(model.eval(), precision, pixels, tmp_path) > least
