"""Time and memory of k-reciprocal re-ranking at Market-1501's size, beside the usual dense NumPy formulation.

python benchmarks/rerank_speed.py [--json] [--no-peer]

The peer needs about 9 GB of memory and a minute or two.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from measuring import MEBIBYTE, add_size_arguments, describe, finish, make_embeddings, make_labels, run_job, timed


def dense_rerank(queries, gallery, k1=20, k2=6, lambda_value=0.3):
    """The common formulation: several dense matrices of all items by all items, and a loop over the items."""
    num_query, num_items = len(queries), len(queries) + len(gallery)
    items = np.concatenate([queries, gallery])
    squares = (items**2).sum(axis=1)
    original = squares[:, None] + squares[None] - 2 * items @ items.T
    np.fill_diagonal(original, 0)
    original = (original / original.max(axis=0)).T
    ranks = np.argsort(original, axis=1).astype(np.int32)

    def reciprocal(ranks, item, k):
        forward = ranks[item, : k + 1]
        return forward[(ranks[forward, : k + 1] == item).any(axis=1)]

    encodings = np.zeros_like(original, dtype=np.float32)
    half = int(np.around(k1 / 2))
    for item in range(num_items):
        core = reciprocal(ranks, item, k1)
        members = core
        for candidate in core:
            theirs = reciprocal(ranks, candidate, half)
            if len(np.intersect1d(theirs, core)) > 2 / 3 * len(theirs):
                members = np.append(members, theirs)
        members = np.unique(members)
        weights = np.exp(-original[item, members])
        encodings[item, members] = weights / weights.sum()
    original = original[:num_query]
    if k2 > 1:
        expanded = np.zeros_like(encodings)
        for item in range(num_items):
            expanded[item] = encodings[ranks[item, :k2]].mean(axis=0)
        encodings = expanded
    del ranks
    having = [np.flatnonzero(encodings[:, item]) for item in range(num_items)]
    jaccard = np.zeros_like(original)
    for query in range(num_query):
        minima = np.zeros(num_items, dtype=np.float32)
        for column in np.flatnonzero(encodings[query]):
            minima[having[column]] += np.minimum(encodings[query, column], encodings[having[column], column])
        jaccard[query] = 1 - minima / (2 - minima)
    return (jaccard * (1 - lambda_value) + original * lambda_value)[:, num_query:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser, query=3368, gallery=15913, pids=750, cameras=6, dim=2048)
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median counts (default %(default)s)")
    parser.add_argument("--peer-repeats", type=int, default=1, help="the same for the peer (default %(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="do not run the peer")
    parser.add_argument("--max-seconds", type=float, default=25.0, help="bar (default %(default)s)")
    parser.add_argument("--max-mebibytes", type=float, default=3072.0, help="bar of the peak (default %(default)s)")
    args = parser.parse_args()

    if args.job:
        labels = make_labels(args)
        queries, gallery = make_embeddings(args, labels[0], labels[2])
        if args.job == "ours":
            from hat.metrics import rerank

            report, distances = timed(lambda: rerank(queries, gallery), args.repeats)
        else:
            report, distances = timed(lambda: dense_rerank(queries, gallery), args.peer_repeats)
        if args.output:
            np.save(args.output, distances)
        print(json.dumps(report))
        return

    with tempfile.TemporaryDirectory() as folder:
        saved = {job: Path(folder) / f"{job}.npy" for job in ("ours", "peer")}
        ours = run_job("ours", [] if args.no_peer else ["--output", str(saved["ours"])])
        result = {"num_query": args.num_query, "num_gallery": args.num_gallery, "embed_dim": args.embed_dim, "ours": ours}
        lines = [f"{args.num_query} x {args.num_gallery}, {args.embed_dim}-d", describe("rerank", ours)]
        result["passed"] = ours["wall_s"] <= args.max_seconds and ours["peak_bytes"] <= args.max_mebibytes * MEBIBYTE
        if not args.no_peer:
            peer = result["peer"] = run_job("peer", ["--output", str(saved["peer"])])
            difference = np.abs(np.load(saved["ours"]) - np.load(saved["peer"]))
            result["times_faster"] = peer["wall_s"] / ours["wall_s"]
            result["times_less_memory"] = peer["peak_bytes"] / ours["peak_bytes"]
            result["largest_difference"] = float(difference.max())
            result["rate_over_1e-5"] = float((difference > 1e-5).mean())
            # Distances that agree to the last bits may change places between two ways to sum, and then a set changes.
            result["passed"] = result["passed"] and result["rate_over_1e-5"] < 1e-3
            lines += [
                describe("dense NumPy", peer),
                f"{result['times_faster']:.1f} times faster, {result['times_less_memory']:.1f} times less memory",
                f"largest difference {result['largest_difference']:.1e}; "
                f"rate of distances that differ by over 1e-5: {result['rate_over_1e-5']:.1e}",
            ]
    finish(result, lines, args.json)


if __name__ == "__main__":
    main()
