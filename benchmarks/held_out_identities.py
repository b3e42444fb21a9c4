"""Divide a data set's training identities in two, so that something can be chosen without looking at its test split.

Defaults of a quantizer, for example, are chosen by what they cost on identities that are not the test's, nor the model's where
it was trained on the same table. Of those that are held out, one image from each camera becomes a query and all others the
gallery; the rest is the table's training split.

    python benchmarks/held_out_identities.py ~/data --num-ids 150 --out held-out.csv
    hat train market1501-cpu --data held-out.csv --out runs/held-out --backbone-weights torchvision
    python benchmarks/int8_accuracy.py runs/held-out --data held-out.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from measuring import one_sentence_errors

from hat.data import open_dataset


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set: DIR or NAME=DIR")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    parser.add_argument("--num-ids", type=int, default=150, help="identities to hold out (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train = sorted(open_dataset(options.data).train, key=lambda sample: sample.path)
    # Who was seen by one camera alone has no match in another one, and stays in the training split.
    cameras: dict[int, set[int]] = {}
    for sample in train:
        cameras.setdefault(sample.pid, set()).add(sample.camid)
    candidates = sorted(pid for pid, seen in cameras.items() if len(seen) > 1)
    if not 0 < options.num_ids < len(candidates):
        parser.error(f"--num-ids is at least 1 and below the {len(candidates)} identities with several cameras")
    chosen = np.random.default_rng(options.seed).choice(candidates, options.num_ids, replace=False)
    held_out = set(chosen.tolist())
    asked: set[tuple[int, int]] = set()
    counts = dict.fromkeys(("train", "query", "gallery"), 0)
    with options.out.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "pid", "camid", "split"])
        for sample in train:
            view = (sample.pid, sample.camid)
            if sample.pid not in held_out:
                split = "train"
            else:
                split = "gallery" if view in asked else "query"
                asked.add(view)
            counts[split] += 1
            table.writerow([Path(sample.path).absolute(), sample.pid, sample.camid, split])
    print(", ".join(f"{count:,} {split}" for split, count in counts.items()), f"images in {options.out}")


if __name__ == "__main__":
    main()
