"""A small model as an ONNX file, and that file broken in the ways in which exported re-ID models have been found broken."""

import functools

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_hat import batch_norms, tiny_hat

from hat.io.artifact import METADATA_KEY, info_from_json, info_to_json


@functools.cache
def small_model(seed):
    """A HAT of a hundredth of the size, 64 x 32 images, batch norms away from the identity; the same one every time."""
    model = tiny_hat(seed)
    # One batch in training mode with all of its statistics kept: images then lie as far apart as those of a trained model, and
    # no norm is the identity.
    images = torch.from_numpy(np.stack([people(i).transpose(2, 0, 1) for i in range(100, 132)]))
    for module in batch_norms(model):
        torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        module.momentum = 1.0
    with torch.no_grad():
        model.train()(model.preprocessing.normalize(images))
    return model.eval()


def people(seed, size=(64, 32)):
    """An image of colored blocks, (H, W, 3) uint8, that looks nothing like that of another seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 4, 3))
    return np.kron(blocks, np.ones((size[0] // 8, size[1] // 4, 1))).astype(np.uint8)


def draw_people(folder, count, size=(64, 32)):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(people(index, size)).save(folder / f"{index:03d}.png")
    return folder


def rewire(graph, name, new_name, first):
    """Let all nodes from ``first`` on read ``new_name`` where they read ``name``."""
    for node in list(graph.node)[first:]:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = new_name


def constant(graph, name, values):
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype=np.int64), name))
    return name


def bgr_for_rgb(model):
    graph = model.graph
    rewire(graph, "images", "swapped", 0)
    graph.node.insert(0, helper.make_node("Gather", ["images", constant(graph, "bgr", [2, 1, 0])], ["swapped"], axis=1))


def missing_normalization(model):
    """Pixels in [0, 1], neither mean nor standard deviation: what a host feeds that believes the graph does the rest."""
    for part, value in (("pixel_scale", 1 / 255), ("pixel_shift", 0)):
        tensor = next(tensor for tensor in model.graph.initializer if part in tensor.name)
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), value), tensor.name))


def missing_l2_norm(model):
    (division,) = [node for node in model.graph.node if "embeddings" in node.output]
    assert division.op_type == "Div"
    model.graph.node.append(helper.make_node("Identity", [division.input[0]], ["embeddings"]))
    model.graph.node.remove(division)


def one_corrupted_layer(model):
    """Two output channels of one convolution in the middle change places, as after a wrong weight copy."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    name = convolutions[len(convolutions) // 2].input[1]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weight = numpy_helper.to_array(tensor).copy()
    weight[[0, 1]] = weight[[1, 0]]
    tensor.CopyFrom(numpy_helper.from_array(weight, name))


def off_by_one_batch(model):
    """Every row is that of the image before it; alone, an image is right."""
    _rows_of_output(model, [("last", [-1], [np.iinfo(np.int64).max]), ("others", [0], [-1])])


def _rename_output(graph):
    (node,) = [node for node in graph.node if "embeddings" in node.output]
    node.output[:] = ["right"]


def _rows_of_output(model, parts):
    graph = model.graph
    _rename_output(graph)
    for name, start, stop in parts:
        bounds = [constant(graph, f"{name}_start", start), constant(graph, f"{name}_stop", stop)]
        graph.node.append(helper.make_node("Slice", ["right", *bounds, "rows"], [name]))
    constant(graph, "rows", [0])
    graph.node.append(helper.make_node("Concat", [name for name, _, _ in parts], ["embeddings"], axis=0))


def batch_in_one_norm(model):
    """The first image of a batch leaks into all others; alone, an image is right."""
    graph = model.graph
    _rows_of_output(model, [("everything", [0], [np.iinfo(np.int64).max])])
    graph.node[-1].output[0] = "whole"
    bounds = [constant(graph, "first_start", [0]), constant(graph, "first_stop", [1])]
    graph.node.append(helper.make_node("Slice", ["right", *bounds, "rows"], ["first"]))
    graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "share"))
    graph.node.append(helper.make_node("Sub", ["first", "whole"], ["towards"]))
    graph.node.append(helper.make_node("Mul", ["towards", "share"], ["leak"]))
    graph.node.append(helper.make_node("Add", ["whole", "leak"], ["embeddings"]))


def not_a_number(model):
    """A square root below zero in one value, as after an overflow in float16."""
    _rename_output(model.graph)
    model.graph.node.append(helper.make_node("Sqrt", ["right"], ["embeddings"]))


def one_constant(model):
    """Every image gets the embedding of a black one."""
    graph = model.graph
    rewire(graph, "images", "black", 0)
    graph.initializer.append(numpy_helper.from_array(np.uint8(0), "nothing"))
    graph.node.insert(0, helper.make_node("Mul", ["images", "nothing"], ["black"]))


def other_mean(model):
    """The file says that it normalizes otherwise than the reference does."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            info = info_from_json(entry.value, "")
            entry.value = info_to_json(info).replace(str(info.preprocessing.mean[0]), "0.5")


def broken(path, breakage, target):
    """A copy of an ONNX file with one breakage, checked to be a sound ONNX file all the same."""
    model = onnx.load(path)
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    breakage(model)
    onnx.checker.check_model(model)
    onnx.save(model, target)
    return target
