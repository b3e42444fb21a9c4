"""ONNX files give the model's embeddings, and compute in the precision that they are said to."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_hat import calmed

from hat.errors import CheckpointError, UsageError, WorkError
from hat.export.graph.onnx_float16 import half_inference_model
from hat.export.graph.onnx_trace import fold_weights
from hat.export.request import ExportRequest
from hat.export.to_onnx import BuiltGraph, build_onnx, check_built, export_onnx, save_onnx
from hat.io.artifact import METADATA_KEY, info_from_json
from hat.io.onnx_file import compute_types, graph_precision, onnx_opset, read_onnx
from hat.runtime.onnxruntime_runtime import OnnxRuntime

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
def test_types_read_back_are_the_requested_ones(precision, product, onnx_files):
    proto = read_onnx(onnx_files[precision].path)
    types = compute_types(proto)
    assert graph_precision(proto) == precision
    assert set(types["Conv"]) == {product}
    assert product in types["MatMul"]
    assert set(types["LayerNormalization"]) == set(types["Softmax"]) == set(types["ReduceL2"]) == {"float"}
    if precision != "int8":
        assert set(types["MatMul"]) == {product}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_is_clean_tells_what_it_is_and_nothing_of_the_machine(precision, onnx_files):
    path, info = onnx_files[precision].path, onnx_files[precision].info
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [path.name for path in path.parent.iterdir() if path.name.startswith(precision)] == [f"{precision}.onnx"]
    assert {entry.key for entry in proto.metadata_props} == {METADATA_KEY}
    assert info_from_json(proto.metadata_props[0].value, "") == info
    assert info.precision == precision and info.details["opset"] == onnx_opset(proto) == 18
    content = path.read_bytes()
    assert b"site-packages" not in content and b"/export/" not in content and b".py" not in content
    (image,) = proto.graph.input
    assert image.name == "images" and image.type.tensor_type.elem_type == TensorProto.UINT8
    assert image.type.tensor_type.shape.dim[0].dim_param, "the batch is dynamic"
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)


def test_files_of_the_same_weights_share_their_hash_and_differ_in_fingerprint(onnx_files):
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


def test_a_weight_beyond_float16_is_named(small_model):
    weight = small_model.dsa["tfc2"].blocks[0].ffn.up.weight
    original = weight.data.clone()
    try:
        weight.data[0, 0] = 1e5
        small_model.dsa["tfc2"].blocks[0].ffn.down.weight.data[:, 0] *= 1e-6
        with pytest.raises(WorkError, match=r"the weight dsa\.tfc2\.blocks\.0\.ffn\.up\.weight reaches 1e\+05"):
            half_inference_model(small_model, torch.float16)
        half_inference_model(small_model, torch.bfloat16)  # whose range is float32's
    finally:
        weight.data.copy_(original)
        small_model.dsa["tfc2"].blocks[0].ffn.down.weight.data[:, 0] *= 1e6


def test_activations_beyond_float16_are_named(small_model):
    weight = small_model.dsa["tfc3"].blocks[0].ffn.down.weight
    original = weight.data.clone()
    try:
        weight.data.fill_(1e4)  # itself within float16
        with pytest.raises(WorkError, match=r"^dsa\.tfc3\.blocks\.0\.ffn\.down gives values up to .* float16 ends at"):
            half_inference_model(small_model, torch.float16)
    finally:
        weight.data.copy_(original)


@pytest.mark.parametrize(
    ("request_", "error", "sentence"),
    [
        (ExportRequest(name="x", precision="bf16", opset=18), UsageError, "from opset 22 on"),
        (ExportRequest(name="x", precision="int8"), UsageError, "int8 needs calibration images"),
        (ExportRequest(name="x", precision="fp8", opset=19), UsageError, "fp8 needs calibration images"),
        (ExportRequest(name="x", options={"speed": 1}), UsageError, "no option speed"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_a_sentence(request_, error, sentence, small_model, tmp_path):
    with pytest.raises(error, match=sentence):
        export_onnx(small_model, tmp_path / "x.onnx", request_)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scheme": "gpu"}, "scheme"),
        ({"max_drp": 1}, r"max_drp \(did you mean max_drop\?\)"),
        ({"max_drop": 2.0}, "max_drop"),
        ({"percentile": 3}, "percentile"),
    ],
)
def test_wrong_options_of_int8_are_refused_before_any_work(options, sentence, small_model, calibration):
    with pytest.raises(UsageError, match=sentence):
        build_onnx(small_model, ExportRequest(name="x", precision="int8", calibration=calibration, options=options))


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


def test_precision_of_hand_made_graphs():
    def graph(element, *, quantized=False):
        value = helper.make_tensor_value_info
        nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
        if quantized:
            nodes = [
                helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
                helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["b"]),
                *nodes,
            ]
        names = ["x"] if quantized else ["a", "b"]
        made = helper.make_graph(nodes, "g", [value(name, element, [2, 2]) for name in names], [value("y", element, [2, 2])])
        if quantized:
            for array, name in ((np.float32(1), "scale"), (np.int8(0), "zero"), (np.ones((2, 2), np.int8), "w")):
                made.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])

    assert graph_precision(graph(TensorProto.FLOAT)) == "fp32"
    assert graph_precision(graph(TensorProto.FLOAT16)) == "fp16"
    assert graph_precision(graph(TensorProto.FLOAT, quantized=True)) == "int8"
    with pytest.raises(CheckpointError, match="no known precision"):
        graph_precision(graph(TensorProto.DOUBLE))


def test_folding_computes_what_the_nodes_computed():
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Split", ["w", "sizes"], ["first", "second"], axis=0),
        helper.make_node("Transpose", ["second"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [3, 4])],
        [value("y", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([2, 4]), "sizes")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    fold_weights(proto)
    assert [node.op_type for node in proto.graph.node] == ["MatMul"]
    (kept,) = proto.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(kept), weight[2:].T)


def test_weights_above_the_limit_of_protobuf_lie_beside_and_are_found(onnx_files, pixels, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 1_000_000)
    proto = onnx.load(onnx_files["fp32"].path)
    path = tmp_path / "large.onnx"
    save_onnx(BuiltGraph(proto).proto, onnx_files["fp32"].info, path)
    assert path.stat().st_size < 1_000_000 < (tmp_path / "large.onnx.data").stat().st_size
    np.testing.assert_allclose(OnnxRuntime(path, "cpu").run(pixels[:2]), reference[:2], atol=1e-5)
    assert graph_precision(read_onnx(path)) == "fp32"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", __import__("hat").list_models())
def test_every_preset_in_every_precision(name, precision, tmp_path):
    import hat
    from hat.export.request import Calibration

    torch.manual_seed(1)
    model = calmed(hat.create_model(name, num_classes=2))
    height, width = model.config.image_size
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, height, width), dtype=np.uint8)
    calibration = Calibration(images=noise, paths=("a", "b", "c", "d"), dataset="noise", seed=0)
    path = tmp_path / "model.onnx"
    request = ExportRequest(name=name, precision=precision, calibration=calibration if precision == "int8" else None)
    export_onnx(model, path, request)
    with torch.inference_mode():
        expected = model(torch.from_numpy(noise)).numpy()
    rows = OnnxRuntime(path, "cpu").run(noise)
    assert (rows * expected).sum(axis=1).min() > {"fp32": 0.99999, "fp16": 0.999, "int8": 0.9}[precision]
