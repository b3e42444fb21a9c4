"""What int8 costs a trained model, variant by variant: the change of mAP, Rank-1 and mINP, and how far embeddings moved.

A variant is a target and options of its int8 export. Every image of the query and the gallery is a query once, against all
images of other cameras: several times the queries of a data set tell smaller changes apart. No test split is the place to
choose on: see benchmarks/held_out_identities.py. Speed is measured with `hat bench` on the files that --keep leaves.

    python benchmarks/int8_accuracy.py runs/held-out --data held-out.csv
    python benchmarks/int8_accuracy.py runs/held-out --data held-out.csv openvino openvino:ranges=minmax,reduce_range=first
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from measuring import one_sentence_errors

import hat
from hat.config import parse_overrides
from hat.data import open_dataset
from hat.export import calibration_from
from hat.export.request import ExportRequest, export_function
from hat.metrics import evaluate_embeddings

_VARIANTS = (
    "onnx:cross_layer_equalization=false,rounding=nearest,max_drop=1",
    "onnx:rounding=nearest,max_drop=1",
    "onnx:cross_layer_equalization=false,max_drop=1",
    "onnx:max_drop=1",
    "onnx",
    "openvino:bias_correction=none,smooth_quant=false,max_drop=1",
    "openvino:max_drop=1",
    "openvino",
)
_ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("variants", nargs="*", default=_VARIANTS, help="TARGET or TARGET:OPTION=VALUE,...")
    parser.add_argument("--data", required=True, help="a data set: DIR or NAME=DIR")
    parser.add_argument("--num-calibration", type=int, default=512)
    parser.add_argument("--keep", type=Path, help="a folder for the exported files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    dataset = open_dataset(options.data)
    paths = dataset.query.paths + dataset.gallery.paths
    labels = [np.concatenate([getattr(part, kind) for part in (dataset.query, dataset.gallery)]) for kind in ("pids", "camids")]
    model = hat.load_checkpoint(options.checkpoint)
    calibration = calibration_from(dataset, model.preprocessing, options.num_calibration)
    reference = hat.Embedder.open(options.checkpoint, device="cpu").embed_paths(paths)
    before = evaluate_embeddings(reference, reference, *labels, *labels)
    rows = [{"variant": "checkpoint", "mAP": before.mAP, "rank1": before.rank1, "mINP": before.mINP}]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for number, variant in enumerate(options.variants):
            target, _, text = variant.partition(":")
            path = folder / f"int8-{number}{_ENDINGS[target]}"
            chosen = dict(parse_overrides(text.split(",") if text else []))
            request = ExportRequest(name=variant, precision="int8", calibration=calibration, options=chosen, overwrite=True)
            export_function(target)(model, path, request)
            embeddings = hat.Embedder.open(path, device="cpu").embed_paths(paths)
            after = evaluate_embeddings(embeddings, embeddings, *labels, *labels)
            cosines = (embeddings * reference).sum(axis=1)
            changes = {name: getattr(after, name) - getattr(before, name) for name in ("mAP", "rank1", "mINP")}
            lost = {"mean": 1 - float(cosines.mean()), "worst": 1 - float(cosines.min())}
            rows.append({"variant": variant, "file": path.name, **changes, "lost_cosine": lost})
            if not options.json:
                print(describe(rows[-1], before), flush=True)
    if options.json:
        print(json.dumps({"dataset": dataset.name, "num_images": len(paths), "rows": rows}, indent=2))


def describe(row: dict, before: hat.RankingResult) -> str:
    figures = ", ".join(f"{name} {100 * getattr(before, name):.2f} {100 * row[name]:+.2f}" for name in ("mAP", "rank1", "mINP"))
    lost = row["lost_cosine"]
    return f"{row['variant']}: {figures}; lost cosine {lost['mean']:.5f}, worst {lost['worst']:.4f} ({row['file']})"


if __name__ == "__main__":
    main()
