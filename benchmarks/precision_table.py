"""Accuracy and speed of one trained model in several runtimes and precisions, as a Markdown table.

The first model is what the others are compared with, usually the checkpoint. All are timed in one interleaved run, each in a
process of its own, and then embed the whole data set.

    python benchmarks/precision_table.py runs/market runs/market@graph+bf16 market.onnx market.int8.xml --data ~/data \\
        --batch 8 --record RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from measuring import one_sentence_errors

from hat.console import append_record, markdown_table, percent
from hat.export.bench.benchmark import BenchmarkReport, CandidateSpeed, benchmark
from hat.export.parity.candidate import parse_candidate


def num_bytes(spec: str) -> int:
    """Size of what has to be shipped: a file with what lies beside it under its name, or a checkpoint's weights."""
    path = parse_candidate(spec).path
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else [path.with_name(path.name + ".data")]
    return sum(file.stat().st_size for file in [path, *beside] if file.is_file())


def table_row(entry: CandidateSpeed, first: CandidateSpeed) -> dict[str, Any]:
    speed = entry.speeds[0]
    change = 100 * (entry.accuracy["mAP"] - first.accuracy["mAP"])
    return {
        "model": f"`{entry.name}`",
        "runtime": entry.runtime,
        "MB": round(num_bytes(entry.name) / 1e6, 1),
        "mAP": percent(entry.accuracy["mAP"]),
        "change": f"{change:+.2f}" if entry is not first else "",
        "Rank-1": percent(entry.accuracy["rank1"]),
        "mINP": percent(entry.accuracy["mINP"]),
        "images/s": round(speed.images_per_s, 1),
        "ratio": round(speed.ratio, 2),
        "p50 ms": round(1000 * speed.p50_s, 2),
    }


def table_rows(report: BenchmarkReport) -> list[dict[str, Any]]:
    return [table_row(entry, report.candidates[0]) for entry in report.candidates]


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints and exported files, with variants as hat bench takes them")
    parser.add_argument("--data", required=True, help="a data set: DIR or NAME=DIR")
    parser.add_argument("--num-ids", type=int, help="rank so many identities only, for a quick look")
    parser.add_argument("--batch", type=int, default=8, help="images in a run (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--record", type=Path, help="append the table to this Markdown file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    start = time.monotonic()
    report = benchmark(
        options.models,
        batches=[options.batch],
        data=options.data,
        num_ids=options.num_ids,
        seconds=options.seconds,
        rounds=options.rounds,
        device=options.device,
        progress=lambda what, done, total: print(f"{what} {done}/{total}", file=sys.stderr),
    )
    rows = table_rows(report)
    if options.record is not None:
        title = f"Precisions of {options.models[0]}, batch {options.batch}"
        append_record(options.record, title, rows, time.monotonic() - start)
    if report.is_busy:
        print(f"others kept {report.other_cores:.1f} cores busy meanwhile: rely on the ratios alone", file=sys.stderr)
    print(json.dumps(report.to_dict(), indent=2) if options.json else markdown_table(rows), end="\n" if options.json else "")


if __name__ == "__main__":
    main()
