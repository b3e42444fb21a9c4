"""Equalized channels compute the same, and reach alike far where that was possible."""

import numpy as np
from convolution_graphs import convolution, graph, pictures, run, weights_of
from onnx import TensorProto, helper

from hat.export.graph.onnx_activations import activations
from hat.export.int8.cross_layer_equalization import equalize_channels


def constants_for(shapes, spread=3.0, **more):
    """Weights and biases whose output channels differ by orders of magnitude."""
    generator, made = np.random.default_rng(6), {}
    for name, shape in shapes.items():
        strength = np.exp(generator.uniform(-spread, spread, shape[0]))
        made[f"{name}.weight"] = generator.normal(size=shape) * strength[:, None, None, None] / np.prod(shape[1:]) ** 0.5
        made[f"{name}.bias"] = 0.1 * generator.normal(size=shape[0]) * strength
    return made | more


def reach_of(proto, name, images):
    return np.maximum.reduce([np.abs(values[name]).max(axis=(0, 2, 3)) for values in activations(proto, [name], images)])


def spreads(before, after, name, images):
    """Widest channel over narrowest, before and after; channels that were all but silent before are not counted."""
    first, second = reach_of(before, name, images), reach_of(after, name, images)
    heard = first > first.max() / 32
    return first[heard].max() / first[heard].min(), second[heard].max() / second[heard].min()


def inverted_residual(element=TensorProto.FLOAT):
    """1x1 up, ReLU6, depthwise, ReLU6, 1x1 down, twice, with a sum: the blocks of MobileNetV2. The first map is read twice."""
    shapes = {"stem": (6, 3, 1, 1)}
    for block in ("one", "two"):
        shapes |= {f"{block}.up": (12, 6, 1, 1), f"{block}.deep": (12, 1, 3, 3), f"{block}.down": (6, 12, 1, 1)}
    nodes, source = [convolution("stem", "x", "stem"), helper.make_node("Softplus", ["stem"], ["h0"], name="soft")], "h0"
    for block in ("one", "two"):
        nodes += [
            convolution(f"{block}.up", source, f"{block}.a"),
            helper.make_node("Clip", [f"{block}.a", "zero", "six"], [f"{block}.b"], name=f"{block}.up/Clip"),
            convolution(f"{block}.deep", f"{block}.b", f"{block}.c", group=12, pads=[1, 1, 1, 1]),
            helper.make_node("Clip", [f"{block}.c", "zero", "six"], [f"{block}.d"], name=f"{block}.deep/Clip"),
            convolution(f"{block}.down", f"{block}.d", f"{block}.e"),
        ]
        source = f"{block}.e"
    nodes += [helper.make_node("Add", ["one.e", "two.e"], ["sum"], name="sum"), convolution("last", "sum", "y")]
    shapes["last"] = (4, 6, 1, 1)
    return graph(nodes, constants_for(shapes, spread=1.5, zero=0.0, six=6.0), element=element)


def test_blocks_with_relu6_compute_the_same_and_their_channels_reach_alike_far():
    proto, images = inverted_residual(), pictures(32)
    equal, count = equalize_channels(proto, images)
    assert count == 5  # before and behind each depthwise convolution, and the two maps of the sum together
    np.testing.assert_allclose(run(equal, images), run(proto, images), rtol=1e-3, atol=1e-4)
    reached = np.concatenate([values["one.b"] for values in activations(proto, ["one.b"], images)])
    assert reached.max() == 6 and reached.max(axis=(0, 2, 3)).min() < 3, "some channels are cut and others are not"
    for name in ("one.b", "one.d", "two.b"):
        wide, narrow = spreads(proto, equal, name, images)
        assert wide > 2 and narrow < 1.3
    wide, narrow = spreads(proto, equal, "sum", images)
    assert narrow < wide
    before, after = weights_of(proto), weights_of(equal)
    assert np.array_equal(before["stem.weight"], after["stem.weight"]), "what a softplus reads cannot be scaled"
    assert after["six"] == 6 and float(after["one.up/Clip/max"]) != 6


def test_images_that_reach_further_are_cut_a_little_further_only():
    """A channel that was not cut on the images may go a quarter beyond what it reached there."""
    proto, images = inverted_residual(), pictures(4)
    equal, _ = equalize_channels(proto, images)
    (before,) = activations(proto, ["one.b"], images)
    (after,) = activations(equal, ["one.b"], images)
    reach = before["one.b"].max(axis=(0, 2, 3))
    alive = reach > reach.max() / 32  # what is all but silent is not stretched so far
    assert (reach == 6).any() and (reach[alive] < 3).any()
    scale = reach[alive] / after["one.b"].max(axis=(0, 2, 3))[alive]
    end = float(weights_of(equal)["one.up/Clip/max"])
    # What was all but silent is treated as if it had reached a 32nd of the widest.
    np.testing.assert_allclose(end * scale, np.minimum(1.25 * np.maximum(reach[alive], 6 / 32), 6), rtol=1e-4)


def test_convolutions_that_share_their_weights_keep_them():
    """One module that is called twice: scaled for each of its two places, it would be right in neither."""
    shapes = {"a": (8, 3, 1, 1), "shared": (8, 8, 1, 1), "last": (4, 8, 1, 1)}
    nodes = [convolution("a", "x", "a"), helper.make_node("Relu", ["a"], ["ra"], name="ra")]
    for number, source in enumerate(("ra", "r0")):
        node = convolution("shared", source, f"s{number}")
        node.name = f"shared{number}/Conv"
        nodes += [node, helper.make_node("Relu", [f"s{number}"], [f"r{number}"], name=f"r{number}")]
    proto, images = graph([*nodes, convolution("last", "r1", "y")], constants_for(shapes)), pictures()
    equal, _ = equalize_channels(proto, images)
    np.testing.assert_allclose(run(equal, images), run(proto, images), rtol=1e-3, atol=1e-4)


def test_relu_pooling_sums_and_groups_pass_scales_on():
    shapes = {"a": (8, 3, 3, 3), "b": (8, 8, 3, 3), "c": (8, 4, 1, 1), "d": (4, 8, 3, 1)}
    nodes = [
        convolution("a", "x", "a"),
        helper.make_node("Relu", ["a"], ["ra"], name="ra"),
        convolution("b", "ra", "b", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "ra"], ["sum"], name="sum"),
        helper.make_node("Relu", ["sum"], ["rs"], name="rs"),
        helper.make_node("MaxPool", ["rs"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        convolution("c", "pooled", "c", group=2),
        helper.make_node("Relu", ["c"], ["rc"], name="rc"),
        convolution("d", "rc", "y"),
    ]
    proto, images = graph(nodes, constants_for(shapes)), pictures()
    equal, count = equalize_channels(proto, images)
    assert count == 2
    expected = run(proto, images)
    np.testing.assert_allclose(run(equal, images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    for name in ("rs", "rc"):
        wide, narrow = spreads(proto, equal, name, images)
        assert narrow < 0.6 * wide


def test_what_something_else_reads_or_makes_is_left_alone():
    shapes = {"a": (4, 3, 1, 1), "b": (4, 4, 1, 1), "c": (4, 4, 1, 1)}
    nodes = [
        convolution("a", "x", "a"),
        helper.make_node("Relu", ["a"], ["ra"], name="ra"),
        convolution("b", "ra", "b"),
        helper.make_node("Clip", ["b", "low", "six"], ["cb"], name="cb"),  # not from zero on: it does not scale
        convolution("c", "cb", "c"),
        helper.make_node("Sigmoid", ["ra"], ["s"], name="s"),
        helper.make_node("Add", ["c", "s"], ["y"], name="y"),
    ]
    proto = graph(nodes, constants_for(shapes, low=-1.0, six=6.0))
    equal, count = equalize_channels(proto, pictures())
    assert count == 0 and equal == proto


def test_half_precision_stays_half_precision():
    proto, images = inverted_residual(TensorProto.FLOAT16), pictures(8)
    equal, count = equalize_channels(proto, images)
    assert count == 5
    assert {value.dtype for value in weights_of(equal).values()} == {np.dtype(np.float16)}
    expected = run(proto, images).astype(np.float32)
    np.testing.assert_allclose(run(equal, images), expected, atol=0.03 * np.abs(expected).max())


def test_a_channel_that_is_always_zero_stays_so():
    constants = constants_for({"a": (4, 3, 1, 1), "b": (4, 4, 1, 1)})
    constants["a.weight"][2], constants["a.bias"][2] = 0, -1
    nodes = [convolution("a", "x", "a"), helper.make_node("Relu", ["a"], ["ra"], name="ra"), convolution("b", "ra", "y")]
    proto, images = graph(nodes, constants), pictures()
    equal, count = equalize_channels(proto, images)
    assert count == 1 and all(np.isfinite(value).all() for value in weights_of(equal).values())
    expected = run(proto, images)
    np.testing.assert_allclose(run(equal, images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_images_decide_what_is_alike():
    proto = inverted_residual()
    found = []
    for images in (pictures(16) // 8, 255 - pictures(16) // 8):
        equal, _ = equalize_channels(proto, images)
        assert spreads(proto, equal, "one.b", images)[1] < 1.3
        found.append(weights_of(equal)["one.up.weight"])
    assert not np.allclose(*found, rtol=0.1)
