"""A checkpoint gives back the same model, bit for bit, or says why it cannot."""

import json
import os
import pickle
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import hat
from hat.errors import CheckpointError, ConfigError, WorkError
from hat.io.artifact import weights_sha256
from hat.io.checkpoint import SHIPPED_MODEL, read_checkpoint_info, shipped_model
from hat.runtime import open_runtime


def test_saving_and_loading_is_bit_equal(tiny_model, tmp_path):
    tiny_model.preprocessing = hat.Preprocessing(height=64, width=32, mean=(0.5, 0.4, 0.3), resize="bicubic")
    folder = hat.save_checkpoint(tiny_model, tmp_path / "run", training={"num_epochs": 3}, metrics={"mAP": 0.5})
    loaded = hat.load_checkpoint(folder)
    own = tiny_model.state_dict()
    assert own.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    assert (loaded.config, loaded.preprocessing) == (tiny_model.config, tiny_model.preprocessing)
    images = torch.randn(3, 3, 64, 32)
    assert torch.equal(loaded(images), tiny_model(images))
    info = read_checkpoint_info(folder)
    assert (info.num_classes, info.training, info.metrics) == (5, {"num_epochs": 3}, {"mAP": 0.5})
    assert info.versions["torch"] == torch.__version__
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    expected = tiny_model(images)
    hat.save_checkpoint(tiny_model.to(memory_format=torch.channels_last), tmp_path)
    torch.testing.assert_close(hat.load_checkpoint(tmp_path)(images), expected, atol=1e-6, rtol=1e-5)


def test_metrics_that_are_no_plain_data_are_refused_before_anything_is_written(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="no plain number"):
        hat.save_checkpoint(tiny_model, tmp_path / "run", metrics={"mAP": torch.tensor(0.5)})
    assert not (tmp_path / "run").exists()


def test_half_a_checkpoint_embeds_alike_and_is_as_small_as_it_says(tiny_model, tmp_path):
    whole, half = (hat.save_checkpoint(tiny_model, tmp_path / str(half), half=half) for half in (False, True))
    images = torch.rand(4, 3, 64, 32)
    expected, loaded = tiny_model(images), hat.load_checkpoint(half)
    cosines = torch.nn.functional.cosine_similarity(loaded(images), expected)
    assert cosines.min() > 0.9999 and not torch.equal(loaded(images), expected)
    own = tiny_model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items() if value.dim() <= 1)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.62 * sizes[0]
    hat.save_checkpoint(loaded, tmp_path / "again", half=True)  # rounding once is rounding for good
    again = hat.load_checkpoint(tmp_path / "again").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in loaded.state_dict().items())


def test_what_is_no_checkpoint_is_refused_with_a_reason(tiny_model, tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a folder with model\.safetensors and config\.json"):
        hat.load_checkpoint(tmp_path)
    folder = hat.save_checkpoint(tiny_model, tmp_path / "run")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        hat.load_checkpoint(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no such file of weights"):
        hat.load_checkpoint(folder)
    for key, value, reason in [
        ("num_classes", 6, r"of another shape: classifiers\.mfe\.weight"),
        ("format_version", 99, "format 99, this version reads up to 1: update hat-reid"),
        ("surprise", 1, "unknown key surprise"),
        ("preprocessing", {"height": 64, "width": 32, "mean": "gray"}, r"preprocessing\.mean"),
    ]:
        hat.save_checkpoint(tiny_model, folder)
        content = json.loads((folder / "config.json").read_text()) | {key: value}
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=reason):
            hat.load_checkpoint(folder)
    for text in ("", "[1, 2]", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            hat.load_checkpoint(folder)


@pytest.fixture
def shipped(tiny_model, tmp_path, monkeypatch):
    """A package that ships the tiny model, and a working folder beside it in which nothing lies."""
    monkeypatch.setattr(hat.io.checkpoint, "__file__", str(tmp_path / "package" / "io" / "checkpoint.py"))
    folder = hat.save_checkpoint(tiny_model, tmp_path / "package" / "models" / SHIPPED_MODEL)
    (folder / "MODEL_CARD.md").touch()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_a_model_ships_whole_or_not_at_all(shipped):
    assert shipped_model() == shipped
    for name in ("MODEL_CARD.md", "config.json", "model.safetensors"):
        (shipped / name).rename(shipped / "elsewhere")
        assert shipped_model() is None
        (shipped / "elsewhere").rename(shipped / name)
    (shipped / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"{SHIPPED_MODEL}: there is no such"):
        open_runtime(SHIPPED_MODEL, "cpu")


def test_the_shipped_model_is_opened_by_its_name_unless_something_of_that_name_is_there(shipped, tiny_model):
    weights = weights_sha256(tiny_model)
    assert weights_sha256(hat.load_checkpoint(SHIPPED_MODEL)) == weights
    info = open_runtime(SHIPPED_MODEL, "cpu").info
    assert (info.name, info.source_sha256) == (SHIPPED_MODEL, weights)
    other = hat.create_model("hat_resnet18", 3, image_size=(64, 32)).eval()
    hat.save_checkpoint(other, SHIPPED_MODEL)
    assert weights_sha256(hat.load_checkpoint(SHIPPED_MODEL)) == weights_sha256(other)
    assert open_runtime(SHIPPED_MODEL, "cpu").info.source_sha256 == weights_sha256(other)


def test_commands_take_the_shipped_model_by_its_name(call, shipped, tiny_model):
    assert json.loads(call("info", SHIPPED_MODEL, "--json")[1])["num_classes"] == 5
    assert call("export", SHIPPED_MODEL, "--to", "onnx", "--out", "model.onnx")[0] == 0
    assert open_runtime("model.onnx", "cpu").info.source_sha256 == weights_sha256(tiny_model)
    Path("pictures").mkdir()
    for index in range(8):
        Image.effect_noise((32, 64), 40 + index).convert("RGB").save(Path("pictures", f"{index}.png"))
    for reference in (SHIPPED_MODEL, f"{SHIPPED_MODEL}@graph"):
        code, told, _ = call("verify", reference, "model.onnx", "--images", "pictures", "--json")
        assert code == 0 and json.loads(told)
    assert SHIPPED_MODEL in call("info", "no-such-model")[2]


def test_a_full_disk_is_one_sentence_and_leaves_the_old_checkpoint(tiny_model, tmp_path, monkeypatch):
    folder = hat.save_checkpoint(tiny_model, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(WorkError, match="cannot be written: No space left on device"):
        hat.save_checkpoint(tiny_model, tmp_path, metrics={"mAP": 1.0})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_loading_runs_no_code_from_the_file(tiny_model, tmp_path):
    """A pickle that would write a file when it is read stays unread, under the name of the weights and as a .pth file."""
    folder, victim = hat.save_checkpoint(tiny_model, tmp_path / "run"), tmp_path / "victim"

    class Bomb:
        def __reduce__(self):
            return open, (str(victim), "w")

    for path in (folder / "model.safetensors", tmp_path / "model.pth"):
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        hat.load_checkpoint(folder)
    with pytest.raises(hat.HatError):
        hat.Embedder.open(tmp_path / "model.pth")
    assert not victim.exists()


def test_load_checkpoint_opens_what_was_written_under_older_names_and_widths(tmp_path):
    """A patch embedding was called to_tokens, and the only stage was as wide as the CNN's last map."""
    model = hat.create_model("hat_resnet18", 3, image_size=(64, 32), depths=(0, 0, 1, 0), widths=(1, 1, 512, 1)).eval()
    folder = hat.save_checkpoint(model, tmp_path)
    state = load_file(folder / "model.safetensors")
    assert any("patch_embed" in name for name in state)
    save_file({name.replace("patch_embed", "to_tokens"): value for name, value in state.items()}, folder / "model.safetensors")
    content = json.loads((folder / "config.json").read_text())
    content["model"]["widths"] = None
    (folder / "config.json").write_text(json.dumps(content))
    loaded, images = hat.load_checkpoint(folder), torch.randn(2, 3, 64, 32)
    assert loaded.config == model.config and torch.equal(loaded(images), model(images))
    assert weights_sha256(loaded) == weights_sha256(model)
    model.load_state_dict({name.replace("patch_embed", "to_tokens"): value for name, value in model.state_dict().items()})
