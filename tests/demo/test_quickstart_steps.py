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
from hat.cli import load_command
from hat.demo.quickstart import Step, demo_command, quickstart, quickstart_steps
from hat.errors import UsageError, WorkError

APP = typer.Typer()
APP.command()(quickstart)


STAND_IN = """
import json, os, pathlib, signal, sys, time
name, *rest = [one for one in sys.argv[1:] if one != "--json"]
if name == "fail":
    sys.exit("a first line\\nthe reason")
if name == "draw":
    pathlib.Path("people").mkdir(exist_ok=True)
    pathlib.Path("people", "arguments.json").write_text(json.dumps(rest))
if name == "interrupt":
    def end(*_):
        time.sleep(1)
        pathlib.Path("cleaned").touch()
        sys.exit(1)
    asked = signal.Signals[rest[0]]
    signal.signal(asked, end)
    os.kill(os.getppid(), asked)
    if asked == signal.SIGINT:  # a terminal sends it to both
        os.kill(os.getpid(), asked)
    time.sleep(60)
print(json.dumps({"num_images": 32, "embed_dim": 1536, "stopped": "its time is over" if name == "stop" else None}))
"""
"""In the place of `hat`, whose imports take seconds: every real step runs in the slow test, and is parsed in another one."""


def drawing(**changes):
    """A step that leaves a folder."""
    return Step("Draw", 1, "people", "draw --ids 4", lambda result: f"{result['num_images']} images", **changes)


def telling(command="tell"):
    """A step whose output is what it makes."""
    return Step("Tell", 1, "facts.json", command, lambda result: f"{result['embed_dim']} values", saves_output=True)


@pytest.fixture
def run(monkeypatch):
    """Run the quickstart with other steps; its JSON."""
    monkeypatch.setattr(command_module, "_hat", lambda arguments: [sys.executable, "-S", "-c", STAND_IN, *arguments])

    def start(folder, steps):
        monkeypatch.setattr(command_module, "quickstart_steps", lambda: steps)
        result = CliRunner().invoke(APP, ["--out", str(folder), "--once", "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return start


def test_steps_are_run_in_the_folder_once_and_told(run, tmp_path):
    steps, made = [drawing(), telling()], tmp_path / "qs" / "people" / "arguments.json"
    first = run(tmp_path / "qs", steps)
    assert [step["result"] for step in first["steps"]] == ["32 images", "1536 values"]
    assert [step["command"] for step in first["steps"]] == ["hat draw --ids 4", "hat tell --json > facts.json"]
    assert json.loads((tmp_path / "qs" / "facts.json").read_text())["embed_dim"] == 1536
    stamp = made.stat().st_mtime_ns
    assert run(tmp_path / "qs", steps)["steps"] == first["steps"] and made.stat().st_mtime_ns == stamp
    assert first["demo"].startswith("hat demo ")


@pytest.mark.parametrize("goes_on", [None, ("--resume",)])
def test_what_a_stopped_step_left_is_begun_anew_or_gone_on_with(run, tmp_path, goes_on):
    people = tmp_path / "people"
    people.mkdir()
    for path in (tmp_path / "QUICKSTART.txt", people / "half"):
        path.touch()
    run(tmp_path, [drawing(goes_on=goes_on)])
    assert (people / "half").exists() == bool(goes_on)
    assert json.loads((people / "arguments.json").read_text()) == ["--ids", "4", *(goes_on or ())]


def test_a_failed_step_ends_it_with_its_reason_and_keeps_what_was_done(run, tmp_path):
    with pytest.raises(WorkError, match=r"hat fail --json in .* ended with 1: the reason"):
        run(tmp_path, [drawing(), telling("fail")])
    assert len(json.loads((tmp_path / "quickstart.json").read_text())) == 1


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "memory runs out"), (signal.SIGTERM, "ended by SIGTERM")])
def test_quickstart_says_by_which_signal_a_step_was_ended(run, monkeypatch, tmp_path, number, words):
    kill = [sys.executable, "-S", "-c", f"import os; os.kill(os.getpid(), {int(number)})"]
    monkeypatch.setattr(command_module, "_hat", lambda _: kill)
    with pytest.raises(WorkError, match=words):
        run(tmp_path, [drawing()])


def test_a_training_that_was_stopped_is_not_done(run, tmp_path):
    with pytest.raises(WorkError, match="was stopped: its time is over"):
        run(tmp_path, [drawing(), telling("stop")])
    assert [step["step"] for step in json.loads((tmp_path / "quickstart.json").read_text())] == ["Draw"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_step_ends_by_itself_where_the_quickstart_is_asked_to_end(run, monkeypatch, tmp_path, name):
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the command line does
    try:
        monkeypatch.setattr(command_module, "quickstart_steps", lambda: [telling(f"interrupt {name}")])
        result = CliRunner().invoke(APP, ["--out", str(tmp_path), "--once"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code and (tmp_path / "cleaned").exists() and not (tmp_path / "quickstart.json").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for arguments in ([], ["--force"]):
        with pytest.raises(UsageError, match="something else than a quickstart"):
            CliRunner().invoke(APP, ["--out", str(tmp_path), *arguments], catch_exceptions=False)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_every_step_is_a_command_of_this_program_and_the_demo_is_opened_on_what_they_made(tmp_path):
    demo = demo_command(tmp_path)
    for words in (demo, *([*step.command.split(), "--json", *(step.goes_on or ())] for step in quickstart_steps())):
        load_command(words[0]).make_context(words[0], list(words[1:]))
    named = {argument.removeprefix(f"{tmp_path}/") for argument in demo if argument.startswith(str(tmp_path))}
    assert named <= {step.product for step in quickstart_steps()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_itself(tmp_path):
    command = [sys.executable, "-m", "hat", "quickstart", "--once", "--json", "--out", str(tmp_path / "qs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["steps"]) == len(quickstart_steps())
    assert all((tmp_path / "qs" / step.product).exists() for step in quickstart_steps())

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    program = re.search(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[1]
    command = [sys.executable, "-W", "error", "-c", program]
    printed = subprocess.run(command, cwd=tmp_path / "qs", capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    figures, *matches = printed.stdout.splitlines()
    assert "mAP" in figures and "Rank-1" in figures
    assert len(matches) == 3 and all(re.fullmatch(r"\d+ \d 0?\.?\d+", line) for line in matches)
