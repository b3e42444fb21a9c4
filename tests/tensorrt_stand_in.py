"""A stand-in for the TensorRT libraries, for contract tests on machines without a GPU. NOTHING here runs TensorRT.

It has the classes that this package uses, and of each no more names than the real library of that version. The names in
`tensorrt_surfaces.json` are those that the Python bindings of the wheels tensorrt-cu12-bindings 10.3.0, tensorrt-cu13-bindings
10.16.1.11 and 11.4.0.106 and tensorrt-rtx 1.7.1.116 define; every other raises AttributeError, as it does there, so that a call
which a version lacks fails a test. What calls do is made up: an engine is a JSON text and embeds an image by its first pixels.
"""

import ctypes
import enum
import json
import time
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

SURFACES = json.loads(Path(__file__).with_name("tensorrt_surfaces.json").read_text())
VERSIONS = {"10.3.0": "10.3.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106", "rtx": "rtx 1.7.1.116"}
L4 = Gpu(0, "Stand-in L4", (8, 9))
SIZE, EMBED_DIM = (64, 32), 16


class StandInTensorRT(TensorRT):
    """Takes the CPU for its GPU, so that buffers are real memory and nothing else is."""

    def device(self, device):
        return torch.device("cpu")


def stand_in(version, gpu=L4):
    """(TensorRT around a stand-in for a version, its script: what the stand-in is to do and what it was asked)."""
    script = SimpleNamespace(
        parser_errors=[],
        layer_types=None,
        builds=True,
        report=None,
        refits=True,
        missing=[],
        runs=True,
        starts=True,
        timing_caches=[],
        flags=None,
        network_flags=None,
        targets=[],
        host_code=False,
        graphs=None,
        pause_s=0,
    )
    library = _library(VERSIONS[version], script)
    flavor = "tensorrt-rtx" if version == "rtx" else "tensorrt"
    return StandInTensorRT(library, flavor, lambda index: gpu), script


def small_info(precision="fp32", **changes):
    facts = {
        "name": "small",
        "model": ModelConfig(image_size=SIZE),
        "preprocessing": Preprocessing(height=SIZE[0], width=SIZE[1]),
        "embed_dim": EMBED_DIM,
        "precision": precision,
        "source_sha256": "0" * 64,
        "fingerprint": "1" * 64,
        "versions": {"hat-reid": "0"},
    }
    return ArtifactInfo(**(facts | changes))


def small_onnx(precision="fp32", *, computes=None, info=None, seed=0, operator="Conv"):
    """Bytes of a network of one convolution and one matrix product that says ``precision`` and computes in ``computes``."""
    computes = computes or precision
    random = np.random.default_rng(seed)
    wide = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}.get(computes, TensorProto.FLOAT)
    weights = {
        "kernel": random.normal(size=(8, 3, 16, 16)) / 100,
        "matrix": random.normal(size=(64, EMBED_DIM)),
    }
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=wide)]
    initializers = []
    for name, value in weights.items():
        tensor = numpy_helper.from_array(value.astype(np.float32), name)
        if wide == TensorProto.BFLOAT16:
            tensor = helper.make_tensor(name, wide, value.shape, value.flatten().tolist())
        elif wide == TensorProto.FLOAT16:
            tensor = numpy_helper.from_array(value.astype(np.float16), name)
        if computes == "int8":
            scale = np.float32(np.abs(value).max() / 127)
            tensor = numpy_helper.from_array(np.round(value / scale).astype(np.int8), f"{name}_q")
            initializers.append(numpy_helper.from_array(scale, f"{name}_scale"))
            initializers.append(numpy_helper.from_array(np.int8(0), f"{name}_zero"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], [name]))
        initializers.append(tensor)

    def quantized(name):
        if computes != "int8":
            return name
        initializers.append(numpy_helper.from_array(np.float32(1), f"{name}_scale"))
        initializers.append(numpy_helper.from_array(np.int8(0), f"{name}_zero"))
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], [f"{name}_dq"]))
        return f"{name}_dq"

    initializers.append(numpy_helper.from_array(np.array([0, -1], dtype=np.int64), "flat"))
    nodes.append(helper.make_node(operator, [quantized("pixels"), "kernel"], ["maps"], strides=[16, 16], name="conv"))
    nodes.append(helper.make_node("Reshape", ["maps", "flat"], ["vector"]))
    nodes.append(helper.make_node("MatMul", [quantized("vector"), "matrix"], ["product"], name="matmul"))
    nodes.append(helper.make_node("Cast", ["product"], ["single"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("LpNormalization", ["single"], ["embeddings"], axis=1, p=2))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, *SIZE])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", EMBED_DIM])],
        initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22 if wide == TensorProto.BFLOAT16 else 18)])
    proto.ir_version = 9
    helper.set_model_props(proto, {METADATA_KEY: info_to_json(info or small_info(precision))})
    return proto.SerializeToString()


def embed_like_the_stand_in(images):
    """What the stand-in's engines do: (n, 3, H, W) uint8 -> (n, EMBED_DIM) unit vectors."""
    pixels = images.reshape(len(images), int(np.prod(images.shape[1:])))[:, :EMBED_DIM].astype(np.float32) + 1
    return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def _library(version, script):
    surface = {name: set(members.split()) for name, members in SURFACES[version].items()}

    def members(name):
        return enum.IntEnum(name, [(member, value) for value, member in enumerate(sorted(surface[name] - {"name", "value"}))])

    def limited(real_name):
        """Forbid on a class every name that the real class does not have."""
        allowed = surface[real_name]

        def decorate(cls):
            original = cls.__getattribute__

            def getattribute(self, name):
                if not name.startswith("_") and name not in allowed:
                    raise AttributeError(f"{real_name} of {version} has no {name}")
                return original(self, name)

            def setattribute(self, name, value):
                if not name.startswith("_") and name not in allowed:
                    raise AttributeError(f"{real_name} of {version} has no {name}")
                object.__setattr__(self, name, value)

            cls.__getattribute__, cls.__setattr__ = getattribute, setattribute
            return cls

        return decorate

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        pass

    ILogger.Severity = Severity
    data_type = enum.IntEnum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "FP8", "UINT8", "INT64"])
    library = SimpleNamespace(
        __version__=version.split()[-1], ILogger=ILogger, DataType=data_type,
        **{name: members(name) for name in _ENUMS if name in surface},
    )  # fmt: skip

    def fail(logger, message):
        logger.log(Severity.ERROR, message)

    def layer(kind, number, inputs, outputs):
        return SimpleNamespace(
            type=SimpleNamespace(name=kind), num_inputs=len(inputs), num_outputs=len(outputs),
            get_input=lambda index: inputs[index], get_output=lambda index: outputs[index],
        )  # fmt: skip

    def tensor(name, kind, shape=()):
        return SimpleNamespace(name=name, dtype=data_type[kind], shape=shape)

    @limited("INetworkDefinition")
    class Network:
        def __init__(self):
            self._layers, self._outputs, self._inputs = [], [], []

        num_inputs = property(lambda self: len(self._inputs))
        num_outputs = property(lambda self: len(self._outputs))
        num_layers = property(lambda self: len(self._layers))

        def get_input(self, index):
            return self._inputs[index]

        def get_output(self, index):
            return self._outputs[index]

        def get_layer(self, index):
            return self._layers[index]

    @limited("OnnxParser")
    class OnnxParser:
        def __init__(self, network, logger):
            self._network = network

        num_errors = property(lambda self: len(script.parser_errors))

        def get_error(self, index):
            node, operator, words = script.parser_errors[index]
            return SimpleNamespace(
                node=lambda: index, node_name=lambda: node, node_operator=lambda: operator, desc=lambda: words
            )

        def parse(self, content):
            if script.parser_errors:
                return False
            proto = onnx.load_model_from_string(content)
            (output,) = proto.graph.output
            types = script.layer_types or ["FLOAT"]
            width = output.type.tensor_type.shape.dim[1].dim_value
            self._network._inputs.append(tensor("images", "UINT8", (-1, 3, *SIZE)))
            self._network._outputs.append(tensor("embeddings", "FLOAT", (-1, width)))
            for number, kind in enumerate(types):
                made = tensor(f"t{number}", kind)
                self._network._layers.append(layer("CONVOLUTION", number, [tensor("x", kind)], [made]))
            return True

        def parse_from_file(self, path):
            return self.parse(Path(path).read_bytes())

    @limited("ITimingCache")
    class TimingCache:
        def __init__(self, content):
            self._content = content

        def serialize(self):
            return b"timed on " + library.__version__.encode()

    @limited("IBuilderConfig")
    class BuilderConfig:
        def __init__(self, logger):
            self._logger, self._flags, self._profiles, self._cache = logger, {library.BuilderFlag.TF32}, [], None
            self._targets = []

        def set_flag(self, flag):
            self._flags.add(library.BuilderFlag(flag))

        def clear_flag(self, flag):
            self._flags.discard(flag)

        def add_optimization_profile(self, profile):
            self._profiles.append(profile)
            return 0

        def create_timing_cache(self, content):
            script.timing_caches.append(content)
            return TimingCache(content)

        def set_timing_cache(self, cache, ignore_mismatch):
            if cache._content not in (b"", b"timed on " + library.__version__.encode()):
                fail(self._logger, "cache of another device")
                return False
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

        def set_compute_capability(self, target, index):
            self._targets.append(target.name)
            return True

        def set_memory_pool_limit(self, pool, size):
            self._pool = (pool, size)

    @limited("IOptimizationProfile")
    class OptimizationProfile:
        def set_shape(self, name, smallest, tuned, largest):
            self._shapes = (smallest, tuned, largest)

    @limited("Builder")
    class Builder:
        def __init__(self, logger):
            self._logger = logger
            if not script.starts:
                fail(logger, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags=0):
            script.network_flags = flags
            return Network()

        def create_builder_config(self):
            return BuilderConfig(self._logger)

        def create_optimization_profile(self):
            return OptimizationProfile()

        def build_serialized_network(self, network, config):
            if not script.builds:
                fail(self._logger, "no kernel was found for conv")
                return None
            script.flags = {flag.name for flag in config._flags}
            script.targets = config._targets
            (profile,) = config._profiles
            plan = {"batch": [shape[0] for shape in profile._shapes], "embed_dim": network.get_output(0).shape[1]}
            plan["refittable"] = bool(script.flags & {"REFIT", "REFIT_IDENTICAL"})
            return json.dumps(plan).encode()

    @limited("ICudaEngine")
    class Engine:
        def __init__(self, plan, logger):
            self._plan, self._logger = plan, logger
            self._tensors = {
                "images": ("UINT8", (-1, 3, *SIZE)),
                "embeddings": ("FLOAT", (-1, plan["embed_dim"])),
            }

        refittable = property(lambda self: self._plan["refittable"])
        num_io_tensors = property(lambda self: len(self._tensors))

        def get_tensor_name(self, index):
            return list(self._tensors)[index]

        def get_tensor_shape(self, name):
            return self._tensors[name][1]

        def get_tensor_dtype(self, name):
            return data_type[self._tensors[name][0]]

        def create_runtime_config(self):
            return RuntimeConfig()

        def create_execution_context(self, settings=None):
            script.graphs = getattr(settings, "cuda_graph_strategy", None)
            return Context(self)

        def create_engine_inspector(self):
            return Inspector()

        def create_serialization_config(self):
            return SerializationConfig()

        def serialize_with_config(self, config):
            return json.dumps(self._plan | {"refitted": True, "excluded": sorted(config._flags)}).encode()

    @limited("ISerializationConfig")
    class SerializationConfig:
        def __init__(self):
            self._flags = {"EXCLUDE_WEIGHTS"}

        def clear_flag(self, flag):
            self._flags.discard(flag.name)

        def set_flag(self, flag):
            self._flags.add(flag.name)

    class RuntimeConfig:
        if "IRuntimeConfig" in surface:

            def __setattr__(self, name, value):
                if name not in surface["IRuntimeConfig"]:
                    raise AttributeError(f"IRuntimeConfig of {version} has no {name}")
                object.__setattr__(self, name, value)

    @limited("EngineInspector")
    class Inspector:
        def get_engine_information(self, layout):
            return json.dumps(
                script.report if script.report is not None else {"Layers": [], "Bindings": ["images", "embeddings"]}
            )

    @limited("IExecutionContext")
    class Context:
        def __init__(self, engine):
            self._engine, self._addresses, self._shape = engine, {}, None

        def set_tensor_address(self, name, address):
            self._addresses[name] = address
            return True

        def set_input_shape(self, name, shape):
            smallest, _, largest = self._engine._plan["batch"]
            self._shape = shape if smallest <= shape[0] <= largest else None
            if self._shape is None:
                fail(self._engine._logger, f"batch {shape[0]} is outside the profile {smallest}..{largest}")
            return self._shape is not None

        def execute_async_v3(self, stream_handle):
            if not script.runs:
                fail(self._engine._logger, "an illegal memory access was encountered")
                return False
            time.sleep(script.pause_s)  # others may run meanwhile, and must not have touched the buffers
            count, width = self._shape[0], self._engine._plan["embed_dim"]
            images = _memory(self._addresses["images"], ctypes.c_uint8, int(np.prod(self._shape))).reshape(self._shape)
            _memory(self._addresses["embeddings"], ctypes.c_float, count * width)[:] = embed_like_the_stand_in(images).ravel()
            return True

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def __setattr__(self, name, value):
            if not name.startswith("_") and name not in surface["Runtime"]:
                raise AttributeError(f"Runtime of {version} has no {name}")
            if name == "engine_host_code_allowed":
                script.host_code = value
            object.__setattr__(self, name, value)

        def deserialize_cuda_engine(self, content):
            try:
                return Engine(json.loads(content), self._logger)
            except ValueError:
                fail(self._logger, "the engine plan file is not compatible with this version")
                return None

    @limited("Refitter")
    class Refitter:
        def __init__(self, engine, logger):
            self._engine = engine

        def get_missing_weights(self):
            return script.missing

        def refit_cuda_engine(self):
            return script.refits

    @limited("OnnxParserRefitter")
    class OnnxParserRefitter:
        def __init__(self, refitter, logger):
            pass

        num_errors = property(lambda self: len(script.parser_errors))
        get_error = OnnxParser.get_error

        def refit_from_bytes(self, content):
            return not script.parser_errors

    for cls in (Builder, Runtime, OnnxParser, Refitter, OnnxParserRefitter):
        setattr(library, cls.__name__, cls)
    return library


_ENUMS = (
    "BuilderFlag", "NetworkDefinitionCreationFlag", "SerializationFlag", "HardwareCompatibilityLevel", "MemoryPoolType",
    "ComputeCapability", "CudaGraphStrategy", "LayerInformationFormat", "ProfilingVerbosity",
)  # fmt: skip


def _memory(address, kind, count):
    return np.ctypeslib.as_array((kind * count).from_address(address))
