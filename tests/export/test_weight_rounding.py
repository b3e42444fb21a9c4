"""Rounded weights lie on the grid, and change what a layer gives less than rounding each to the nearest does."""

import copy
import itertools

import numpy as np
import pytest
import torch
from convolution_graphs import convolution, graph, pictures, random_constants, run, weights_of
from onnx import TensorProto, helper, numpy_helper

from hat.export.int8 import gptq
from hat.export.int8.gptq import round_to_steps, round_weights
from hat.export.int8.qdq_insertion import find_layers


def nearest(rows):
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    return np.rint(rows / scale) * scale


def rounded_by(rows, hessian):
    """`round_to_steps` for one group, its steps a 127th of each row's largest value."""
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    arrays = (rows, np.where(scale > 0, scale, 1), hessian)
    return round_to_steps(*(torch.from_numpy(array)[None] for array in arrays))[0].numpy()


def error(rows, rounded, inputs):
    return ((inputs @ (rows - rounded).T) ** 2).sum(axis=0)


@pytest.mark.parametrize("variances", [np.random.default_rng(1).uniform(0.1, 3, 300), np.zeros(300)])
def test_round_to_steps_takes_the_nearest_where_inputs_are_independent_or_were_never_active(variances):
    rows = np.random.default_rng(0).normal(size=(5, 300))
    np.testing.assert_allclose(rounded_by(rows, np.diag(variances)), nearest(rows), atol=1e-12)


def test_round_to_steps_comes_near_the_best_of_all_roundings():
    generator = np.random.default_rng(2)
    errors = []
    for _ in range(30):
        rows = generator.normal(size=(1, 6))
        inputs = generator.normal(size=(200, 2)) @ generator.normal(size=(2, 6)) + 0.05 * generator.normal(size=(200, 6))
        scale = np.abs(rows).max() / 127
        tried = [(np.floor(rows / scale) + np.array(up)) * scale for up in itertools.product((0, 1), repeat=6)]
        best = min(error(rows, row, inputs)[0] for row in tried if np.abs(row).max() < 127.5 * scale)
        rounded = rounded_by(rows, inputs.T @ inputs)
        errors.append((best, error(rows, rounded, inputs)[0], error(rows, nearest(rows), inputs)[0]))
    best, got, at_nearest = np.sum(errors, axis=0)
    assert best < got < best + 0.25 * (at_nearest - best), (best, got, at_nearest)


def test_round_to_steps_gives_whole_steps_and_keeps_the_largest_of_a_row():
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(7, 200)) * generator.uniform(0.01, 10, (7, 1))
    rows[3] = 0
    inputs = np.maximum(generator.normal(size=(500, 200)) + 1, 0)
    inputs[:, 5] = 0  # an input that is never active
    rounded = rounded_by(rows, inputs.T @ inputs)
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    steps = rounded / np.where(scale > 0, scale, 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    np.testing.assert_allclose(np.abs(steps).max(axis=1), [127, 127, 127, 0, 127, 127, 127])
    for row, largest in enumerate(np.abs(rows).argmax(axis=1)):
        assert rounded[row, largest] == pytest.approx(rows[row, largest])
    sound = [0, 1, 2, 4, 5, 6]
    np.testing.assert_allclose(nearest(rounded[sound]), rounded[sound], rtol=1e-9)
    before = error(rows[sound], nearest(rows[sound]), inputs)
    assert error(rows, rounded, inputs).sum() < 0.3 * before.sum()


def every_kind_of_layer(element):
    """Convolutions that are strided, padded unevenly, dilated, depthwise and grouped, then a product and a Gemm."""
    generator = np.random.default_rng(5)
    constants = random_constants({"stem": (8, 3, 3, 3), "depth": (8, 1, 3, 3), "grouped": (12, 4, 3, 1)}, generator)
    constants |= {"product.weight": generator.normal(size=(12, 10)), "gemm.weight": generator.normal(size=(6, 10))}
    nodes = [
        convolution("stem", "x", "a", strides=[2, 1], pads=[0, 2, 1, 0]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        convolution("depth", "b", "c", group=8, dilations=[2, 1], pads=[2, 1, 2, 1]),
        convolution("grouped", "c", "d", group=2, strides=[1, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="mean"),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "product.weight"], ["g"], name="product/MatMul"),
        helper.make_node("Gemm", ["g", "gemm.weight"], ["y"], name="gemm/Gemm", transB=1),
    ]
    return graph(nodes, constants, rank=2, element=element)


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_round_weights_rounds_layers_of_every_kind_by_their_own_inputs(element, monkeypatch):
    monkeypatch.setattr(gptq, "_MAX_HESSIAN_ELEMENTS", 27**2 + 8 * 9**2)  # the images are run several times
    proto, images = every_kind_of_layer(element), pictures()
    layers = find_layers(proto, attention=False)
    assert [layer.name for layer in layers] == ["stem", "depth", "grouped", "product", "gemm"]
    before, after = weights_of(proto), weights_of(round_weights(proto, layers, images))
    expected = run(proto, images).astype(np.float64)
    for layer in layers:
        assert after[layer.weight].dtype == before[layer.weight].dtype
        rows = np.moveaxis(before[layer.weight].astype(np.float64), layer.channel_axis, 0)
        got = np.moveaxis(after[layer.weight].astype(np.float64), layer.channel_axis, 0).reshape(len(rows), -1)
        steps = got / (np.abs(got).max(axis=1, keepdims=True) / 127)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4 if element == TensorProto.FLOAT else 0.13)
        plain = np.moveaxis(nearest(rows.reshape(len(rows), -1)).reshape(rows.shape), 0, layer.channel_axis)
        errors = []
        for weight in (after[layer.weight], plain.astype(before[layer.weight].dtype)):
            changed = copy.deepcopy(proto)
            (tensor,) = [tensor for tensor in changed.graph.initializer if tensor.name == layer.weight]
            tensor.CopyFrom(numpy_helper.from_array(weight, layer.weight))
            errors.append(((run(changed, images) - expected) ** 2).sum())
        assert errors[0] < errors[1], layer.name
    untouched = set(before) - {layer.weight for layer in layers}
    assert all(np.array_equal(before[name], after[name]) for name in untouched)
