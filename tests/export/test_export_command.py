"""``hat export`` and ``hat info`` as a user meets them: whole files or none."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import hat
from hat.errors import CheckpointError, UsageError, WorkError
from hat.export import onnx_source, to_onnx
from hat.export.command import written_files
from hat.export.onnx_source import chosen_opset, open_onnx_source, with_input_type
from hat.export.request import TARGETS, ExportRequest, check_ending, export_function
from hat.io.atomic_output import METADATA_FILE, atomic_folder, atomic_output

pytest.importorskip("onnxruntime", reason="the extra export is not installed")


@pytest.fixture(scope="module")
def checkpoint(small_model, tmp_path_factory):
    return hat.save_checkpoint(small_model, tmp_path_factory.mktemp("runs") / "market", metrics={"mAP": 0.25})


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A Market-style data set of flat pictures."""
    root = tmp_path_factory.mktemp("people")
    for split, count in (("bounding_box_train", 6), ("query", 2), ("bounding_box_test", 4)):
        (root / split).mkdir()
        for index in range(count):
            picture = Image.new("RGB", (16, 32), (40 * index, 255 - 40 * index, 90))
            picture.save(root / split / f"{index // 2:04d}_c{index % 2 + 1}s1_{index:06d}_00.jpg")
    return root


def test_an_int8_export_runs_and_tells_what_it_is(checkpoint, people, tmp_path, pixels, reference, call):
    out = tmp_path / "market.int8.onnx"
    arguments = ["export", checkpoint, "--to", "onnx", "--precision", "int8", "--calibration-data", f"market-style={people}"]
    arguments += ["--num-calibration", 4, "--seed", 3, "--max-drop", 0.2, "--option", "report=true", "--out", out, "--json"]
    arguments += ["--option", "exclude=[mfe]"]  # half of the layers whose cost is measured
    code, printed, messages = call(*arguments)
    assert code == 0, messages
    content = json.loads(printed)
    details = content["artifact"]["details"]
    assert content["files"] == {"market.int8.onnx": out.stat().st_size} and content["artifact"]["precision"] == "int8"
    assert content["artifact"]["name"] == "market" and content["artifact"]["metrics"] == {"mAP": 0.25}
    calibration = details["calibration"]
    assert (calibration["num_images"], calibration["seed"], calibration["split"]) == (4, 3, "train")
    assert len(calibration["images"]) == 4 and all(name.startswith("bounding_box_train/") for name in calibration["images"])
    assert details["num_quantized_layers"] > 8 and details["sensitivity"]["layers"]
    assert "exporting to onnx in int8" in messages
    rows = hat.Embedder.open(out).runtime.run(pixels)
    assert (rows * reference).sum(axis=1).min() > 0.9

    before = out.read_bytes()
    code, _, messages = call(*arguments)
    assert code == 2 and "is there already: give another name, or --force" in messages
    assert out.read_bytes() == before

    code, table, _ = call("info", out)
    assert code == 0 and "int8" in table and "LayerNormalization" in table and content["artifact"]["fingerprint"] in table
    metadata = json.loads(call("info", out, "--json")[1])
    assert metadata["built_precision"] == "int8" and metadata["opset"] == 18 and metadata["artifact"] == content["artifact"]
    assert metadata["compute_types"]["Softmax"] == {"float": 3}


def test_a_name_keeps_the_dots_of_its_folder(small_model, tmp_path, call):
    checkpoint = hat.save_checkpoint(small_model, tmp_path / "market.v2")
    code, out, _ = call("export", checkpoint, "--to", "onnx", "--out", tmp_path / "x.onnx", "--json")
    assert code == 0 and json.loads(out)["artifact"]["name"] == "market.v2"


@pytest.mark.parametrize(
    ("request_", "opset"),
    [
        (ExportRequest("x"), 18),
        (ExportRequest("x", "bf16"), 22),
        (ExportRequest("x", "fp8"), 19),
        (ExportRequest("x", "int8"), 19),
        (ExportRequest("x", "int8", options={"scheme": "tensorrt"}), 19),
        (ExportRequest("x", "int8", options={"scheme": "cpu"}), 18),
        (ExportRequest("x", "bf16", opset=18), 18),
    ],
)
def test_the_opset_is_the_lowest_that_has_what_the_precision_needs(request_, opset):
    assert request_.graph_opset == opset


@pytest.mark.parametrize(
    ("out", "better"), [("mymodel", "mymodel.onnx"), ("market.int8", "market.int8.onnx"), ("m.engine", "m.onnx")]
)
def test_check_ending_names_the_file_that_can_be_opened(out, better, tmp_path):
    with pytest.raises(UsageError, match=f"ends in .onnx, got .*: try --out {tmp_path / better}$"):
        check_ending("onnx", tmp_path / out)
    check_ending("onnx", tmp_path / better)
    for name, target in TARGETS.items():
        assert export_function(name).__name__ == target.function.partition(":")[2]


def test_written_files_leaves_neighbors_out(tmp_path):
    out = tmp_path / "m.onnx"
    for name in ("m.bin", "m.onnx.data", "m.onnx.json", "m.onnx.notes"):
        (tmp_path / name).write_bytes(b"another's")
    before = written_files(out)
    out.write_bytes(b"ours")
    os.utime(tmp_path / "m.onnx.data", ns=(1, 1))
    assert list(written_files(out, before)) == [out, tmp_path / "m.onnx.data"]


def test_a_file_keeps_its_opset_unless_another_is_asked_for(small_model, onnx_files):
    source = open_onnx_source(onnx_files["fp32"].path)
    later, int8 = source.with_opset(21), source.request(precision="int8")
    assert [chosen_opset(model, int8) for model in (source, later, small_model)] == [18, 21, 19]
    assert chosen_opset(later, source.request(opset=20)) == 20


def test_export_quantizes_an_onnx_file_as_it_does_the_checkpoint(onnx_files, calibration, tmp_path, pixels):
    source = open_onnx_source(onnx_files["fp32"].path)
    info = to_onnx.export_onnx(source, tmp_path / "x.onnx", source.request(precision="int8", calibration=calibration))
    assert info == onnx_files["int8"].info
    ours, theirs = (hat.Embedder.open(path).runtime.run(pixels) for path in (tmp_path / "x.onnx", onnx_files["int8"].path))
    assert np.array_equal(ours, theirs)

    again = open_onnx_source(tmp_path / "x.onnx")
    kept = to_onnx.export_onnx(again, tmp_path / "floats.onnx", again.request(input_type="float32"))
    assert kept == dataclasses.replace(info, input_type="float32")
    assert np.array_equal(hat.Embedder.open(tmp_path / "floats.onnx").runtime.run(pixels), ours)
    with pytest.raises(UsageError, match="was quantized for a CPU, and TensorRT computes another pattern"):
        to_onnx.build_onnx(again, again.request())
    with pytest.raises(UsageError, match="is quantized already"):
        to_onnx.export_onnx(again, tmp_path / "y.onnx", again.request(calibration=calibration))
    with pytest.raises(UsageError, match="is in fp32 and a graph in fp16 is needed"):
        to_onnx.export_onnx(source, tmp_path / "y.onnx", source.request(precision="fp16"))
    with pytest.raises(UsageError, match="has opset 18 and 20 was asked for"):
        to_onnx.export_onnx(source, tmp_path / "y.onnx", source.request(opset=20))


def test_with_input_type_gives_a_float_graph_a_cast(onnx_files, pixels):
    import onnxruntime

    source = open_onnx_source(onnx_files["fp16"].path)
    there_and_back = with_input_type(with_input_type(source.proto, "float32"), "uint8")
    sessions = [onnxruntime.InferenceSession(proto.SerializeToString()) for proto in (source.proto, there_and_back)]
    first, second = (session.run(None, {"images": pixels})[0] for session in sessions)
    assert np.array_equal(first, second)


def test_open_onnx_source_refuses_what_lies_about_its_precision(onnx_files, tmp_path):
    proto = onnx.load(onnx_files["fp32"].path)
    metadata = {**json.loads(proto.metadata_props[0].value), "precision": "fp16"}
    onnx.helper.set_model_props(proto, {"hat_reid": json.dumps(metadata)})
    onnx.save(proto, tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="it says fp16 and computes in fp32"):
        open_onnx_source(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "onx"], "unknown target 'onx' (did you mean onnx?)"),
        (["--to", "onnx", "--precision", "fp12"], "unknown precision 'fp12'"),
        (["--to", "onnx", "--precision", "int8"], "int8 needs calibration images: name a data set with --calibration-data"),
        (["--to", "onnx", "--calibration-data", "x"], "make int8 and fp8 of floats, and fp32 was asked for"),
        (["--to", "onnx", "--num-calibration", "512"], "--num-calibration: used only to make int8"),
        (["--to", "onnx", "--seed", "0", "--gray-bits", "12"], "--seed, --gray-bits: used only to make int8"),
        (["--to", "onnx", "--max-drop", "0.1"], "make int8 and fp8 of floats, and fp32 was asked for"),
        (["--to", "onnx", "--input", "int32"], "unknown input type 'int32'"),
        (["--to", "onnx", "--batch", "8,1,32"], "--batch is MIN,OPT,MAX"),
        (["--to", "onnx", "--batch", "8"], "--batch is MIN,OPT,MAX"),
        (["--to", "onnx", "--batch", "1,1,1"], "--batch is for engines and servers: a file for onnx takes any batch"),
        (["--to", "onnx", "--device", "cuda:1"], "--device is for engines and servers"),
        (["--to", "openvino"], "a file for openvino ends in .xml"),
        (["--to", "triton"], "triton is a folder"),
        (["--to", "onnx", "--out", "no/x.onnx"], "is no folder: make it first"),
        (["--to", "onnx", "--option", "fast"], "expected an override like"),
        (["--to", "onnx", "--precision", "int8", "--calibration-data", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(arguments, sentence, checkpoint, tmp_path, call):
    code, out, err = call("export", checkpoint, "--out", tmp_path / "x.onnx", *arguments)
    assert code == 2 and sentence in err and "Traceback" not in err and out == ""
    code, _, err = call("export", tmp_path, "--to", "onnx", "--out", tmp_path / "x.onnx")
    assert code == 2 and "is no checkpoint" in err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(small_model, onnx_files, tmp_path, monkeypatch):
    proto = onnx.load(onnx_files["fp32"].path)
    monkeypatch.setattr(to_onnx, "build_onnx", lambda model, request: to_onnx.BuiltGraph(proto))
    path = tmp_path / "x.onnx"

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    path.write_bytes(b"the old one")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(WorkError, match="cannot be written: No space left on device"):
            to_onnx.export_onnx(small_model, tmp_path / "new.onnx")
        with pytest.raises(WorkError):
            to_onnx.export_onnx(small_model, path, ExportRequest(name="x", overwrite=True))
    assert path.read_bytes() == b"the old one" and len(list(tmp_path.iterdir())) == 1
    to_onnx.export_onnx(small_model, path, ExportRequest(name="x", overwrite=True))
    assert path.stat().st_size > 1_000_000


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hat.io.atomic_output import atomic_output\n"
        "with atomic_output(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(bytes(1000))\n    print('half', flush=True)\n    time.sleep(60)\n"
    )
    path = tmp_path / "x.onnx"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    with process.stdout as printed:
        assert printed.readline() == "half\n"
        process.kill()
        process.wait(timeout=30)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.onnx.") and left.name.endswith(".part")
    with atomic_output(path) as temporary:
        temporary.write_bytes(b"whole")
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"] and path.read_bytes() == b"whole"


def test_atomic_output_moves_sidecars_along_and_leaves_another_build_alone(tmp_path):
    path = tmp_path / "x.engine"
    with atomic_output(path, overwrite=True) as outer:
        with atomic_output(path) as inner:
            inner.write_bytes(b"second")
        assert outer.parent.is_dir(), "a build that runs at the same time is not swept away"
        outer.write_bytes(b"first")
        outer.with_name("x.engine.json").write_text("{}")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"x.engine": b"first", "x.engine.json": b"{}"}
    with pytest.raises(WorkError, match="nothing was written"), atomic_output(tmp_path / "y"):
        pass
    with pytest.raises(WorkError, match="parser"), atomic_output(tmp_path / "y") as temporary:
        temporary.write_bytes(b"half")
        raise WorkError("the parser said no")
    assert len(list(tmp_path.iterdir())) == 2


def made_folder(place, content, **options):
    with atomic_folder(place, **options) as folder:
        (folder / METADATA_FILE).write_text(content)


def test_what_appears_while_something_is_made_is_not_replaced_unasked(tmp_path):
    with pytest.raises(UsageError, match="is there already"), atomic_output(tmp_path / "file") as temporary:
        temporary.write_bytes(b"ours")
        (tmp_path / "file").write_bytes(b"theirs")
    with pytest.raises(UsageError, match="is there already"), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / METADATA_FILE).write_text("ours")
        made_folder(tmp_path / "folder", "theirs")
    assert (tmp_path / "file").read_bytes() == b"theirs"
    assert (tmp_path / "folder" / METADATA_FILE).read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_stays_where_the_one_that_replaces_it_is_interrupted(tmp_path, monkeypatch):
    place, rename = tmp_path / "models", Path.rename
    made_folder(place, "old")

    def interrupted(source, target):
        if source.name == place.name and target == place and (source / METADATA_FILE).read_text() == "new":
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made_folder(place, "new", overwrite=True)
    assert (place / METADATA_FILE).read_text() == "old" and list(tmp_path.iterdir()) == [place]


def test_leftovers_of_a_killed_process_are_cleared_and_those_of_longer_names_left_alone(tmp_path):
    left = tmp_path / ".models.abcd_123.part"
    left.mkdir()
    with atomic_folder(tmp_path / "models.v2") as other:
        made_folder(tmp_path / "models", "")
        assert other.is_dir() and not left.exists()
        (other / METADATA_FILE).write_text("")


def test_export_of_an_onnx_file_keeps_its_precision_and_needs_no_tracing(onnx_files, tmp_path, monkeypatch, call):
    monkeypatch.setattr(onnx_source, "trace_onnx", lambda *arguments, **options: pytest.fail("it was traced"))
    code, out, _ = call("export", onnx_files["fp16"].path, "--to", "deepstream", "--out", tmp_path / "deepstream", "--json")
    result = json.loads(out)
    assert (result["artifact"]["precision"], result["artifact"]["input_type"]) == ("fp16", "float32")
    assert set(result["files"]) == {"hat.onnx", "hat_reid.json", "nvinfer_reid.txt", "read_embeddings.py"}
    code, _, _ = call("export", onnx_files["int8"].path, "--to", "triton", "--out", tmp_path / "models", "--json")
    assert code == 0 and "KIND_CPU" in (tmp_path / "models" / "small" / "config.pbtxt").read_text()
