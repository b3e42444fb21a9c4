"""A fake of the TensorRT libraries, for what only execution shows: streams, addresses, lifetimes. NOTHING here runs TensorRT.

It has the classes that this package uses, and of each no more names than the real library of that version. The names in
`tensorrt_names.json` are those that the Python bindings of the wheels tensorrt-cu12-bindings 10.3.0, tensorrt-cu13-bindings
10.16.1.11 and 11.4.0.106 and tensorrt-rtx 1.7.1.116 define; every other raises AttributeError, as it does there, so that a call
which a version lacks fails a test. What calls do is made up: an engine is a JSON text and embeds an image by its first pixels.
Where there is a GPU the fake computes on it, on the stream and at the addresses that it is given, so that it can be captured.
"""

import ctypes
import enum
import json
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from hat.io.artifact import METADATA_KEY, ArtifactInfo, info_to_json
from hat.model import ModelConfig
from hat.preprocessing import Preprocessing
from hat.runtime.tensorrt.library import Gpu, TensorRT

NAMES = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
VERSIONS = {"10.3.0": "10.3.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106", "rtx": "rtx 1.7.1.116"}
L4 = Gpu(0, "Fake L4", (8, 9), 58)
SIZE, EMBED_DIM = (64, 32), 16


class FakeTensorRT(TensorRT):
    """Takes the CPU for its GPU, unless another device is named: buffers are real memory and nothing else is."""

    gpu = L4

    def device(self, device):
        return torch.device(device or "cpu")

    def find_gpu(self, index):
        return self.gpu


def fake_tensorrt(version, gpu=L4):
    """Return (TensorRT around a fake of a version, its script: what the fake is to do and what it was asked)."""
    script = SimpleNamespace(
        parser_errors=[], layer_types=None, builds=True, warnings=[], report=None, runs=True, starts=True, pause_s=0,
        timing_caches=[], flags=None, network_flags=None, targets=[], level=None, host_code=False, settings=None, sizes=[],
        cache=b"", scratch=set(),
    )  # fmt: skip
    library = _library(VERSIONS[version], script)
    trt = FakeTensorRT(library, "tensorrt-rtx" if version == "rtx" else "tensorrt")
    trt.gpu = gpu
    return trt, script


def small_info(precision="fp32", **changes):
    metadata = {"name": "small", "model": ModelConfig(image_size=SIZE), "embed_dim": EMBED_DIM, "precision": precision}
    metadata |= {"preprocessing": Preprocessing(height=SIZE[0], width=SIZE[1]), "versions": {"hat-reid": "0"}}
    return ArtifactInfo(**(metadata | {"source_sha256": "0" * 64, "fingerprint": "1" * 64} | changes))


def small_onnx(precision="fp32", *, computes=None, info=None, operator="Conv"):
    """Bytes of a network of one convolution and one matrix product that says ``precision`` and computes in ``computes``."""
    computes = computes or precision
    random = np.random.default_rng(0)
    wide = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}.get(computes, TensorProto.FLOAT)
    weights = {"kernel": random.normal(size=(8, 3, 16, 16)) / 100, "matrix": random.normal(size=(64, EMBED_DIM))}
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=wide)]
    initializers = [numpy_helper.from_array(np.array([0, -1], dtype=np.int64), "flat")]

    def dequantized(name, output, scale):
        initializers.append(numpy_helper.from_array(np.float32(scale), f"{name}_scale"))
        initializers.append(numpy_helper.from_array(np.int8(0), f"{name}_zero"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], [output]))
        return output

    def quantized(name):
        if computes != "int8":
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_q"]))
        return dequantized(name, f"{name}_dq", 1)

    for name, value in weights.items():
        if computes == "int8":
            scale = np.abs(value).max() / 127
            initializers.append(numpy_helper.from_array(np.round(value / scale).astype(np.int8), f"{name}_q"))
            dequantized(name, name, scale)
        else:
            initializers.append(helper.make_tensor(name, wide, value.shape, value.flatten().tolist()))
    nodes.append(helper.make_node(operator, [quantized("pixels"), "kernel"], ["maps"], strides=[16, 16], name="conv"))
    nodes.append(helper.make_node("Reshape", ["maps", "flat"], ["vector"]))
    nodes.append(helper.make_node("MatMul", [quantized("vector"), "matrix"], ["product"], name="matmul"))
    nodes.append(helper.make_node("Cast", ["product"], ["single"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("LpNormalization", ["single"], ["embeddings"], axis=1, p=2))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, *SIZE])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", EMBED_DIM])
    opset = helper.make_opsetid("", 22 if wide == TensorProto.BFLOAT16 else 18)
    graph = helper.make_graph(nodes, "small", [images], [embeddings], initializers)
    proto = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    helper.set_model_props(proto, {METADATA_KEY: info_to_json(info or small_info(precision))})
    return proto.SerializeToString()


def fake_embeddings(images):
    """Return what the fake's engines make of (n, 3, H, W) uint8 images, arrays or tensors: (n, EMBED_DIM) unit vectors."""
    pixels = images.reshape(len(images), int(np.prod(images.shape[1:])))[:, :EMBED_DIM] * 1.0 + 1
    return pixels / (pixels * pixels).sum(1, keepdims=True) ** 0.5


def _library(version, script):
    names = {name: set(members.split()) for name, members in NAMES[version].items()}

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        pass

    ILogger.Severity = Severity
    data_type = enum.IntEnum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "FP8", "UINT8", "INT64"])
    library = SimpleNamespace(__version__=version.split()[-1], ILogger=ILogger, DataType=data_type)
    for name, members in names.items():
        if {"name", "value"} <= members:
            numbered = [(member, value) for value, member in enumerate(sorted(members - {"name", "value"}))]
            setattr(library, name, enum.IntEnum(name, numbered))

    class Limited:
        """Has no name but those of the real class of this version."""

        def __init__(self, **attributes):
            self.__dict__.update(attributes)

        def __getattribute__(self, name):
            _check(self, name)
            return object.__getattribute__(self, name)

        def __setattr__(self, name, value):
            _check(self, name)
            object.__setattr__(self, name, value)

    def _check(instance, name):
        real_name = type(instance).__name__
        if not name.startswith("_") and name not in names.get(real_name, ()):
            raise AttributeError(f"{real_name} of {version} has no {name}")

    def tensor(name, kind, shape=()):
        return SimpleNamespace(name=name, dtype=data_type[kind], shape=shape)

    class INetworkDefinition(Limited):
        num_inputs = num_outputs = property(lambda self: 1)
        num_layers = property(lambda self: len(self._layers))

        def get_input(self, index):
            return tensor("images", "UINT8", (-1, 3, *SIZE))

        def get_output(self, index):
            return tensor("embeddings", "FLOAT", (-1, self._embed_dim))

        def get_layer(self, index):
            kind, made = self._layers[index], tensor(f"t{index}", self._layers[index])
            return SimpleNamespace(
                type=SimpleNamespace(name="CONVOLUTION"), num_inputs=1, num_outputs=1,
                get_input=lambda _: tensor("x", kind), get_output=lambda _: made,
            )  # fmt: skip

    class OnnxParser(Limited):
        def __init__(self, network, logger):
            self._network = network

        num_errors = property(lambda self: len(script.parser_errors))

        def get_error(self, index):
            node, operator, words = script.parser_errors[index]
            return SimpleNamespace(
                node=lambda: index, node_name=lambda: node, node_operator=lambda: operator, desc=lambda: words
            )

        def parse_from_file(self, path):
            (output,) = onnx.load_model(path).graph.output
            self._network._embed_dim = output.type.tensor_type.shape.dim[1].dim_value
            self._network._layers = script.layer_types or ["FLOAT"]
            return not script.parser_errors

    class IBuilderConfig(Limited):
        def set_flag(self, flag):
            self._flags.add(flag.name)

        def clear_flag(self, flag):
            self._flags.discard(flag.name)

        def add_optimization_profile(self, profile):
            self._profile = profile

        def create_timing_cache(self, content):
            script.timing_caches.append(content)
            return SimpleNamespace(content=content, serialize=lambda: b"timed on " + library.__version__.encode())

        def set_timing_cache(self, cache, ignore_mismatch):
            self._cache = cache
            fits = cache.content in (b"", cache.serialize())
            if not fits:
                self._logger.log(Severity.ERROR, "cache of another device")
            return fits

        def get_timing_cache(self):
            return self._cache

        def set_compute_capability(self, target, index):
            script.targets.append(target.name)
            return True

        def set_memory_pool_limit(self, pool, size):
            pass

    class IOptimizationProfile(Limited):
        def set_shape(self, name, smallest, tuned, largest):
            self._batch = [smallest[0], tuned[0], largest[0]]

    class Builder(Limited):
        def __init__(self, logger):
            self._logger = logger
            if not script.starts:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags=0):
            script.network_flags = flags
            return INetworkDefinition()

        def create_builder_config(self):
            return IBuilderConfig(_logger=self._logger, _flags={"TF32"})

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            for message in script.warnings:
                self._logger.log(Severity.WARNING, message)
            if not script.builds:
                self._logger.log(Severity.ERROR, "no kernel was found for conv")
                return None
            script.flags = config._flags
            script.level = getattr(config.__dict__.get("hardware_compatibility_level"), "name", None)
            return json.dumps({"batch": config._profile._batch, "embed_dim": network._embed_dim}).encode()

    class ICudaEngine(Limited):
        num_io_tensors = property(lambda self: 2)
        device_memory_size_v2 = property(lambda self: 4096)

        def get_tensor_name(self, index):
            return ["images", "embeddings"][index]

        def get_tensor_shape(self, name):
            return (-1, 3, *SIZE) if name == "images" else (-1, self._plan["embed_dim"])

        def get_tensor_dtype(self, name):
            return data_type["UINT8" if name == "images" else "FLOAT"]

        def create_runtime_config(self):
            return IRuntimeConfig()

        def create_execution_context(self, settings=None):
            script.settings = settings
            return IExecutionContext(_plan=self._plan, _logger=self._logger, _addresses={})

        def create_engine_inspector(self):
            return EngineInspector()

    class IRuntimeConfig(Limited):
        def create_runtime_cache(self):
            return IRuntimeCache()

        def set_runtime_cache(self, cache):
            return True

    class IRuntimeCache(Limited):
        def deserialize(self, content):
            script.cache = content
            return True

        def serialize(self):
            return f"compiled for {sorted(set(script.sizes))}".encode()

    class EngineInspector(Limited):
        def get_engine_information(self, layout):
            return script.report or "{}"

    class IExecutionContext(Limited):
        def set_device_memory(self, address, size):
            script.scratch.add((address, size))

        def set_tensor_address(self, name, address):
            self._addresses[name] = address
            return True

        def set_input_shape(self, name, shape):
            smallest, _, largest = self._plan["batch"]
            self._count = shape[0]
            if not smallest <= shape[0] <= largest:
                self._logger.log(Severity.ERROR, f"batch {shape[0]} is outside the profile {smallest}..{largest}")
            return smallest <= shape[0] <= largest

        def execute_async_v3(self, stream_handle):
            if not script.runs:
                self._logger.log(Severity.ERROR, "an illegal memory access was encountered")
                return False
            script.sizes.append(self._count)
            time.sleep(script.pause_s)  # others may run meanwhile, and must not have touched the buffers
            where = "cuda" if stream_handle else "cpu"
            images = _memory(self._addresses["images"], (self._count, 3, *SIZE), "|u1", where)
            found = _memory(self._addresses["embeddings"], (self._count, self._plan["embed_dim"]), "<f4", where)
            with torch.cuda.stream(torch.cuda.ExternalStream(stream_handle)) if stream_handle else nullcontext():
                found.copy_(fake_embeddings(images))
            return True

    class Runtime(Limited):
        def __init__(self, logger):
            self._logger = logger

        def __setattr__(self, name, value):
            if name == "engine_host_code_allowed":
                script.host_code = value
            super().__setattr__(name, value)

        def deserialize_cuda_engine(self, content):
            try:
                return ICudaEngine(_plan=json.loads(content), _logger=self._logger)
            except ValueError:
                self._logger.log(Severity.ERROR, "the engine plan file is not compatible with this version")
                return None

    for cls in (Builder, Runtime, OnnxParser):
        setattr(library, cls.__name__, cls)
    return library


def _memory(address, shape, kind, where):
    """Return a tensor over memory that somebody else owns."""
    if where == "cpu":
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return torch.from_numpy(np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape))
    interface = {"shape": shape, "typestr": kind, "data": (address, False), "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device="cuda")
