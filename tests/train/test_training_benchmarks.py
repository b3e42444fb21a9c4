"""The scripts that drive training, and every step of docs/reproducing.md on ten drawn people: what a GPU runs, in the small."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hat.config import config_to_dict, parse_overrides
from hat.model.complexity import count_complexity
from hat.train import TrainConfig, compose_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = [
    *("--set", "model.image_size=[64,32]", "--set", "augmentation.pad=4"),
    *("--set", "sampler.num_identities=4", "--set", "schedule.warmup_epochs=0"),
    *("--backbone-weights", "none", "--device", "cpu"),
]
SMALL_TEACHER = [
    *("--set", "model.backbone.name=resnet18", "--set", "model.depths=[1,1,2,0]", "--set", "model.widths=[32,48,64,64]"),
    *("--set", "model.num_bottlenecks=1", "--set", "model.transformer.num_heads=4", "--set", "model.transformer.ffn_dim=64"),
]


def command(folder, *arguments, code=0):
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, f"{' '.join(arguments)}\n{done.stderr[-3000:]}"
    return done.stdout


def hat(folder, *arguments, code=0):
    return command(folder, "-m", "hat", *arguments, code=code)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_step_on_ten_people(tmp_path):
    pytest.importorskip("onnxruntime")
    hat(tmp_path, "synth", "people", "--ids", "10", "--cams", "2")

    # The better recipe, stopped after its first step and resumed.
    plus = ["train", "market1501-plus", "--data", "people", "--out", "plus", "--epochs", "1", *SMALL, *SMALL_TEACHER, "--json"]
    assert json.loads(hat(tmp_path, *plus, "--stop-after-s", "0.1"))["stopped"] == "its time is over"
    teacher = json.loads(hat(tmp_path, *plus, "--resume"))
    assert teacher["stopped"] is None and teacher["num_steps"] > 1

    # The edge model learns from it.
    edge = ["train", "market1501-edge", "--data", "people", "--out", "edge", "--epochs", "1", "--teacher", "plus", *SMALL]
    metrics = json.loads(hat(tmp_path, *edge, "--json"))["metrics"]
    assert {"distill_embedding", "distill_similarity"} <= set(metrics)

    # Files, compared with the checkpoint and evaluated. After two steps all embeddings are nearly one, and what would be their
    # ranking is rounding: here the embeddings themselves have to agree, and nothing else.
    hat(tmp_path, "export", "edge", "--to", "onnx", "--out", "edge.onnx")
    int8 = ["--precision", "int8", "--calibration-data", "people", "--num-calibration", "16", "--out", "edge.int8.onnx"]
    hat(tmp_path, "export", "edge", "--to", "onnx", *int8)
    verify = ["verify", "edge", "edge.onnx", "edge.int8.onnx", "--images", "people", "--data", "people", "--json"]
    for candidate in json.loads(hat(tmp_path, *verify, code=1))["candidates"]:
        cosine = next(check for check in candidate["checks"] if check["name"] == "worst cosine")
        assert cosine["passed"], candidate["name"]
    for model in ("edge", "edge.onnx"):
        evaluated = json.loads(hat(tmp_path, "eval", model, "--data", "people", "--device", "cpu", "--json"))
        assert evaluated["results"][0]["num_queries"] == 10 and 0 < evaluated["results"][0]["mAP"] <= 1

    quick = ["--seconds", "0.1", "--rounds", "1", "--batch", "4", "--device", "cpu", "--record", "table.md"]
    files = ["edge", "edge@graph+bf16", "edge.onnx", "edge.int8.onnx"]
    command(tmp_path, str(BENCHMARKS / "precision_table.py"), *files, "--data", "people", *quick)
    table = (tmp_path / "table.md").read_text()
    assert all(f"| `{file}` |" in table for file in files) and "precision_table.py" in table

    # A row of the ablations beside the recipe's own, stopped in between.
    rows = [str(BENCHMARKS / "ablations.py"), "--data", "people", "--out", "rows", "--backbone-weights", "none"]
    rows += ["--model", "hat_resnet18", "--epochs", "1", "--device", "cpu", "--rows", "base", "no-nea"]
    rows += [*SMALL[:-4], "--set", "model.depths=[1,1,2,0]", "--set", "model.num_bottlenecks=0"]
    record = ["--record", "rows.md"]
    assert command(tmp_path, *rows, *record, "--stop-after-s", "0.1") == "" and not (tmp_path / "rows.md").exists()
    told = command(tmp_path, *rows, *record)
    assert "| 3 | without NeA |" in told and "| 3 | without NeA |" in (tmp_path / "rows.md").read_text()
    assert command(tmp_path, *rows) == told, "rows that are done are not done again"
    command(tmp_path, *rows, "--seed", "1", code=1)


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "ablations.py")))


def test_every_row_changes_one_thing(ablations):
    paper = compose_config([("", {})])
    for name, (_, _, settings) in ablations.ROWS.items():
        config = compose_config([("", parse_overrides(settings))])
        assert len(settings) == (name != "base"), name
        assert (config == paper) == (name == "base"), name
    assert {"base", "no-nea", "d-8", "depths-0-0-12-0", "depths-4-4-4-0"} <= set(ablations.DEFAULT_ROWS) < set(ablations.ROWS)


def test_the_schedule_is_the_papers_shortened_in_all_its_parts(ablations):
    whole = compose_config([("", parse_overrides(ablations.schedule(150)))])
    assert config_to_dict(whole) == config_to_dict(TrainConfig())
    short = compose_config([("", parse_overrides(ablations.schedule(60)))])
    assert short.num_epochs == 60 and short.schedule.warmup_epochs == 4
    assert short.schedule.milestones == (20, 28, 36, 44, 52)


def test_the_estimate_adds_up(tmp_path):
    small = ["--set", "model.image_size=[64,32]", "--set", "num_epochs=7", "--set", "augmentation.pad=4"]
    options = [*small, "--images-per-epoch", "1000", "--share", "0.5", "--peak-tflops", "2", "--json"]
    found = json.loads(command(tmp_path, str(BENCHMARKS / "training_cost.py"), "market1501-cpu", *options))
    config = compose_config([("", {"model_name": "hat_mobilenet_v2", "model": {"image_size": [64, 32]}})])
    operations = count_complexity(config.model).total_operations
    assert found["PFLOP of the run"] == pytest.approx(3 * operations * 7000 / 1e15)
    assert found["minutes"] == pytest.approx(3 * operations * 7000 / 1e12 / 60)
    assert found["images/s"] == pytest.approx(1e12 / (3 * operations))
    assert found["GB of training images"] == pytest.approx(3 * 64 * 32 * 1000 / 1e9)
    assert 0.01 < found["GB of activations"] < 1


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("held_out_identities.py", ["nothing", "--out", "table.csv"], "nothing"),
        ("held_out_identities.py", ["people.csv", "--num-ids", "1", "--out", "missing/table.csv"], "missing/table.csv"),
        ("recombined_people.py", ["nothing", "--out", "people"], "nothing"),
        ("int8_accuracy.py", ["run", "--data", "nothing"], "nothing"),
        ("precision_table.py", ["nothing.onnx", "--data", "nothing"], "nothing"),
        ("service_ranking.py", ["run", "--data", "nothing"], "nothing"),
        ("training_cost.py", ["market1501", "--share", "0.1", "--set", "model.depth=3"], "depth"),
    ],
)
def test_wrong_input_is_said_in_one_sentence(script, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crop.png").touch()
    rows = [f"crop.png,{pid},{camera},train" for pid in (1, 2, 3) for camera in (1, 2)]
    (tmp_path / "people.csv").write_text("\n".join(["path,pid,camid,split", *rows]))
    monkeypatch.setattr("sys.argv", [script, *arguments])
    monkeypatch.syspath_prepend(BENCHMARKS)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    sentence = str(ended.value)
    assert sentence.startswith(f"{script}: ") and said in sentence and "\n" not in sentence
