"""Which layers are quantized, what each costs, and that the costly ones are left out."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from convolution_graphs import convolution, graph, pictures
from onnx import TensorProto, helper, numpy_helper

from hat.data import ReIDDataset, Sample, Split
from hat.errors import DataError, ImageError, UsageError, WorkError
from hat.export.graph.onnx_trace import fold_foreign_graph
from hat.export.int8 import onnx_int8
from hat.export.int8.calibration import calibration_details, calibration_from, tensor_ranges
from hat.export.int8.qdq_insertion import find_layers, insert_qdq
from hat.export.int8.sensitivity import measure_sensitivity
from hat.export.onnx_source import OnnxSource
from hat.export.request import Calibration, ExportRequest
from hat.export.to_onnx import build_onnx
from hat.io.onnx_file import compute_types
from hat.preprocessing import Preprocessing

ort = pytest.importorskip("onnxruntime", reason="the extra export is not installed")

SIZE = 3 * 8 * 8


def three_layers(outlier):
    """images -> three linear layers with ReLU -> unit rows; one channel of the second's input is huge and hardly counts."""
    generator = np.random.default_rng(2)
    weights = [generator.normal(size=shape).astype(np.float32) / 8 for shape in ((SIZE, 16), (16, 16), (16, 12))]
    weights[0][:, 0] = np.abs(weights[0][:, 0]) * outlier
    weights[1][0] /= outlier
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"], name="scale"),
        helper.make_node("Reshape", ["scaled", "shape"], ["x0"], name="flatten"),
    ]
    constants = {"scale": np.float32(1 / 255), "shape": np.array([0, SIZE])}
    for index, weight in enumerate(weights):
        constants[f"layer{index}.weight"] = weight
        last = index == len(weights) - 1
        nodes.append(
            helper.make_node("MatMul", [f"x{index}", f"layer{index}.weight"], [f"y{index}"], name=f"layer{index}/MatMul")
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"y{index}"], [f"x{index + 1}"], name=f"layer{index}/Relu"))
    nodes += [
        helper.make_node("ReduceL2", ["y2", "axes"], ["length"], keepdims=1, name="length"),
        helper.make_node("Div", ["y2", "length"], ["embeddings"], name="unit"),
    ]
    constants["axes"] = np.array([1])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.UINT8, ["batch", 3, 8, 8])],
        [value("embeddings", TensorProto.FLOAT, ["batch", 12])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto)


def noise(count=12):
    return np.random.default_rng(4).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def ranges_of(proto, images=None, **options):
    return tensor_ranges(proto, ["MatMul"], noise() if images is None else images, **options)


def run(proto, images, **inputs):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images, **inputs})[0]


def worst_loss(first, second):
    return float((1 - (first * second).sum(axis=1)).max())


def test_ranges_are_those_of_the_tensors():
    proto, images = three_layers(1), noise()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    x1 = np.maximum(images.reshape(len(images), -1) / 255 @ weights["layer0.weight"], 0)
    found = ranges_of(proto)
    np.testing.assert_allclose(found["x1"], (x1.min(), x1.max()), rtol=1e-5)
    y0 = images.reshape(len(images), -1) / 255 @ weights["layer0.weight"]
    cut = ranges_of(proto, method="percentile", percentile=90.0)
    np.testing.assert_allclose(cut["y0"], np.percentile(y0, (5, 95)), atol=0.01 * np.ptp(y0))
    assert cut["x1"][0] == 0 and cut["x1"][1] == pytest.approx(np.percentile(x1, 95), rel=0.02)
    whole = ranges_of(proto, method="percentile", percentile=100.0)
    np.testing.assert_allclose(whole["y0"], found["y0"], rtol=1e-6)
    assert "images" not in found


@pytest.mark.parametrize(("kind", "per_tensor"), [("int8", False), ("int8", True), ("fp8", True)])
def test_inserted_pairs_compute_what_rounding_by_hand_gives(kind, per_tensor):
    proto, images = three_layers(1), noise(3)
    layers = find_layers(proto, attention=False)
    assert [layer.name for layer in layers] == ["layer0", "layer1", "layer2"]
    ranges = ranges_of(proto)
    if kind == "fp8":
        proto.opset_import[0].version = 19
    quantized = insert_qdq(proto, layers[1:2], ranges, kind=kind, per_tensor=per_tensor)
    onnx.checker.check_model(quantized, full_check=True)
    assert compute_types(quantized)["MatMul"] == {"float": 2, {"int8": "int8", "fp8": "float8e4m3fn"}[kind]: 1}

    largest = {"int8": 127, "fp8": 448}[kind]
    stored = {"int8": np.int8, "fp8": onnx.helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)}[kind]

    def rounded(value, scale):
        levels = np.clip(value / scale, -largest, largest)
        return (np.rint(levels) if kind == "int8" else levels).astype(stored).astype(np.float32) * scale

    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    x1 = np.maximum(images.reshape(3, -1).astype(np.float32) / np.float32(255) @ weights["layer0.weight"], 0)
    w1 = weights["layer1.weight"]
    weight_scale = np.abs(w1).max(None if per_tensor else 0) / largest
    x2 = np.maximum(rounded(x1, np.float32(max(map(abs, ranges["x1"])) / largest)) @ rounded(w1, weight_scale), 0)
    y = x2 @ weights["layer2.weight"]
    np.testing.assert_allclose(run(quantized, images), y / np.linalg.norm(y, axis=1, keepdims=True), atol=2e-3)


def test_insert_qdq_residual_sums():
    """A convolution's output enters a sum as it is, and what is added to it has a pair, shared with its other readers."""
    generator = np.random.default_rng(6)
    shapes = {"stem": (8, 3, 3, 3), "left": (8, 8, 3, 3), "right": (8, 8, 1, 1), "top": (4, 8, 1, 1)}
    constants = {f"{name}.weight": generator.normal(size=shape) / 8 for name, shape in shapes.items()}
    constants |= {f"{name}.bias": generator.normal(size=shape[0]) for name, shape in shapes.items()}
    nodes = [
        convolution("stem", "x", "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        convolution("left", "b", "c", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "b"], ["d"], name="sum"),
        convolution("right", "d", "e"),
        convolution("top", "d", "f"),
        helper.make_node("Concat", ["e", "f"], ["y"], name="concat", axis=1),
    ]
    proto, images = graph(nodes, constants), pictures()
    layers, ranges = find_layers(proto, attention=False), tensor_ranges(proto, ["Conv", "Add"], pictures())
    expected = run(proto, images)
    for sums in (False, True):
        quantized = insert_qdq(proto, layers, ranges, residual_sums=sums)
        (added,) = [node for node in quantized.graph.node if node.op_type == "Add"]
        assert list(added.input) == ["c", "b/dequantized" if sums else "b"]
        assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) == 3  # x, b, d: shared by their readers
        np.testing.assert_allclose(run(quantized, images), expected, atol=0.02 * np.abs(expected).max())


def test_measure_sensitivity_finds_the_layer_with_an_outlier():
    images = noise()
    calm = measure_sensitivity(
        three_layers(1), find_layers(three_layers(1), attention=False), ranges_of(three_layers(1)), images
    )
    assert max(loss.worst for loss in calm) < 1e-3

    proto = three_layers(50)
    layers, ranges = find_layers(proto, attention=False), ranges_of(proto)
    losses = measure_sensitivity(proto, layers, ranges, images)
    assert max(losses, key=lambda loss: loss.mean).layer == "layer1" and losses[1].worst > 0.01
    expected = worst_loss(run(proto, images), run(insert_qdq(proto, [layers[1]], ranges), images))
    assert losses[1].worst == pytest.approx(expected, rel=1e-3)


def test_an_export_leaves_out_what_costs_too_much_and_records_it(small_model, calibration, pixels, reference):
    up, down = small_model.dsa["tfc3"].blocks[0].ffn.up, small_model.dsa["tfc3"].blocks[0].ffn.down
    saved = [up.weight.data.clone(), up.bias.data.clone()]
    try:
        up.weight.data[0], up.bias.data[0] = 0.0, 2000.0  # a channel that is huge and always the same
        down.bias.data -= 2000.0 * down.weight.data[:, 0]  # and is taken away again
        request = ExportRequest(
            name="x",
            precision="int8",
            calibration=calibration,
            options={"num_sensitivity": 6, "scheme": "cpu"},
        )
        built = build_onnx(small_model, request)
    finally:
        down.bias.data += 2000.0 * down.weight.data[:, 0]
        up.weight.data, up.bias.data = saved
    left_out = built.details["layers_left_out"]
    assert "dsa.tfc3.blocks.0.ffn.down" in left_out and len(left_out) < 9
    losses = {loss["layer"]: loss for loss in built.details["sensitivity"]["layers"]}
    assert losses["dsa.tfc3.blocks.0.ffn.down"]["excluded"]
    assert losses["dsa.tfc3.blocks.0.ffn.down"]["mean"] == max(loss["mean"] for loss in losses.values())
    assert built.details["cosine_drop"] <= 0.001
    (node,) = [node for node in built.proto.graph.node if node.name == "dsa.tfc3.blocks.0.ffn.down/MatMul"]
    producers = {output: producer.op_type for producer in built.proto.graph.node for output in producer.output}
    assert producers.get(node.input[1]) is None, "its weight is a float constant"
    assert built.details["num_quantized_layers"] == len(losses) - len(left_out)
    assert built.details["calibration"]["images"] == list(calibration.paths)


def test_what_feeds_a_layer_that_is_left_out_is_left_out_with_it():
    """stem -> ReLU -> (left, right) -> sum -> ReLU -> top"""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="stem"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="left"),
        helper.make_node("Conv", ["b", "w"], ["d"], name="right"),
        helper.make_node("Add", ["c", "d"], ["e"], name="sum"),
        helper.make_node("Relu", ["e"], ["f"], name="relu2"),
        helper.make_node("Conv", ["f", "w"], ["y"], name="top"),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert onnx_int8._feeding(proto, {"top": "t"}) == {"left": "t", "right": "t"}
    assert onnx_int8._feeding(proto, {"left": "l"}) == {"stem": "l"}
    assert onnx_int8._feeding(proto, {"stem": "s"}) == {}
    assert onnx_int8._between(proto, {"stem", "left", "right"}) == ["relu", "sum", "relu2"]
    assert onnx_int8._between(proto, {"stem", "right"}) == ["relu"], "a sum with a float operand stays float"


def test_named_layers_are_left_out(small_model, calibration):
    request = ExportRequest(name="x", precision="int8", opset=20, calibration=calibration, options={"exclude": ["dsa"]})
    built = build_onnx(small_model, request)
    assert set(compute_types(built.proto)["MatMul"]) == {"float16"}  # the rest of the scheme for TensorRT
    assert "int8" in compute_types(built.proto)["Conv"]


def test_leaving_out_every_layer_is_an_error(small_model, calibration, onnx_files, monkeypatch):
    proto = onnx.load(onnx_files["fp32"].path)
    monkeypatch.setattr(onnx_int8, "float_graph", lambda *arguments: proto)
    request = ExportRequest(name="x", precision="int8", calibration=calibration, options={"exclude": ["m", "b", "d"]})
    with pytest.raises(WorkError, match="no layer is left to compute in int8"):
        build_onnx(small_model, request)


def drawn_dataset(folder, num_train=9):
    from PIL import Image

    def split(name, count):
        (folder / name).mkdir(parents=True, exist_ok=True)
        samples = []
        for index in range(count):
            path = folder / name / f"{index:02d}.png"
            Image.new("RGB", (8, 16), (index * 20, 0, 255 if name == "query" else 0)).save(path)
            samples.append(Sample(str(path), index, 0))
        return Split(name, samples)

    return ReIDDataset("drawn", split("train", num_train), split("query", 2), split("gallery", 2))


def test_calibration_images_are_training_images_chosen_by_the_seed_alone(tmp_path):
    dataset, preprocessing = drawn_dataset(tmp_path), Preprocessing(height=32, width=16)
    first = calibration_from(dataset, preprocessing, 4, seed=1)
    assert first.images.shape == (4, 3, 32, 16) and first.images.dtype == np.uint8
    assert first.images[:, 2].max() == 0, "no query image among them"
    assert all(path.startswith("train/") for path in first.paths) and str(tmp_path) not in "".join(first.paths)
    for path, image in zip(first.paths, first.images, strict=True):
        assert image[0].max() == int(path[6:8]) * 20
    shuffled = ReIDDataset("drawn", Split("train", dataset.train.samples[::-1]), dataset.query, dataset.gallery)
    assert calibration_from(shuffled, preprocessing, 4, seed=1).paths == first.paths
    assert calibration_from(dataset, preprocessing, 4, seed=2).paths != first.paths
    assert len(calibration_from(dataset, preprocessing, 100).images) == 9
    details = calibration_details(first)
    assert details["num_images"] == 4 and details["images"] == list(first.paths) and len(details["pixels_sha256"]) == 64


def test_what_cannot_calibrate_is_refused(tmp_path):
    dataset, preprocessing = drawn_dataset(tmp_path), Preprocessing(height=32, width=16)
    with pytest.raises(UsageError, match="at least 1 image, got 0"):
        calibration_from(dataset, preprocessing, 0)
    empty = ReIDDataset("drawn", Split("train", []), dataset.query, dataset.gallery)
    with pytest.raises(DataError, match="no training images to calibrate on"):
        calibration_from(empty, preprocessing)
    (tmp_path / "train" / "03.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"03\.png"):
        calibration_from(dataset, preprocessing)


def test_values_that_are_not_finite_stop_the_calibration():
    proto = three_layers(1)
    (weight,) = [tensor for tensor in proto.graph.initializer if tensor.name == "layer0.weight"]
    weight.CopyFrom(numpy_helper.from_array(np.full((SIZE, 16), np.inf, dtype=np.float32), weight.name))
    with pytest.raises(WorkError, match="calibration failed"):
        tensor_ranges(proto, ["MatMul"], noise())


def foreign_graph():
    """uint8 -> conv, batch norm, ReLU, conv, mean -> unit rows, as other exporters write it: without names."""
    generator = np.random.default_rng(3)
    constants = {"w1": generator.normal(size=(8, 3, 3, 3)) / 5, "w2": generator.normal(size=(12, 8, 1, 1)) / 3}
    norms = {name: generator.uniform(0.5, 1.5, 8) for name in ("gain", "bias", "mean", "var")}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value.astype(np.float32), name))
        for name, value in constants.items()
    ]
    nodes += [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["x"]),
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *norms], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("ReduceL2", ["f", "axes"], ["length"], keepdims=1),
        helper.make_node("Div", ["f", "length"], ["embeddings"]),
    ]
    held = norms | {"scale": np.float64(1 / 255)}
    initializers = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in held.items()]
    initializers.append(numpy_helper.from_array(np.array([1]), "axes"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.UINT8, ["batch", 3, 8, 8])],
        [value("embeddings", TensorProto.FLOAT, ["batch", 12])],
        initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def test_quantized_graph_folds_a_graph_of_another_project_first():
    images, proto = noise(16), foreign_graph()
    folded = fold_foreign_graph(proto)
    assert [layer.weight is not None for layer in find_layers(folded, attention=False)] == [True, True]
    assert not {"BatchNormalization", "Constant"} & {node.op_type for node in folded.graph.node}
    np.testing.assert_allclose(run(folded, images), run(proto, images), atol=1e-5)
    assert fold_foreign_graph(folded) is folded

    source = OnnxSource(Path("osnet.onnx"), proto, SimpleNamespace(precision="fp32", input_type="uint8", details={}))
    calibration = Calibration(images=images, paths=("x",) * 16, dataset="drawn", seed=0)
    request = ExportRequest(name="x", precision="int8", calibration=calibration, options={"scheme": "cpu"})
    built = build_onnx(source, request)
    assert built.details["num_quantized_layers"] == 2 and compute_types(built.proto)["Conv"] == {"int8": 2}
    assert worst_loss(run(proto, images), run(built.proto, images)) < 0.01
