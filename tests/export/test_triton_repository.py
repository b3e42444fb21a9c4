"""A Triton model repository: what Triton is told is what the file is, and what it cannot do is refused."""

import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf import text_format

from hat.errors import ConfigError, UsageError, WorkError
from hat.export.deploy import triton
from hat.export.deploy.triton import TritonOptions, check_tensors, export_triton, instance_kind
from hat.export.deploy.triton_model import TritonPythonModel
from hat.export.request import ExportRequest
from hat.export.tensorrt import builder
from hat.export.to_onnx import export_onnx
from hat.io.artifact import BatchProfile, info_from_json
from hat.io.atomic_output import METADATA_FILE
from hat.io.onnx_file import read_onnx
from hat.io.openvino_file import read_openvino_info
from hat.runtime.onnxruntime_runtime import OnnxRuntime

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("openvino", reason="the extra export is not installed")
model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")

BACKENDS = {"onnx": "fp32", "python-onnx": "fp16", "openvino": "bf16", "python-openvino": "fp32"}


@pytest.fixture(scope="module")
def repository(small_model, tmp_path_factory):
    """One repository with a model for every backend."""
    path = tmp_path_factory.mktemp("triton") / "models"
    infos = {}
    for backend, precision in BACKENDS.items():
        options = {"backend": backend, "model_name": backend, "preferred_batch_sizes": [4, 16], "max_queue_delay_us": 250}
        options |= {"instances": 2, "version": 3}
        request = ExportRequest(name='a "name" \\ é', precision=precision, batch=BatchProfile(opt=4, max=16), options=options)
        infos[backend] = export_triton(small_model, path, request)
    return path, infos


def config_of(folder):
    """The configuration as Triton's own schema reads it, which refuses unknown fields."""
    text = (folder / "config.pbtxt").read_text(encoding="ascii")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters_of(config):
    return {key: value.string_value for key, value in config.parameters.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_triton_is_told_is_what_the_file_is(backend, repository):
    path, infos = repository
    config = config_of(path / backend)
    (images,), (embeddings,), batching = config.input, config.output, config.dynamic_batching
    assert (config.name, config.max_batch_size) == (backend, 16)
    assert config.backend == {"onnx": "onnxruntime", "openvino": "openvino"}.get(backend, "python")
    assert (images.name, images.data_type, images.dims) == ("images", model_config_pb2.TYPE_UINT8, [3, 64, 32])
    expected = ("embeddings", model_config_pb2.TYPE_FP32, [infos[backend].embed_dim])
    assert (embeddings.name, embeddings.data_type, embeddings.dims) == expected
    assert batching.preferred_batch_size == [4, 16] and batching.max_queue_delay_microseconds == 250
    assert batching.default_queue_policy.max_queue_size == 256
    assert [entry.batch_size for entry in config.model_warmup] == [1, 4, 16]
    assert config.model_warmup[0].inputs["images"].dims == [3, 64, 32]
    (group,) = config.instance_group
    assert group.count == 2 and group.kind == (group.KIND_AUTO if backend == "onnx" else group.KIND_CPU)
    parameters = parameters_of(config)
    assert info_from_json(parameters.pop("hat_reid"), "config") == infos[backend]
    assert infos[backend].name == 'a "name" \\ é'
    more = {"openvino": {"ENABLE_BATCH_PADDING": "YES", "HINT_BF16": "YES"}}
    more["onnx"] = {"cudnn_conv_algo_search": "1", "arena_extend_strategy": "1"}
    assert parameters == more.get(backend, {})


def test_instance_kind_keeps_int8_made_for_cpus_off_a_gpu(repository):
    made_for_cpu = replace(repository[1]["onnx"], precision="int8", details={"quantization": {"scheme": "cpu"}})
    assert instance_kind(TritonOptions(), made_for_cpu) == "cpu"
    assert instance_kind(TritonOptions(), repository[1]["onnx"]) == "auto"
    with pytest.raises(UsageError, match="int8 made for CPUs is slow on a GPU"):
        instance_kind(TritonOptions(instance_kind="gpu"), made_for_cpu)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_files_lie_where_triton_looks(backend, repository):
    path, infos = repository
    made = {str(file.relative_to(path / backend)) for file in (path / backend).rglob("*") if file.is_file()}
    files = {"3/model.onnx"} if backend.endswith("onnx") else {"3/model.xml", "3/model.bin"}
    copied = {"3/model.py"} if backend.startswith("python-") else set()
    assert made == {"config.pbtxt", METADATA_FILE} | files | copied
    assert info_from_json((path / backend / METADATA_FILE).read_text(), METADATA_FILE) == infos[backend]
    if backend.endswith("openvino"):
        assert read_openvino_info(path / backend / "3" / "model.xml") == infos[backend]
    else:
        assert OnnxRuntime(path / backend / "3" / "model.onnx", "cpu").info == infos[backend]
    for file in copied:
        source = (path / backend / file).read_text()
        assert not any(words in source for words in ("import hat", "from hat", "from ."))  # it needs nothing of this package


@pytest.mark.parametrize("backend", ["python-onnx", "python-openvino"])
def test_the_model_for_the_python_backend_embeds(backend, repository, pixels, reference, monkeypatch):
    """Faked: `triton_python_backend_utils`, which is Triton's. The real one runs in test_triton_server."""
    utils = types.ModuleType("triton_python_backend_utils")
    utils.Tensor = lambda name, array: (name, array)
    utils.InferenceResponse = dict
    utils.get_input_tensor_by_name = lambda request, name: types.SimpleNamespace(as_numpy=lambda: request[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    path, _ = repository
    told = {key: {"string_value": value} for key, value in parameters_of(config_of(path / backend)).items()}
    where = {"model_repository": str(path / backend), "model_version": "3"}
    where |= {"model_instance_kind": "CPU", "model_instance_device_id": "0"}
    model = TritonPythonModel()
    model.initialize({"model_config": json.dumps({"parameters": told}), **where})
    responses = model.execute([{"images": pixels[:1]}, {"images": pixels[1:6]}, {"images": pixels[6:]}])
    assert [len(response["embeddings"]) for response in responses] == [1, 5, 6]
    embeddings = np.concatenate([response["embeddings"] for response in responses])
    assert float((embeddings * reference).sum(axis=1).min()) > (0.999 if backend == "python-onnx" else 0.999999)


def test_a_file_that_is_not_what_triton_would_be_told_is_caught(repository, small_model, tmp_path):
    path, infos = repository
    file = path / "onnx" / "3" / "model.onnx"
    check_tensors(file, infos["onnx"])
    for wrong in ({"embed_dim": 5}, {"input_type": "float32"}):
        with pytest.raises(WorkError, match="Triton's configuration would say"):
            check_tensors(file, replace(infos["onnx"], **wrong))
    with pytest.raises(WorkError, match="Triton's configuration would say"):
        check_tensors(path / "python-openvino" / "3" / "model.xml", replace(infos["onnx"], embed_dim=5))
    fixed = read_onnx(file)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    (tmp_path / "fixed.onnx").write_bytes(fixed.SerializeToString())
    with pytest.raises(WorkError, match=r"\(2, 3, 64, 32\).* Triton's configuration would say .*\(None, 3, 64, 32\)"):
        check_tensors(tmp_path / "fixed.onnx", infos["onnx"])


@pytest.mark.parametrize(
    ("options", "changes", "error", "words"),
    [
        ({"backend": "keras"}, {}, ConfigError, "triton: backend"),
        ({"model_name": "../up"}, {}, UsageError, "letters, digits"),
        ({"model_name": ".hidden"}, {}, UsageError, "letters, digits"),
        ({"preferred_batch_sizes": [64]}, {}, UsageError, "from 1 to 32"),
        ({"preferred_batch_sizes": [0]}, {}, UsageError, "from 1 to 32"),
        ({}, {"batch": BatchProfile(min=2)}, UsageError, "must begin at 1"),
        ({}, {"input_type": "normalized"}, UsageError, "Triton takes uint8 or float32"),
        ({"max_queue_delay": 1}, {}, UsageError, "no option max_queue_delay"),
        ({"backend": "openvino"}, {}, UsageError, "cannot be held to fp32"),
        ({"backend": "openvino"}, {"precision": "int8"}, UsageError, "cannot be held to fp32"),
        ({"backend": "tensorrt", "instance_kind": "cpu"}, {}, UsageError, "GPUs alone"),
        ({"backend": "tensorrt"}, {}, UsageError, "needs tensorrt_version"),
    ],
)
def test_what_triton_cannot_do_is_refused_and_leaves_nothing(options, changes, error, words, small_model, tmp_path):
    with pytest.raises(error, match=words):
        export_triton(small_model, tmp_path / "models", ExportRequest(name="x", options=options, **changes))
    assert list(tmp_path.iterdir()) == []


def test_other_models_and_strangers_folders_stay(small_model, tmp_path, monkeypatch):
    mine = tmp_path / "hat"
    mine.mkdir()
    (mine / "config.pbtxt").write_text("somebody's")
    other = tmp_path / "detector" / "1"
    other.mkdir(parents=True)
    for overwrite, words in ((False, "is there already"), (True, "was not made by this package and is never replaced")):
        with pytest.raises(UsageError, match=words):
            export_triton(small_model, tmp_path, ExportRequest(name="hat", overwrite=overwrite))
    assert (mine / "config.pbtxt").read_text() == "somebody's"

    export_triton(small_model, tmp_path, ExportRequest(name="reid v1.0"))
    assert config_of(tmp_path / "reid_v1_0").name == "reid_v1_0"
    (tmp_path / "reid_v1_0" / "old").touch()
    again = ExportRequest(name="reid v1.0", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(triton, "config_pbtxt", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_triton(small_model, tmp_path, again)
    assert (tmp_path / "reid_v1_0" / "old").exists()
    export_triton(small_model, tmp_path, again)
    assert not (tmp_path / "reid_v1_0" / "old").exists()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["detector", "hat", "reid_v1_0"]


def test_an_engine_with_another_batch_than_tritons_is_caught(small_model, tmp_path, monkeypatch):
    """Faked: the TensorRT export, which needs a GPU."""

    def build(model, path, request, *, largest):
        info = export_onnx(model, path.with_suffix(".onnx"), request)
        path.with_suffix(".onnx").rename(path)
        return replace(info, batch=BatchProfile(opt=1, max=largest))

    request = ExportRequest(name="x", options={"backend": "tensorrt", "tensorrt_version": "10.3.0"})
    monkeypatch.setattr(triton, "load_tensorrt", lambda variant: types.SimpleNamespace(version="10.9.0.34"))
    with pytest.raises(UsageError, match=r"TensorRT 10\.9\.0\.34 would build .* Triton would open it with 10\.3\.0"):
        export_triton(small_model, tmp_path, request)
    monkeypatch.setattr(triton, "load_tensorrt", lambda variant: types.SimpleNamespace(version="10.3.0.26"))
    monkeypatch.setattr(builder, "export_tensorrt", lambda *args: build(*args, largest=8))
    with pytest.raises(WorkError, match="takes 8 images and Triton would send 32"):
        export_triton(small_model, tmp_path, request)
    monkeypatch.setattr(builder, "export_tensorrt", lambda *args: build(*args, largest=32))
    export_triton(small_model, tmp_path, request)
    config = config_of(tmp_path / "x")
    (group,) = config.instance_group
    assert (config.backend, group.count, group.kind) == ("tensorrt", 1, group.KIND_GPU)
    assert (tmp_path / "x" / "1" / "model.plan").is_file()
