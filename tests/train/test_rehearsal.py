"""Every step of docs/reproducing.md on ten drawn people, by the commands themselves: what a GPU will run, in the small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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


def command(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, f"{' '.join(arguments)}\n{done.stderr[-3000:]}"
    return done.stdout


def hat(folder: Path, *arguments: str, code: int = 0) -> str:
    return command(folder, "-m", "hat", *arguments, code=code)


@pytest.mark.timeout(1800)
def test_every_step_on_ten_people(tmp_path: Path) -> None:
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
