"""A folder for DeepStream: its two configurations say what the model in it is."""

import configparser
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

from hat.errors import ConfigError, UsageError
from hat.export.deploy import deepstream
from hat.export.deploy.deepstream import NVINFER_FILE, ONNX_FILE, READER_FILE, TRACKER_FILE, export_deepstream
from hat.export.onnx_source import open_onnx_source
from hat.export.request import ExportRequest
from hat.export.to_onnx import export_onnx
from hat.io.artifact import BatchProfile, info_from_json
from hat.io.atomic_output import METADATA_FILE
from hat.io.onnx_file import graph_precision, read_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request, onnx_files, tmp_path_factory):
    path = tmp_path_factory.mktemp("deepstream") / "reid"
    options = {"folder": "/opt/models/reid", "gpu_id": 1, "person_class_id": 2, "min_similarity": 0.7, "element": "both"}
    source = open_onnx_source(onnx_files[request.param].path)
    asked = source.request(input_type="float32", batch=BatchProfile(opt=4, max=24), options=options)
    return path, export_deepstream(source, path, asked)


@pytest.fixture
def source(onnx_files):
    return open_onnx_source(onnx_files["fp16"].path)


def nvinfer_of(path):
    parser = configparser.ConfigParser(strict=True)
    parser.read_string((path / NVINFER_FILE).read_text())
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def tracker_of(path):
    first, _, rest = (path / TRACKER_FILE).read_text().partition("\n")
    assert first == "%YAML:1.0"
    return yaml.safe_load(rest)


def test_the_model_takes_floats_and_gives_unit_vectors(exported, pixels, reference):
    session = onnxruntime.InferenceSession(exported[0] / ONNX_FILE, providers=["CPUExecutionProvider"])
    (images,), (embeddings,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(float)", [3, 64, 32])
    assert (embeddings.name, embeddings.type) == ("embeddings", "tensor(float)")
    properties = nvinfer_of(exported[0])
    scale = float(properties["net-scale-factor"])
    offsets = np.array([float(value) for value in properties["offsets"].split(";")], np.float32).reshape(1, 3, 1, 1)
    # What nvinfer feeds by its documentation: y = net-scale-factor * (x - offsets).
    (rows,) = session.run(None, {"images": scale * (pixels.astype(np.float32) - offsets)})
    assert float((rows * reference).sum(axis=1).min()) > (0.999999 if exported[1].precision == "fp32" else 0.999)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_nvinfer_and_the_tracker_are_told_what_the_model_is(exported):
    path, info = exported
    properties = nvinfer_of(path)
    expected = {"batch-size": "24", "gpu-id": "1", "infer-dims": "3;64;32", "model-color-format": "0"}
    expected |= {"network-input-order": "0", "network-type": "100", "process-mode": "2", "maintain-aspect-ratio": "0"}
    expected |= {"output-tensor-meta": "1", "output-blob-names": "embeddings", "onnx-file": ONNX_FILE}
    expected |= {"operate-on-gie-id": "1", "operate-on-class-ids": "2", "gie-unique-id": "2"}
    expected |= {"network-mode": {"fp32": "0", "fp16": "2"}[info.precision], "model-engine-file": "hat.engine"}
    assert {key: properties[key] for key in expected} == expected

    tracker = tracker_of(path)
    expected = {"reidType": 2, "batchSize": 24, "workspaceSize": 1000, "reidFeatureSize": info.embed_dim}
    expected |= {"reidHistorySize": min(100, 32_000_000 // (4 * 150 * info.embed_dim))}
    expected |= {"inferDims": [3, 64, 32], "inputOrder": 0}
    expected |= {"networkMode": {"fp32": 0, "fp16": 1}[info.precision], "offsets": [0.0, 0.0, 0.0], "netScaleFactor": 1.0}
    expected |= {"colorFormat": 0, "keepAspc": 0, "addFeatureNormalization": 0, "outputReidTensor": 1}
    expected |= {"onnxFile": "/opt/models/reid/hat.onnx", "modelEngineFile": "/opt/models/reid/hat.engine"}
    assert tracker["ReID"] == expected
    assert tracker["TrajectoryManagement"]["enableReAssoc"] == 1
    assert tracker["TrajectoryManagement"]["minMatchingScore4ReidSimilarity"] == 0.7
    assert {"BaseConfig", "TargetManagement", "DataAssociator", "StateEstimator", "VisualTracker"} <= set(tracker)
    weights = [value for key, value in tracker["DataAssociator"].items() if key.startswith("matchingScoreWeight")]
    assert sum(weights) == pytest.approx(1)


@pytest.mark.parametrize(("embed_dim", "expected"), [(64, 100), (2048, 26), (4096, 13), (4_000_000, 1)])
def test_history_size_follows_the_width_of_an_embedding(embed_dim, expected):
    info = types.SimpleNamespace(embed_dim=embed_dim)
    assert deepstream.history_size(info, deepstream.DeepStreamOptions()) == expected
    assert deepstream.history_size(info, deepstream.DeepStreamOptions(history_size=7)) == 7


def test_the_folder_holds_its_metadata_and_a_reader_that_knows_the_width(exported):
    path, info = exported
    assert {file.name for file in path.iterdir()} == {ONNX_FILE, NVINFER_FILE, READER_FILE, TRACKER_FILE, METADATA_FILE}
    assert info_from_json((path / METADATA_FILE).read_text(), METADATA_FILE) == info
    assert (info.input_type, info.batch, info.details["onnx"]) == ("float32", BatchProfile(opt=4, max=24), ONNX_FILE)
    assert graph_precision(read_onnx(path / ONNX_FILE)) == info.precision  # in the graph, so that an engine is strongly typed
    text = (path / READER_FILE).read_text()
    compile(text, READER_FILE, "exec")
    assert f"EMBED_DIM = {info.embed_dim}\n" in text and "STAGE = 2" in text


def test_paths_are_those_of_the_folder_unless_said_otherwise(source, small_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_deepstream(source, "reid", ExportRequest("x", "fp16", "float32", options={"element": "tracker"}))
    assert {file.name for file in (tmp_path / "reid").iterdir()} == {ONNX_FILE, TRACKER_FILE, METADATA_FILE}
    assert Path(tracker_of(tmp_path / "reid")["ReID"]["onnxFile"]) == tmp_path / "reid" / ONNX_FILE
    with monkeypatch.context() as patch:  # a trained model would be traced for floats first
        patch.setattr(deepstream, "export_onnx", lambda model, *arguments: export_onnx(source, *arguments))
        info = export_deepstream(small_model, "embedder")
    assert (info.name, info.precision, info.input_type) == ("embedder", "fp16", "float32")
    assert not (tmp_path / "embedder" / TRACKER_FILE).exists(), "nobody is embedded twice unasked"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"precision": "fp16", "input_type": "uint8"}, UsageError, "feeds floats"),
        ({"precision": "int8"}, UsageError, "would take fp16 in its place"),
        ({"precision": "bf16"}, UsageError, "cannot build bf16"),
        ({"options": {"gpu": 1}}, ConfigError, "unknown key gpu"),
        ({"options": {"min_similarity": 2}}, ConfigError, "min_similarity"),
        ({"options": {"folder": "models"}}, UsageError, "absolute path"),
        ({"options": {"folder": '/a"b'}}, UsageError, "absolute path"),
        ({"options": {"engine": True, "gpu_id": 1}, "device": "cuda:0"}, UsageError, "name one GPU"),
        ({"batch": BatchProfile(min=4, opt=8, max=32)}, UsageError, "must begin at 1, got 4"),
    ],
)
def test_what_deepstream_cannot_do_is_refused_and_leaves_nothing(changes, error, words, small_model, tmp_path):
    with pytest.raises(error, match=words):
        export_deepstream(small_model, tmp_path / "reid", ExportRequest(**{"name": "x", "input_type": "float32"} | changes))
    assert list(tmp_path.iterdir()) == []


def test_a_strangers_folder_stays(small_model, tmp_path):
    (tmp_path / "mine").write_text("x")
    for overwrite, words in ((False, "is there already"), (True, "never replaced")):
        with pytest.raises(UsageError, match=words):
            export_deepstream(small_model, tmp_path, ExportRequest("x", input_type="float32", overwrite=overwrite))
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_the_engine_is_built_of_the_model_in_the_folder_where_it_is_asked_for(source, tmp_path, monkeypatch):
    """Faked: the builder, which needs a GPU."""
    from hat.export.tensorrt import builder

    def build(onnx, path, *, profile, device):
        assert (onnx.name, profile, device) == (ONNX_FILE, BatchProfile(opt=4, max=24), "cuda:1") and onnx.is_file()
        path.write_bytes(b"engine")

    monkeypatch.setattr(builder, "build_engine", build)
    options = {"engine": True, "gpu_id": 1}
    request = ExportRequest("x", "fp16", "float32", batch=BatchProfile(opt=4, max=24), options=options)
    export_deepstream(source, tmp_path / "reid", request)
    assert (tmp_path / "reid" / nvinfer_of(tmp_path / "reid")["model-engine-file"]).read_bytes() == b"engine"
