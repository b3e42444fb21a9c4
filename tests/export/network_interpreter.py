"""An interpreter of TensorRT's network definition: what the parser understood of an ONNX file, computed by torch on the CPU.

It executes what TensorRT was told and not what the ONNX says: axes as bit masks, padding, resize rules, zero points, types.
Products accumulate in float32 and are rounded to the type of their output once, as tensor cores do. Unknown layers are refused.
"""

import ctypes
import re
from collections import Counter, deque

import numpy as np
import torch
import torch.nn.functional as F


class _Weights(ctypes.Structure):
    """``nvinfer1::Weights``."""

    _fields_ = (("dtype", ctypes.c_int32), ("values", ctypes.c_void_p), ("count", ctypes.c_int64))


class Interpreter:
    """Runs what a TensorRT parsed of an ONNX model's bytes; it has one input and one output."""

    def __init__(self, trt, content):
        builder = trt.make("Builder")
        self.library, self.network = trt.library, builder.create_network(trt.network_flags())
        parser = trt.make("OnnxParser", self.network)
        assert parser.parse(content), [parser.get_error(index).desc() for index in range(parser.num_errors)]
        self.alive = builder, parser, content  # as long as the network
        self.types = {getattr(self.library.DataType, name): dtype for name, dtype in _TYPES.items()}
        names = [name for name in dir(self.library) if re.fullmatch(r"I\w+Layer", name)]
        self.classes = {name.lower(): getattr(self.library, name) for name in names}

    @torch.inference_mode()
    def run(self, images):
        """Return the output for (B, 3, H, W) images, an array."""
        layers = [self.network.get_layer(index) for index in range(self.network.num_layers)]
        inputs = [[layer.get_input(place) for place in range(layer.num_inputs)] for layer in layers]
        names = [[None if tensor is None else tensor.name for tensor in found] for found in inputs]
        reads = Counter(name for found in names for name in found)
        source = self.network.get_input(0).name
        values = {source: torch.from_numpy(images)}
        readers = {self._kind(layer) for layer, found in zip(layers, names, strict=True) if source in found}
        assert readers == {"CAST"}, "no other layer of TensorRT takes uint8"
        waiting = deque(zip(layers, names, strict=True))  # the parser adds some helpers behind their readers
        while waiting:
            layer, found = waiting.popleft()
            if any(name is not None and name not in values for name in found):
                waiting.append((layer, found))
                continue
            output = layer.get_output(0)
            value = self._layer(layer, [None if name is None else values[name] for name in found])
            assert layer.num_outputs == 1 and value.dtype == self.types[output.dtype], (layer.name, value.dtype, output.dtype)
            sizes = zip(output.shape, value.shape, strict=True)
            assert all(told in (-1, made) for told, made in sizes), (layer.name, tuple(output.shape), tuple(value.shape))
            values[output.name] = value
            reads.subtract(found)
            for name in found:  # what nothing reads any more is let go: the maps of a large model fill the memory
                if name is not None and reads[name] == 0:
                    values.pop(name, None)
        result = values[self.network.get_output(0).name]
        return (result.float() if result.dtype == torch.bfloat16 else result).numpy()

    def _kind(self, layer):
        return self.library.ILayer.type.fget(layer).name  # two kinds have a type of their own by the same name

    def _layer(self, layer, inputs):
        kind = self._kind(layer)
        compute = getattr(self, f"_{kind.lower()}", None)
        assert compute is not None, f"{layer.name} is of the unknown kind {kind}"
        layer.__class__ = self.classes[f"i{kind.lower().replace('_', '')}layer"]
        return compute(layer, *inputs)

    def _out(self, layer):
        return self.types[layer.get_output(0).dtype]

    def _constant(self, layer):
        return self._weights(layer.weights).reshape(tuple(layer.shape)).to(self._out(layer))

    def _weights(self, weights):
        """Return weights as a flat tensor; of bfloat16 and float8, which NumPy lacks, the bindings tell the size alone."""
        if isinstance(weights, np.ndarray):
            return torch.from_numpy(weights.copy())
        # The pointer is read out of the C++ struct that pybind11 keeps right behind Python's own head of an object.
        struct = _Weights.from_address(ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value)
        assert (struct.dtype, struct.count) == (int(weights.dtype), weights.size)
        content = ctypes.string_at(struct.values, weights.nbytes)
        return torch.frombuffer(bytearray(content), dtype=self.types[weights.dtype])

    def _identity(self, layer, x):
        return x.to(self._out(layer))

    _cast = _identity

    def _shape(self, layer, x):
        return torch.tensor(x.shape, dtype=torch.int64)

    def _elementwise(self, layer, x, y):
        assert x.dtype == y.dtype and x.ndim == y.ndim, layer.name
        return _ELEMENTWISE[layer.op.name](x, y)

    def _unary(self, layer, x):
        return _UNARY[layer.op.name](x)

    def _activation(self, layer, x):
        return _ACTIVATION[layer.type.name](x, layer.alpha, layer.beta)

    def _select(self, layer, condition, x, y):
        return torch.where(condition, x, y)

    def _convolution(self, layer, x, kernel=None, bias=None):
        if kernel is None:
            shape = (layer.num_output_maps, x.shape[1] // layer.num_groups, *layer.kernel_size_nd)
            kernel = self._weights(layer.kernel).reshape(shape)
        if bias is None and layer.bias is not None and layer.bias.size:
            bias = self._weights(layer.bias)
        before, after = tuple(layer.pre_padding), tuple(layer.post_padding)
        assert layer.padding_mode.name.startswith("EXPLICIT"), layer.padding_mode
        x = F.pad(x.float(), (before[1], after[1], before[0], after[0]))
        bias = None if bias is None else bias.float()
        made = F.conv2d(x, kernel.float(), bias, tuple(layer.stride_nd), 0, tuple(layer.dilation_nd), layer.num_groups)
        return made.to(self._out(layer))

    def _matrix_multiply(self, layer, x, y):
        x, y = (value.transpose(-1, -2) if op.name == "TRANSPOSE" else value for value, op in ((x, layer.op0), (y, layer.op1)))
        assert "VECTOR" not in (layer.op0.name, layer.op1.name)
        return (x.float() @ y.float()).to(self._out(layer))

    def _pooling(self, layer, x):
        before, after = tuple(layer.pre_padding), tuple(layer.post_padding)
        assert layer.padding_mode.name in ("EXPLICIT_ROUND_DOWN", "EXPLICIT_ROUND_UP"), layer.padding_mode
        rounds_up = layer.padding_mode.name == "EXPLICIT_ROUND_UP"
        window, stride, kind = tuple(layer.window_size_nd), tuple(layer.stride_nd), layer.type.name
        edges = (before[1], after[1], before[0], after[0])
        if kind == "MAX":
            return F.max_pool2d(F.pad(x.float(), edges, value=-torch.inf), window, stride, ceil_mode=rounds_up).to(x.dtype)
        assert kind == "AVERAGE" and (not any(edges) or not layer.average_count_excludes_padding), layer.name
        assert not rounds_up, layer.name  # what such a window's mean is over differs between libraries
        return F.avg_pool2d(F.pad(x.float(), edges), window, stride).to(x.dtype)

    def _reduce(self, layer, x):
        axes = _axes(layer.axes)
        reduce = {"SUM": torch.sum, "AVG": torch.mean, "MAX": torch.amax, "MIN": torch.amin}[layer.op.name]
        return reduce(x, dim=axes, keepdim=layer.keep_dims)

    def _softmax(self, layer, x):
        (axis,) = _axes(layer.axes)
        return x.softmax(axis)

    def _normalization(self, layer, x, scale, bias):
        assert layer.num_groups == 1
        axes = _axes(layer.axes)
        mean = x.mean(axes, keepdim=True)
        variance = ((x - mean) ** 2).mean(axes, keepdim=True)
        return (x - mean) / (variance + layer.epsilon).sqrt() * scale + bias

    def _shuffle(self, layer, x, shape=None):
        x = _permuted(x, layer.first_transpose)
        target = shape.tolist() if shape is not None else _dims(layer.reshape_dims)
        if target is None and len(layer.get_output(0).shape) != x.ndim:
            target = list(layer.get_output(0).shape)  # to a scalar, which looks like no reshape at all
        if target is not None:
            if layer.zero_is_placeholder:
                target = [x.shape[place] if size == 0 else size for place, size in enumerate(target)]
            x = x.reshape(target)
        return _permuted(x, layer.second_transpose)

    def _concatenation(self, layer, *parts):
        return torch.cat(parts, layer.axis)

    def _gather(self, layer, x, indices):
        assert layer.mode.name == "DEFAULT" and layer.num_elementwise_dims == 0
        axis = layer.axis
        picked = x.index_select(axis, indices.reshape(-1).long())
        return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])

    def _slice(self, layer, x, start=None, shape=None, stride=None, fill=None):
        start, shape, stride = (
            value.tolist() if value is not None else list(given)
            for value, given in ((start, layer.start), (shape, layer.shape), (stride, layer.stride))
        )
        mode = layer.mode.name
        axes = tuple(layer.axes) if layer.axes else range(x.ndim)
        for axis, first, size, step in zip(axes, start, shape, stride, strict=True):
            places = first + step * torch.arange(size)
            limit = x.shape[axis]
            inside = (places >= 0) & (places < limit)
            if mode == "CLAMP":
                places = places.clamp(0, limit - 1)
            elif mode == "FILL":
                assert fill is None or not fill.any()
                picked = x.index_select(axis, places.clamp(0, limit - 1))
                x = picked * inside.reshape(-1, *[1] * (x.ndim - axis - 1)).to(x.dtype)
                continue
            else:
                assert mode.startswith(("STRICT", "DEFAULT")) and inside.all(), (layer.name, mode)
            x = x.index_select(axis, places)
        return x

    def _resize(self, layer, x, shape=None):
        size = shape.tolist()[2:] if shape is not None else _dims(layer.shape)
        size = size[-2:] if size else [round(side * scale) for side, scale in zip(x.shape[2:], layer.scales[2:], strict=True)]
        mode, rule = layer.resize_mode.name, layer.coordinate_transformation.name
        assert mode == "LINEAR" and rule in ("HALF_PIXEL", "ALIGN_CORNERS"), (mode, rule)
        made = F.interpolate(x.float(), tuple(size), mode="bilinear", align_corners=rule == "ALIGN_CORNERS")
        return made.to(x.dtype)

    def _quantize(self, layer, x, scale, zero=None):
        assert zero is None or not zero.float().any()  # symmetric, as TensorRT wants it
        levels = x.float() / _by_channel(scale, x, layer.axis)
        if self._out(layer) == torch.float8_e4m3fn:
            return levels.clamp(-448, 448).to(torch.float8_e4m3fn)  # saturates, where torch alone would give NaN
        return levels.round().clamp(-128, 127).to(self._out(layer))  # half to even, as ONNX and the GPU do

    def _dequantize(self, layer, x, scale, zero=None):
        assert zero is None or not zero.float().any()
        return (x.float() * _by_channel(scale, x, layer.axis)).to(self._out(layer))


_TYPES = {
    "FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "FP8": torch.float8_e4m3fn, "BOOL": torch.bool,
    "UINT8": torch.uint8, "INT8": torch.int8, "INT32": torch.int32, "INT64": torch.int64,
}  # fmt: skip

_ELEMENTWISE = {
    "SUM": torch.add, "PROD": torch.mul, "SUB": torch.sub, "MAX": torch.maximum, "MIN": torch.minimum, "POW": torch.pow,
    "DIV": lambda x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc"),
    "FLOOR_DIV": torch.floor_divide, "EQUAL": torch.eq, "LESS": torch.lt, "GREATER": torch.gt, "AND": torch.logical_and,
    "OR": torch.logical_or,
}  # fmt: skip

_UNARY = {
    "ERF": torch.erf, "SQRT": torch.sqrt, "EXP": torch.exp, "ABS": torch.abs, "NEG": torch.neg, "RECIP": torch.reciprocal,
    "LOG": torch.log, "NOT": torch.logical_not,
}  # fmt: skip

_ACTIVATION = {
    "RELU": lambda x, alpha, beta: x.relu(),
    "SIGMOID": lambda x, alpha, beta: x.sigmoid(),
    "TANH": lambda x, alpha, beta: x.tanh(),
    "CLIP": lambda x, alpha, beta: x.clamp(alpha, beta),
    "HARD_SIGMOID": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "GELU_ERF": lambda x, alpha, beta: F.gelu(x),
}


def _axes(mask):
    return tuple(axis for axis in range(8) if mask >> axis & 1)


def _dims(dims):
    """Return dimensions as a list, None where they were not set."""
    return list(dims) or None if dims is not None else None


def _permuted(x, permutation):
    order = tuple(permutation)[: x.ndim]
    return x.permute(order) if len(set(order)) == x.ndim else x


def _by_channel(scale, x, axis):
    scale = scale.float()
    return scale.reshape([-1 if place == axis else 1 for place in range(x.ndim)]) if scale.numel() > 1 else scale
