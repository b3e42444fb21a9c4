"""The command line as a user meets it: its output and its exit codes."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image
from tiny_hat import lively_hat
from typer.testing import CliRunner

import hat
from hat.cli import COMMANDS, NEEDS_NO_ARGUMENTS, app, load_command
from hat.commands.options import parse_image_size
from hat.console import stderr
from hat.errors import HatError
from hat.io.openvino_file import check_weights
from hat.io.weights import read_state_file
from hat.runtime import open_runtime


def test_help_lists_every_command_and_imports_neither_torch_nor_a_command():
    code = (
        "import sys\nfrom hat.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'torch', 'torchvision', 'numpy', 'PIL', 'pydantic'}, loaded\n"
        "assert 'hat.commands' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_examples_and_json_and_shows_its_help_without_arguments(name):
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "Examples:" in result.stdout and f"hat {name} " in result.stdout
    assert ("--json" in result.stdout) == (name != "demo")  # which opens a page and prints no result

    if name not in NEEDS_NO_ARGUMENTS:
        bare = CliRunner().invoke(app, [name])
        assert bare.exit_code == 2 and "Usage: " in bare.output


def test_sigterm_ends_a_command_as_ctrl_c_does_and_leaves_nothing(tmp_path):
    arguments = ["synth", tmp_path / "drawn", "--ids", 400, "--workers", 2]
    with subprocess.Popen([sys.executable, "-m", "hat", *map(str, arguments)], stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while not list(tmp_path.glob(".drawn.*/*/*/*.jpg")) and time.monotonic() < until:
                time.sleep(0.05)
            assert list(tmp_path.iterdir()), "it had begun"
            process.terminate()
            assert process.wait(60) == 143
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["no.onnx", "no.xml", "no.engine", "no.pth"])
def test_info_of_a_file_that_is_not_there_is_a_usage_error(name, run_hat, tmp_path):
    answer = run_hat("info", tmp_path / name)
    assert answer.returncode == 2 and f"{name} is neither a file" in answer.stderr


@pytest.mark.parametrize("arguments", ["gallery info", "keys list", "convert --out=x"])
def test_a_path_that_no_shell_expanded_begins_at_home(arguments, run_hat, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    answer = run_hat(*arguments.split(), "~/nowhere")
    assert answer.returncode == 2 and f"{tmp_path}/nowhere" in answer.stderr and "~" not in answer.stderr


def test_a_program_that_calls_main_keeps_its_own_handler_of_sigterm(run_hat):
    before = signal.signal(signal.SIGTERM, handler := Mock())
    try:
        run_hat("--version")
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_version_and_unknown_command(run_hat):
    assert run_hat("--version").stdout.startswith("hat-reid ")
    unknown = run_hat("traim")
    assert unknown.returncode == 2 and "No such command 'traim'" in unknown.stderr


def test_info_of_a_named_model_as_table_and_as_json(run_hat):
    table = run_hat("info", "hat_mobilenet_v2")
    assert table.returncode == 0 and table.stderr == ""
    assert "3.610" in table.stdout and "1.090" in table.stdout
    content = json.loads(run_hat("info", "hat_mobilenet_v2", "--set", "depths=[0,0,1,0]", "--json").stdout)
    assert content["embed_dim"] == 1280 + 256 and content["model"]["depths"] == [0, 0, 1, 0]
    assert content["num_operations"]["total"] == sum(v for k, v in content["num_operations"].items() if k != "total")


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "words",
    [
        "bench --seconds",
        "export --max-drop",
        "gallery accept --min-cosine",
        "gallery remove --older-than",
        "search --false-match-rate",
        "search --min-similarity",
        "serve --max-body-mib",
        "serve --max-megapixels",
        "serve --max-wait-ms",
        "serve --rate",
        "serve --timeout-s",
        "train --stop-after-s",
    ],
)
def test_an_option_takes_no_number_that_is_not_finite(words, value):
    result = CliRunner().invoke(app, [*words.split(), value])
    assert result.exit_code == 2
    assert f"Invalid value for '{words.split()[-1]}'" in result.output


@pytest.mark.parametrize("text", ["384x128", "384X128", " 384×128", "384,128"])
def test_parse_image_size(text):
    assert parse_image_size(text, "--size") == (384, 128)


def test_messages_keep_square_brackets(capsys):
    stderr.print("loading a[bold]b :smile:")
    assert capsys.readouterr().err == "loading a[bold]b :smile:\n"


def test_info_of_a_checkpoint_tells_what_is_in_it(tiny_model, tmp_path, run_hat):
    folder = hat.save_checkpoint(tiny_model, tmp_path / "a[b]", metrics={"mAP": 0.5})
    content = json.loads(run_hat("info", folder, "--json").stdout)
    assert content["metrics"] == {"mAP": 0.5} and content["preprocessing"]["height"] == 64
    table = run_hat("info", folder).stdout
    assert re.search(r"mAP +50\.00 %", table) and f"{folder}: mobilenet_v3_small" in table  # brackets are no markup
    assert content["num_params"]["total"] == sum(
        p.numel() for name, p in tiny_model.named_parameters() if not name.startswith("classifiers")
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["info", "hat_resnet"], "neither a file, a checkpoint folder nor a model"),
        (["info", "hat_resnet50", "--set", "depht=3"], "unknown key depht (did you mean depths?)"),
        (["info", "."], "is no checkpoint"),
        (["eval", "nothing", "--data", "nowhere"], "nowhere"),
        (["eval", "nothing", "--data", "markt1501=."], "did you mean market1501?"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(arguments, sentence, tmp_path, run_hat, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_hat(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr and result.stderr.startswith("hat: usage: ") and result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("closed", "code"), [(">&-", 0), (">&- 2>&- <&-", 0), ("--nonsense 2>&-", 2), ("--nonsense >&- 2>&-", 2)]
)
def test_main_runs_without_standard_streams(closed, code):
    command = f"{shlex.quote(sys.executable)} -m hat --version {closed}"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (code, "")


def test_main_a_full_disk_behind_a_redirection_is_one_sentence():
    command = [sys.executable, "-m", "hat", "--version"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "hat: failed: No space left on device\n")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (MemoryError(), "memory ran out: lower the batch size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"), "memory ran out"),
        (FileNotFoundError(2, "No usable temporary directory found in [/tmp]"), "No usable temporary directory found"),
        (PermissionError(13, "Permission denied", "/etc/x"), "/etc/x: Permission denied"),
        (KeyError("weights"), "KeyError: 'weights' (set HAT_DEBUG=1 to see where)"),
    ],
)
def test_main_what_nobody_foresaw_is_one_sentence(raised, said, run_hat, monkeypatch):
    monkeypatch.setattr("hat.cli.app", Mock(side_effect=raised))
    result = run_hat()
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and said in result.stderr
    monkeypatch.setenv("HAT_DEBUG", "1")
    with pytest.raises(type(raised)):
        run_hat()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
COMMANDS_WITH_A_MODEL = """
info FILE
eval FILE --data .
export FILE --to triton --out served
adopt FILE --like boxmot --out own.onnx
verify model FILE --images .
bench FILE
embed FILE a.png --out rows.npz
enroll new.gallery a.png --model FILE
search old.gallery a.png --model FILE
serve FILE
demo FILE
"""


@pytest.mark.parametrize("line", COMMANDS_WITH_A_MODEL.strip().splitlines())
def test_every_command_names_a_pointer_in_the_place_of_a_model(line, tmp_path, monkeypatch, tiny_dataset):
    monkeypatch.chdir(tiny_dataset)
    file = tmp_path / "pulled.onnx"
    file.write_bytes(POINTER)
    name, *rest = line.replace("FILE", str(file)).split()
    with pytest.raises(HatError, match=f"{file} is a Git LFS pointer") as caught:
        load_command(name)(rest, standalone_mode=False)
    assert caught.value.exit_code == 2


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """A folder with people in Market's names, one of them as a.png, a model and a gallery."""
    folder = tmp_path_factory.mktemp("people")
    folders = {"query": "0001_c1", "bounding_box_test": "0001_c2", "bounding_box_train": "0002_c1", ".": "a"}
    for number, (name, person) in enumerate(folders.items()):
        (folder / name).mkdir(exist_ok=True)
        Image.effect_noise((32, 64), 40 + 50 * number).save(folder / name / f"{person}{'s1_000001_00' * (name != '.')}.png")
    hat.save_checkpoint(lively_hat(), folder / "model")
    arguments = [str(folder / name) for name in ("old.gallery", "a.png", "model")]
    load_command("enroll")([*arguments[:2], "--model", arguments[2]], standalone_mode=False)
    return folder


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".engine", ".plan", ".pth", ".safetensors"])
def test_open_runtime_names_a_pointer_or_a_web_page_in_the_place_of_a_model(ending, tmp_path):
    file = tmp_path / f"downloaded{ending}"
    file.write_bytes(POINTER)
    open_file = read_state_file if ending == ".safetensors" else open_runtime
    with pytest.raises(HatError, match=f"{file} is a Git LFS pointer"):
        open_file(file)
    for page in (b"\xef\xbb\xbf<!DOCTYPE HTML><html>", b"\n <html lang='en'>", b"<?xml version='1.0'?><Error><Code>"):
        file.write_bytes(page)
        with pytest.raises(HatError, match=f"{file} is a web page and not a model"):
            open_file(file)


def test_a_pointer_beside_a_model_is_named(tmp_path):
    (tmp_path / "m.engine").write_bytes(b"engine")
    for name, read in {
        "config.json": lambda: open_runtime(tmp_path),
        "m.engine.json": lambda: open_runtime(tmp_path / "m.engine"),
        "m.bin": lambda: check_weights(tmp_path / "m.xml"),
    }.items():
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(HatError, match=f"{name} is a Git LFS pointer"):
            read()
