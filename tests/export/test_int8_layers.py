"""Which layers are quantized, what each costs, and that the costly ones are left out."""

import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from convolution_graphs import convolution, graph, pictures, random_constants, run, weights_of
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hat.data import ReIDDataset, Sample, Split
from hat.errors import DataError, ImageError, UsageError, WorkError
from hat.export import Calibration, ExportRequest, calibration_from
from hat.export.graph.onnx_activations import tensor_ranges
from hat.export.int8.onnx_int8 import QuantizationOptions, _float_precision, fold_foreign_graph, measure_sensitivity
from hat.export.int8.qdq_insertion import between_convolutions, feeding_convolutions, find_layers, insert_qdq
from hat.export.onnx_source import OnnxSource
from hat.export.to_onnx import build_onnx
from hat.io.onnx_file import compute_types
from hat.preprocessing import Preprocessing

pytest.importorskip("onnxruntime", reason="the extra export is not installed")


def unit_rows(source):
    return helper.make_node("LpNormalization", [source], ["y"], name="unit", axis=1, p=2)


def three_layers(outlier):
    """images -> three linear layers with ReLU -> unit rows; one channel of the second's input is huge and hardly counts."""
    generator = np.random.default_rng(2)
    weights = [generator.normal(size=shape) / 8 for shape in ((3 * 16 * 8, 16), (16, 16), (16, 12))]
    weights[0][:, 0] = np.abs(weights[0][:, 0]) * outlier
    weights[1][0] /= outlier
    nodes = [helper.make_node("Flatten", ["x"], ["x0"], name="flatten")]
    for n in range(3):
        nodes.append(helper.make_node("MatMul", [f"x{n}", f"layer{n}.weight"], [f"y{n}"], name=f"layer{n}/MatMul"))
        nodes.append(helper.make_node("Relu", [f"y{n}"], [f"x{n + 1}"], name=f"layer{n}/Relu"))
    nodes[-1] = unit_rows("y2")
    return graph(nodes, {f"layer{n}.weight": weight for n, weight in enumerate(weights)}, rank=2)


def layers_and_ranges(proto, operators=("MatMul",), images=None):
    return find_layers(proto, attention=False), tensor_ranges(proto, operators, pictures() if images is None else images)


def quantize(proto, images, **options):
    """An int8 build from a graph in memory, as from a file of ours."""
    source = OnnxSource(Path("x.onnx"), proto, types.SimpleNamespace(precision="fp32", input_type="uint8", details={}))
    calibration = Calibration(images, tuple(f"train/{n}.jpg" for n in range(len(images))), "drawn", 0)
    options = {"scheme": "cpu", "num_sensitivity": 6} | options
    return build_onnx(source, ExportRequest(name="x", precision="int8", calibration=calibration, options=options))


def worst_loss(first, second):
    return float((1 - (first * second).sum(axis=1)).max())


def test_tensor_ranges_are_those_of_the_tensors():
    proto, images = three_layers(1), pictures(12)
    y0 = images.reshape(len(images), -1) / 255 @ weights_of(proto)["layer0.weight"]
    x1 = np.maximum(y0, 0)
    found = tensor_ranges(proto, ["MatMul"], images)
    np.testing.assert_allclose(found["x1"], (x1.min(), x1.max()), rtol=1e-5)
    cut = tensor_ranges(proto, ["MatMul"], images, method="percentile", percentile=90.0)
    np.testing.assert_allclose(cut["y0"], np.percentile(y0, (5, 95)), atol=0.01 * np.ptp(y0))
    assert cut["x1"][0] == 0 and cut["x1"][1] == pytest.approx(np.percentile(x1, 95), rel=0.02)
    whole = tensor_ranges(proto, ["MatMul"], images, method="percentile", percentile=100.0)
    np.testing.assert_allclose(whole["y0"], found["y0"], rtol=1e-6)
    assert "images" not in found

    (weight,) = [tensor for tensor in proto.graph.initializer if tensor.name == "layer0.weight"]
    weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, np.inf, dtype=np.float32), weight.name))
    with pytest.raises(WorkError, match="calibration failed"):
        tensor_ranges(proto, ["MatMul"], images)


@pytest.mark.parametrize(("kind", "per_tensor"), [("int8", False), ("int8", True), ("fp8", True)])
def test_insert_qdq_computes_what_rounding_by_hand_gives(kind, per_tensor):
    proto, images = three_layers(1), pictures(3)
    layers, ranges = layers_and_ranges(proto)
    assert [layer.name for layer in layers] == ["layer0", "layer1", "layer2"]
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

    weights = weights_of(proto)
    x1 = np.maximum(images.reshape(3, -1).astype(np.float32) / np.float32(255) @ weights["layer0.weight"], 0)
    w1 = weights["layer1.weight"]
    weight_scale = np.abs(w1).max(None if per_tensor else 0) / largest
    x2 = np.maximum(rounded(x1, np.float32(max(map(abs, ranges["x1"])) / largest)) @ rounded(w1, weight_scale), 0)
    y = x2 @ weights["layer2.weight"]
    np.testing.assert_allclose(run(quantized, images), y / np.linalg.norm(y, axis=1, keepdims=True), atol=2e-3)


def test_insert_qdq_residual_sums():
    """A convolution's output enters a sum as it is, and what is added to it has a pair, shared with its other readers."""
    shapes = {"stem": (8, 3, 3, 3), "left": (8, 8, 3, 3), "right": (8, 8, 1, 1), "top": (4, 8, 1, 1)}
    nodes = [
        convolution("stem", "x", "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        convolution("left", "b", "c", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "b"], ["d"], name="sum"),
        convolution("right", "d", "e"),
        convolution("top", "d", "f"),
        helper.make_node("Concat", ["e", "f"], ["y"], name="concat", axis=1),
    ]
    proto, images = graph(nodes, random_constants(shapes, 6, 1 / 8)), pictures()
    layers, ranges = layers_and_ranges(proto, ("Conv", "Add"))
    expected = run(proto, images)
    for sums in (False, True):
        quantized = insert_qdq(proto, layers, ranges, residual_sums=sums)
        (added,) = [node for node in quantized.graph.node if node.op_type == "Add"]
        assert list(added.input) == ["c", "b/dequantized" if sums else "b"]
        assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) == 3  # x, b, d: shared by their readers
        np.testing.assert_allclose(run(quantized, images), expected, atol=0.02 * np.abs(expected).max())


def test_measure_sensitivity_finds_the_layer_with_an_outlier():
    images = pictures()
    calm = measure_sensitivity(three_layers(1), *layers_and_ranges(three_layers(1)), images)
    assert max(loss.worst for loss in calm) < 1e-3

    proto = three_layers(50)
    layers, ranges = layers_and_ranges(proto)
    losses = measure_sensitivity(proto, layers, ranges, images)
    assert max(losses, key=lambda loss: loss.mean).layer == "layer1" and losses[1].worst > 0.01
    expected = worst_loss(run(proto, images), run(insert_qdq(proto, [layers[1]], ranges), images))
    assert losses[1].worst == pytest.approx(expected, rel=1e-3)


def test_quantized_graph_leaves_out_what_costs_too_much_and_records_it():
    built = quantize(three_layers(50), pictures(12), rounding="nearest")
    left_out = built.details["layers_left_out"]
    assert "layer1" in left_out and len(left_out) < 3
    losses = {loss["layer"]: loss for loss in built.details["sensitivity"]["layers"]}
    assert losses["layer1"]["excluded"] and losses["layer1"]["mean"] == max(loss["mean"] for loss in losses.values())
    assert built.details["cosine_drop"] <= 0.001 and built.details["sensitivity"]["num_images"] == 6
    (node,) = [node for node in built.proto.graph.node if node.name == "layer1/MatMul"]
    producers = {output: producer.op_type for producer in built.proto.graph.node for output in producer.output}
    assert producers.get(node.input[1]) is None, "its weight is a float constant"
    np.testing.assert_array_equal(weights_of(built.proto)[node.input[1]], weights_of(three_layers(50))["layer1.weight"])
    assert built.details["num_quantized_layers"] == len(losses) - len(left_out)
    assert built.details["calibration"]["images"] == [f"train/{n}.jpg" for n in range(12)]
    with pytest.raises(WorkError, match="no layer is left to compute in int8"):
        quantize(three_layers(1), pictures(), exclude=["layer"])
    with pytest.raises(UsageError, match=r"exclude names no layer: lyer1, layer10;"):
        quantize(three_layers(1), pictures(), exclude=["lyer1", "layer1", "layer10"])
    with pytest.raises(UsageError, match="weight_scales=tensor belongs to scheme=tensorrt"):
        quantize(three_layers(1), pictures(), weight_scales="tensor")
    named = quantize(three_layers(1), pictures(), scheme="tensorrt", exclude=["layer1"])
    assert named.details["layers_left_out"] == {"layer1": "named"}
    assert compute_types(named.proto)["MatMul"] == {"int8": 2, "float": 1}


def test_no_more_layers_are_left_out_than_the_allowed_drop_needs():
    """Beside a brute force over how many of the costliest layers are left out, each count named one by one."""
    generator, names = np.random.default_rng(3), [f"layer{n}" for n in range(8)]
    nodes = [helper.make_node("Flatten", ["x"], ["x0"], name="flatten")]
    for n, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [f"x{n}", f"{name}.weight"], [f"x{n + 1}"], name=f"{name}/MatMul"))
    shapes = [(3 * 16 * 8, 16), *[(16, 16)] * 7]
    weights = {f"{name}.weight": generator.normal(size=shape) / 8 for name, shape in zip(names, shapes, strict=True)}
    proto, images = graph([*nodes, unit_rows("x8")], weights, rank=2), pictures(12)
    expected = run(proto, images[:6]).astype(np.float64)

    def build(*left_out, **options):
        return quantize(proto, images, rounding="nearest", exclude=["layer0", *left_out], **options)

    def drop(*left_out):
        return float((1 - (expected * run(build(*left_out, max_drop=1).proto, images[:6])).sum(axis=1)).mean())

    losses = build(max_drop=1, report=True).details["sensitivity"]["layers"]
    order = [loss["layer"] for loss in sorted(losses, key=lambda loss: -loss["mean"])]
    drops = [drop(*order[:count]) for count in range(7)]
    for count in (1, 2, 4):
        limit = (drops[count - 1] + drops[count]) / 2
        assert [dropped <= limit for dropped in drops] == [False] * count + [True] * (7 - count)
        built = build(max_drop=limit)
        assert set(built.details["layers_left_out"]) == {"layer0", *order[:count]}


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
    assert feeding_convolutions(proto, {"top": "t"}) == {"left": "t", "right": "t"}
    assert feeding_convolutions(proto, {"left": "l"}) == {"stem": "l"}
    assert feeding_convolutions(proto, {"stem": "s"}) == {}
    assert between_convolutions(proto, {"stem", "left", "right"}) == ["relu", "sum", "relu2"]
    assert between_convolutions(proto, {"stem", "right"}) == ["relu"], "a sum with a float operand stays float"


def test_what_is_not_quantized_computes_in_float16_for_tensorrt_where_the_opset_has_it(small_model):
    def chosen(opset, **options):
        return _float_precision(small_model, ExportRequest("x", "int8", opset=opset), QuantizationOptions(**options))

    found = [chosen(20), chosen(18), chosen(20, scheme="cpu"), chosen(20, float_dtype="fp32")]
    assert found == ["fp16", "fp32", "fp32", "fp32"]
    with pytest.raises(UsageError, match="int8 inside fp16 needs opset 19, got 18"):
        chosen(18, float_dtype="fp16")
    with pytest.raises(UsageError, match="a CPU computes the rest in fp32"):
        chosen(20, float_dtype="fp16", scheme="cpu")


def drawn_dataset(folder):
    def split(name, count):
        (folder / name).mkdir()
        paths = [folder / name / f"{index:02d}.png" for index in range(count)]
        for index, path in enumerate(paths):
            Image.new("RGB", (8, 16), (index * 20, 0, 255 if name == "query" else 0)).save(path)
        return Split(name, [Sample(str(path), index, 0) for index, path in enumerate(paths)])

    return ReIDDataset("drawn", split("train", 9), split("query", 2), split("gallery", 2))


def test_calibration_from_takes_sound_training_images_chosen_by_the_seed_alone(tmp_path):
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
    details = first.details
    assert details["num_images"] == 4 and details["images"] == list(first.paths) and len(details["pixels_sha256"]) == 64
    with pytest.raises(UsageError, match="at least 1 image, got 0"):
        calibration_from(dataset, preprocessing, 0)
    empty = ReIDDataset("drawn", Split("train", []), dataset.query, dataset.gallery)
    with pytest.raises(DataError, match="no training images to calibrate on"):
        calibration_from(empty, preprocessing)
    (tmp_path / "train" / "03.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"03\.png"):
        calibration_from(dataset, preprocessing)


def test_quantized_graph_folds_a_graph_of_another_project_first():
    """Without names, its batch norm and constants as nodes, as other exporters write it."""
    generator = np.random.default_rng(3)
    weights = {"w1": generator.normal(size=(8, 3, 3, 3)) / 5, "w2": generator.normal(size=(12, 8, 1, 1)) / 3}
    norm = {name: generator.uniform(0.5, 1.5, 8) for name in ("gain", "bias", "mean", "var")}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value.astype(np.float32), name))
        for name, value in weights.items()
    ]
    nodes += [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        unit_rows("f"),
    ]
    proto, images = graph(nodes, norm, rank=2), pictures(16)
    folded = fold_foreign_graph(proto)
    assert [layer.weight is not None for layer in find_layers(folded, attention=False)] == [True, True]
    assert not {"BatchNormalization", "Constant"} & {node.op_type for node in folded.graph.node}
    np.testing.assert_allclose(run(folded, images), run(proto, images), atol=1e-5)
    assert fold_foreign_graph(folded) is folded
    built = quantize(proto, images)
    assert built.details["num_quantized_layers"] == 2 and compute_types(built.proto)["Conv"] == {"int8": 2}
    assert worst_loss(run(proto, images), run(built.proto, images)) < 0.01
