"""The quickstart: real commands one after the other, what was done is not done again, what was stopped is begun anew."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import hat.demo.quickstart as command_module
from hat.demo.quickstart import Step, demo_command, quickstart, quickstart_steps
from hat.errors import UsageError, WorkError

APP = typer.Typer()
APP.command()(quickstart)


def drawing(folder="people", **changes):
    """A step that takes a second: a data set of four small people."""
    facts = {
        "title": "Draw",
        "command": f"synth {folder} --ids 4 --cams 2 --size 64x32 --workers 1",
        "product": folder,
        "seconds": 1,
        "summary": lambda result: f"{result['num_images']} images",
    }
    return Step(**(facts | changes))


def telling(**changes):
    """A step whose output is what it makes."""
    facts = {
        "title": "Tell",
        "command": "info hat_mobilenet_v2",
        "product": "facts.json",
        "seconds": 1,
        "summary": lambda result: f"{result['embed_dim']} values",
        "saves_output": True,
    }
    return Step(**(facts | changes))


@pytest.fixture
def run(monkeypatch):
    """Run the quickstart with other steps; its JSON."""

    def start(folder, steps, *arguments):
        monkeypatch.setattr(command_module, "quickstart_steps", lambda: steps)
        result = CliRunner().invoke(APP, ["--out", str(folder), "--once", "--json", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return start


def test_steps_are_run_in_the_folder_once_and_told(run, tmp_path):
    steps = [drawing(), telling()]
    first = run(tmp_path / "qs", steps)
    assert [step["result"] for step in first["steps"]] == ["32 images", "1536 values"]
    assert json.loads((tmp_path / "qs" / "facts.json").read_text())["embed_dim"] == 1536
    stamp = (tmp_path / "qs" / "people" / "synth.json").stat().st_mtime_ns
    again = run(tmp_path / "qs", steps)
    assert again["steps"] == first["steps"]
    assert (tmp_path / "qs" / "people" / "synth.json").stat().st_mtime_ns == stamp
    assert first["demo"].startswith("hat demo ")


def test_what_a_stopped_step_left_is_begun_anew(run, tmp_path):
    (tmp_path / "qs" / "people").mkdir(parents=True)
    (tmp_path / "qs" / "QUICKSTART.txt").touch()
    (tmp_path / "qs" / "people" / "half").touch()
    run(tmp_path / "qs", [drawing()])
    assert not (tmp_path / "qs" / "people" / "half").exists()
    assert (tmp_path / "qs" / "people" / "synth.json").is_file()


def test_a_step_that_can_goes_on_where_it_was_stopped(run, tmp_path):
    (tmp_path / "qs" / "people").mkdir(parents=True)
    (tmp_path / "qs" / "QUICKSTART.txt").touch()
    done = run(tmp_path / "qs", [drawing(goes_on=("--seed", "7"))])
    assert done["steps"][0]["result"] == "32 images"
    assert json.loads((tmp_path / "qs" / "people" / "synth.json").read_text())["parameters"]["seed"] == 7


def test_a_failed_step_ends_it_with_its_reason_and_keeps_what_was_done(monkeypatch, tmp_path):
    steps = [drawing(), telling(command="info hat_resnet5")]
    monkeypatch.setattr(command_module, "quickstart_steps", lambda: steps)
    with pytest.raises(WorkError, match=r"hat info hat_resnet5 --json in .* ended with 2: .*neither a file"):
        CliRunner().invoke(APP, ["--out", str(tmp_path), "--once"], catch_exceptions=False)
    assert len(json.loads((tmp_path / "quickstart.json").read_text())) == 1


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "memory runs out"), (signal.SIGTERM, "ended by SIGTERM")])
def test_quickstart_says_by_which_signal_a_step_was_ended(monkeypatch, tmp_path, number, words):
    monkeypatch.setattr(command_module, "quickstart_steps", lambda: [drawing()])
    monkeypatch.setattr(
        command_module, "_hat", lambda _: [sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"]
    )
    with pytest.raises(WorkError, match=words):
        CliRunner().invoke(APP, ["--out", str(tmp_path), "--once"], catch_exceptions=False)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for arguments in ([], ["--force"]):
        with pytest.raises(UsageError, match="something else than a quickstart"):
            CliRunner().invoke(APP, ["--out", str(tmp_path), *arguments], catch_exceptions=False)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_every_step_is_a_command_of_this_program():
    from hat.cli import load_command

    for step in quickstart_steps():
        name, *arguments = step.command.split()
        load_command(name).make_context(name, [*arguments, "--json", *(step.goes_on or ())])


def test_the_demo_is_opened_on_what_the_steps_made(tmp_path):
    from hat.cli import load_command

    name, *arguments = demo_command(tmp_path)
    load_command(name).make_context(name, arguments)
    made = {step.product for step in quickstart_steps()}
    named = {argument.removeprefix(f"{tmp_path}/") for argument in arguments if argument.startswith(str(tmp_path))}
    assert named <= made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hat", "quickstart", "--once", "--json", "--out", str(tmp_path / "qs")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["steps"]) == len(quickstart_steps())
    assert all((tmp_path / "qs" / step.product).exists() for step in quickstart_steps())

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    program = re.search(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[1]
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path / "qs", capture_output=True, text=True, check=False
    )
    assert printed.returncode == 0, printed.stderr
    figures, *matches = printed.stdout.splitlines()
    shown = re.search(r"^```python\n.*?^```\n\n```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[1].splitlines()
    assert re.sub(r"[\d.]+ %", "", figures) == re.sub(r"[\d.]+ %", "", shown[0])
    assert len(matches) == len(shown) - 1 == 3
    assert all(re.fullmatch(r"\d+ \d 0?\.?\d+", line) for line in [*matches, *shown[1:]])
