"""Time of mAP, CMC and mINP from a distance matrix of Market-1501's size, beside a plain NumPy argsort and loop.

python benchmarks/ranking_speed.py [--json] [--no-peer]
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from measuring import add_size_arguments, describe, finish, make_embeddings, make_labels, run_job, timed


def argsort_loop(distmat, query_pids, query_camids, gallery_pids, gallery_camids, max_rank=50):
    """The common formulation: sort every row, then walk the queries."""
    order = np.argsort(distmat, axis=1, kind="stable")
    matches = gallery_pids[order] == query_pids[:, None]
    curves, precisions, penalties = [], [], []
    for query in range(len(distmat)):
        kept = ~((gallery_pids[order[query]] == query_pids[query]) & (gallery_camids[order[query]] == query_camids[query]))
        hits = matches[query][kept]
        if not hits.any():
            continue
        found = hits.cumsum()
        last = np.flatnonzero(hits)[-1]
        penalties.append(found[last] / (last + 1))
        curves.append(np.minimum(found, 1)[:max_rank])
        precisions.append((found / np.arange(1, len(found) + 1) * hits).sum() / hits.sum())
    return float(np.mean(precisions)), float(np.mean([curve[0] for curve in curves])), float(np.mean(penalties))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser, query=3368, gallery=15913, pids=750, cameras=6, dim=128)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median counts (default %(default)s)")
    parser.add_argument("--peer-repeats", type=int, default=3, help="the same for the peer (default %(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="do not run the peer")
    parser.add_argument("--max-seconds", type=float, default=2.0, help="bar (default %(default)s)")
    args = parser.parse_args()

    if args.job:
        labels = make_labels(args)
        queries, gallery = make_embeddings(args, labels[0], labels[2])
        distmat = 1 - queries @ gallery.T
        if args.job == "ours":
            from hat.metrics import evaluate_ranking

            report, result = timed(lambda: evaluate_ranking(distmat, *labels), args.repeats)
            report["metrics"] = [result.mAP, result.rank1, result.mINP]
        else:
            report, metrics = timed(lambda: argsort_loop(distmat, *labels), args.peer_repeats)
            report["metrics"] = list(metrics)
        print(json.dumps(report))
        return

    ours = run_job("ours")
    result = {"num_query": args.num_query, "num_gallery": args.num_gallery, "ours": ours}
    lines = [f"{args.num_query} x {args.num_gallery}", describe("evaluate_ranking", ours)]
    result["passed"] = ours["wall_s"] <= args.max_seconds
    if not args.no_peer:
        peer = result["peer"] = run_job("peer")
        result["times_faster"] = peer["wall_s"] / ours["wall_s"]
        result["largest_difference"] = max(abs(a - b) for a, b in zip(ours["metrics"], peer["metrics"], strict=True))
        result["passed"] = result["passed"] and result["largest_difference"] < 1e-9
        lines += [
            describe("argsort and loop", peer),
            f"{result['times_faster']:.1f} times faster; "
            f"largest difference of mAP, Rank-1, mINP: {result['largest_difference']:.1e}",
        ]
    finish(result, lines, args.json)


if __name__ == "__main__":
    main()
