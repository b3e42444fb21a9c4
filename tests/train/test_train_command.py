"""`hat train` as a user meets it."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_run import NUM_PIDS, options_of_a_run
from typer.testing import CliRunner

import hat
from hat.cli import app
from hat.config import config_from_dict
from hat.data import open_dataset
from hat.data.csv_table import write_csv_table
from hat.errors import ConfigError, DataError, HatError, ImageError, UsageError
from hat.model.backbone import import_torchvision
from hat.train import TrainConfig


def invoke(*arguments):
    """Run the command in this process: its standard output, or the error that the command line would print."""
    result = CliRunner().invoke(app, ["train", *arguments])
    if isinstance(result.exception, HatError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_images_to_a_model_in_real_processes(market_folder, tmp_path):
    out = tmp_path / "first"
    more = ["--data", f"market-style={market_folder}", "--epochs", "2", "--set", "eval.every_epochs=2", "--json"]
    command = [sys.executable, "-m", "hat", "train", *options_of_a_run(market_folder, out), *more]
    done = subprocess.run(command, capture_output=True, timeout=180, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["folder"] == str(out) and result["best"]["epoch"] == 2
    assert f"48 images of {2 * NUM_PIDS} identities" in done.stderr.replace("\n", " ")
    model = hat.load_checkpoint(out)
    assert model.num_classes == 2 * NUM_PIDS and model.config.image_size == (32, 16)
    evaluated = hat.evaluate(hat.Embedder.open(out, device="cpu"), hat.load_dataset("market-style", market_folder))
    assert evaluated.mAP == pytest.approx(result["best"]["mAP"], abs=1e-6)
    assert yaml.safe_load((out / "config.yaml").read_text())["num_epochs"] == 2
    told = json.loads((out / "config.json").read_text())
    assert told["training"]["optim"]["lr"] == 4e-4 and told["metrics"]["mAP"] == result["best"]["mAP"]
    assert told["metrics"]["dataset"] == "tiny"

    again = subprocess.run(command, capture_output=True, timeout=180, text=True, check=False)
    assert again.returncode == 2 and again.stdout == ""
    assert "is not empty; go on with --resume" in again.stderr and "Traceback" not in again.stderr


def test_a_processor_without_the_instructions_for_bf16_is_told_of(market_folder, tmp_path, monkeypatch, call):
    (tmp_path / "cpuinfo").write_text("flags : avx2 fma\n")
    monkeypatch.setattr("hat.processor._CPUINFO", tmp_path / "cpuinfo")
    options = options_of_a_run(market_folder, tmp_path / "run", compute={"precision": "bf16"})
    told = " ".join(call("train", *options, "--stop-after-s", "0.01")[2].split())
    assert "bf16 on cpu" in told and "no instructions for bf16" in told


def test_print_config_is_the_whole_recipe_and_reads_back():
    printed = invoke("market1501", "--print-config")
    assert "model_name: hat_resnet50" in printed and "num_identities: 16" in printed
    assert config_from_dict(TrainConfig, yaml.safe_load(printed)) == TrainConfig()
    changes = ("--model", "hat_mobilenet_v2", "--set", "model.depths=[3,3,3,3]", "--epochs", "7")
    changed = yaml.safe_load(invoke("market1501", "--print-config", *changes))
    assert (changed["model_name"], changed["model"]["depths"], changed["num_epochs"]) == ("hat_mobilenet_v2", [3, 3, 3, 3], 7)
    assert changed["model"]["backbone"]["name"] == "mobilenet_v2"
    assert json.loads(invoke("quick", "--print-config", "--json"))["backbone_weights"] == "none"
    taught = json.loads(invoke("market1501-edge", "--print-config", "--json", "--teacher", "runs/market"))
    assert taught["distill"]["teacher"] == "runs/market" and taught["distill"]["embedding_weight"] == 100.0


@pytest.mark.parametrize(
    ("preset", "epochs", "warmup"), [("quick", 1, 0.1667), ("market1501-edge", 5, 0.1042), ("quick", 2, 1)]
)
def test_warm_up_fits_into_a_short_run(preset, epochs, warmup):
    result = CliRunner().invoke(app, ["train", preset, "--print-config", "--json", "--epochs", str(epochs)])
    assert json.loads(result.stdout)["schedule"]["warmup_epochs"] == warmup
    assert ("is shortened to" in result.stderr) == (epochs != 2)
    asked = ["train", preset, "--print-config", "--epochs", "1", "--set", "schedule.warmup_epochs=1"]
    assert "leaves nothing of num_epochs=1" in str(CliRunner().invoke(app, asked).exception)


def test_help_has_examples_and_needs_no_torch():
    code = (
        "import sys; sys.argv = ['hat', 'train', '--help']\n"
        "import hat.cli\n"
        "try:\n    hat.cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "one folder a person" in " ".join(done.stdout.split())
    assert "Examples:" in done.stdout and "--backbone-weights" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("market15", "unknown preset 'market15' (did you mean market1501?)"),
        ("market1501", "give --data DIR"),
        ("market1501 --data x", "give --out"),
        ("market1501 --set optim.rate=1", "unknown key optim.rate"),
        ("market1501 --set optim.lr", "expected an override like optim.lr=3e-4"),
        ("market1501 --epochs 0", "num_epochs"),
        ("market1501 --model hat_resnet5", "unknown model 'hat_resnet5'"),
        ("market1501 --config nowhere.yaml", "nowhere.yaml cannot be read"),
        ("market1501 --data nowhere --out run", "nowhere"),
    ],
)
def test_wrong_requests(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(message)):
        invoke(*arguments.split())
    assert not list(tmp_path.iterdir())


def test_backbone_weights_are_never_guessed_and_come_from_a_file(market_folder, tmp_path):
    out = tmp_path / "run"
    options = options_of_a_run(market_folder, out, num_epochs=1)
    with pytest.raises(ConfigError, match="say --backbone-weights"):
        invoke(*options, "--set", "backbone_weights=null")
    with pytest.raises(HatError, match="no such file"):
        invoke(*options, "--backbone-weights", str(tmp_path / "nowhere.pth"))
    assert not out.exists()

    torch.manual_seed(3)
    library = import_torchvision("models").mobilenet_v3_small(weights=None)
    torch.save(library.state_dict(), tmp_path / "imagenet.pth")
    # With a rate of next to nothing the backbone ends as it began.
    invoke(*options, "--backbone-weights", str(tmp_path / "imagenet.pth"), "--set", "optim.lr=1e-20")
    first, kept = library.features[0][0].weight, hat.load_checkpoint(out).mfe.state_dict().values()
    assert any(value.shape == first.shape and torch.allclose(value, first) for value in kept)


def test_bad_images_are_named_or_left_out(market_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(market_folder, data)
    bad = data / "bounding_box_train" / "0001_c1s1_000099_01.png"
    bad.write_bytes(b"no image")
    options = options_of_a_run(data, tmp_path / "run", num_epochs=1)
    with pytest.raises(ImageError, match=r"0001_c1s1_000099_01\.png"):
        invoke(*options)
    assert not (tmp_path / "run").exists()
    assert json.loads(invoke(*options, "--skip-bad", "--json"))["num_images"] == 24


def test_bad_images_of_the_evaluation_are_left_out_too(market_folder, tmp_path, call):
    data = tmp_path / "data"
    shutil.copytree(market_folder, data)
    bad = sorted((data / "bounding_box_test").iterdir())[0]
    bad.write_bytes(b"no image")
    out = tmp_path / "run"
    options = options_of_a_run(data, out, num_epochs=1, eval={"every_epochs": 1})
    _, result, told = call("train", *options, "--skip-bad", "--json")
    assert "1 images cannot be used" in " ".join(told.split()) and bad.name in told.replace("\n", "")
    bad.unlink()
    evaluated = hat.evaluate(hat.Embedder.open(out, device="cpu"), hat.load_dataset("market-style", data))
    assert evaluated.mAP == pytest.approx(json.loads(result)["best"]["mAP"], abs=1e-6)


def test_what_cannot_be_ranked_is_told_before_the_first_epoch(market_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(market_folder, data)
    for image in (data / "query").iterdir():  # strangers to the gallery
        image.rename(image.with_name("9" + image.name[1:]))
    options = options_of_a_run(data, tmp_path / "run", num_epochs=1, eval={"every_epochs": 1})
    with pytest.raises(DataError, match="no identity of the query is in the gallery"):
        invoke(*options)
    assert not (tmp_path / "run").exists()


def test_rows_of_a_table_whose_files_are_missing_are_named_or_left_out(market_folder, tmp_path):
    table = tmp_path / "table.csv"
    write_csv_table(open_dataset(market_folder), table)
    lines = table.read_text().splitlines()
    gone = next(line for line in lines if line.endswith(",train"))
    table.write_text("\n".join([*lines, gone.replace(".png", "-gone.png")]))
    options = options_of_a_run(table, tmp_path / "run", num_epochs=1)
    with pytest.raises(DataError, match=r"there is no file .*-gone\.png; --skip-bad of hat train and hat eval leaves it out"):
        invoke(*options)
    assert json.loads(invoke(*options, "--skip-bad", "--json"))["num_images"] == 24


def test_gray_bits_train_as_the_scaled_images_do(market_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hat.data.images._default_gray_bits", None)  # the command sets it for its process
    weights = []
    for name, options in (("plain", ()), ("deep", ("--gray-bits", "12"))):
        data = tmp_path / name
        shutil.copytree(market_folder, data)
        for path in data.rglob("*.png"):
            with Image.open(path) as image:
                gray = np.asarray(image.convert("L"))
            Image.fromarray(gray.astype(np.uint16) << 4 if options else gray).save(path)
        out = tmp_path / f"run-{name}"
        invoke(*options_of_a_run(data, out, num_epochs=1), *options)
        weights.append(hat.load_checkpoint(out).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert yaml.safe_load((tmp_path / "run-deep" / "config.yaml").read_text())["gray_bits"] == 12
    with pytest.raises(ConfigError, match="gray_bits"):
        invoke("quick", "--print-config", "--gray-bits", "17")
