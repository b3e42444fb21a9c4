"""ONNX files from strangers: refused with one sentence, before any runtime opens them."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hat.errors import CheckpointError
from hat.io import onnx_file
from hat.io.onnx_file import read_onnx, read_own_onnx
from hat.runtime import open_runtime


def model_with(tensor=None, attribute_tensor=None):
    """y = x + w, or with a constant node, or with a graph inside a node that holds the tensor."""
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, [4]), value("y", TensorProto.FLOAT, [4])
    nodes, weights = [helper.make_node("Relu", ["x"], ["y"])], []
    if tensor is not None:
        nodes, weights = [helper.make_node("Add", ["x", "w"], ["y"])], [tensor]
    if attribute_tensor is not None:
        constant = helper.make_node("Constant", [], ["w"], value=attribute_tensor)
        inner = helper.make_graph([constant, helper.make_node("Add", ["x", "w"], ["z"])], "inner", [], [value("z", 1, [4])])
        condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
        nodes = [condition, helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights))


def external(location, offset=None, length=None):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def written(folder, proto):
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_weights_beside_the_file_are_fine(tmp_path):
    (tmp_path / "model.onnx.data").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    path = written(tmp_path, model_with(external("model.onnx.data", 16, 16)))
    assert read_onnx(path).graph.initializer[0].external_data[0].value == "model.onnx.data"


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/../../secret", "sub/secret", "..\\secret", "C:\\secret", "", ".", "..", "x\0y"]
)
@pytest.mark.parametrize("inside_a_node", [False, True])
def test_weights_from_anywhere_else_are_refused(location, inside_a_node, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret", folder / "sub" / "secret"):
        secret.write_bytes(bytes(64))
    tensor = external(location, 0, 16)
    path = written(folder, model_with(attribute_tensor=tensor) if inside_a_node else model_with(tensor))
    with pytest.raises(CheckpointError, match=r"refused, since|is not beside it"):
        read_onnx(path)
    with pytest.raises(CheckpointError):
        open_runtime(path)


def test_weights_behind_a_link_or_missing_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "folder").mkdir()
    path = written(tmp_path / "folder", model_with(external("w.data", 0, 16)))
    with pytest.raises(CheckpointError, match=r"its weights are in 'w\.data', which is not beside it: copy both files"):
        read_onnx(path)
    (tmp_path / "folder" / "w.data").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="is a link or no ordinary file"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("offset", "length", "sentence"),
    [
        (0, 65, "end at byte 65 of 'w.data', which has 64"),
        (64, 16, "end at byte 80"),
        (-16, 16, "end at byte 0"),
        (0, -1, "end at byte -1"),
        ("zero", 16, "is no number"),
    ],
)
def test_weights_outside_of_their_file_are_refused(offset, length, sentence, tmp_path):
    (tmp_path / "w.data").write_bytes(bytes(64))
    path = written(tmp_path, model_with(external("w.data", offset, length)))
    with pytest.raises(CheckpointError, match=sentence):
        read_onnx(path)


@pytest.mark.parametrize("content", [b"", b"\x08", b"GIF89a" * 100, b"\xff" * 1000, b"{}"], ids=repr)
def test_damaged_files_are_one_sentence(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for read in (read_onnx, read_own_onnx, open_runtime):
        with pytest.raises(CheckpointError, match="damaged or no ONNX file"):
            read(path)


def test_files_cut_anywhere_never_raise_anything_else(tmp_path):
    whole = model_with(numpy_helper.from_array(np.ones(4, np.float32), "w")).SerializeToString()
    path = tmp_path / "model.onnx"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            read_own_onnx(path)


def test_sizes_are_bounded_before_anything_is_read(tmp_path, monkeypatch):
    path = written(tmp_path, model_with())
    monkeypatch.setattr(onnx_file, "MAX_ONNX_BYTES", 10)
    with pytest.raises(CheckpointError, match="an ONNX file has at most 10"):
        read_onnx(path)
    monkeypatch.setattr(onnx_file, "MAX_ONNX_BYTES", 2**31)
    monkeypatch.setattr(onnx_file, "MAX_EXTERNAL_BYTES", 63)
    (tmp_path / "w.data").write_bytes(bytes(64))
    with pytest.raises(CheckpointError, match="64 bytes of weights beside it, the limit is 63"):
        read_onnx(written(tmp_path, model_with(external("w.data", 0, 16))))


def test_what_is_no_ordinary_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")  # opening it would wait for ever
    with pytest.raises(CheckpointError, match="not an ordinary file"):
        read_onnx(tmp_path / "pipe.onnx")
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_onnx(tmp_path / "nothing.onnx")


def test_metadata_of_another_program_or_a_stranger_is_checked(tmp_path):
    proto = model_with()
    with pytest.raises(CheckpointError, match="was not made by hat export: its metadata has no 'hat_reid'"):
        open_runtime(written(tmp_path, proto))
    for metadata in ("", "[]", "{", '{"format_version": 99}', '{"name": 3}'):
        onnx.helper.set_model_props(proto, {"hat_reid": metadata})
        with pytest.raises(CheckpointError, match=r"model\.onnx"):
            open_runtime(written(tmp_path, proto))
