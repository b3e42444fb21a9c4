"""Memory and time of the metrics straight from embeddings at MSMT17's size, beside the whole matrix sorted at once.

python benchmarks/evaluation_memory.py [--json] [--peer]

The peer needs about 20 GB of memory at this size, so it runs only when it is asked for.
"""

from __future__ import annotations

import argparse
import json

from measuring import MEBIBYTE, add_size_arguments, describe, finish, make_embeddings, make_labels, run_job, timed
from ranking_speed import argsort_loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser, query=11659, gallery=82161, pids=3060, cameras=15, dim=2048)
    parser.add_argument("--repeats", type=int, default=1, help="runs of which the median counts (default %(default)s)")
    parser.add_argument("--peer", action="store_true", help="run the peer too")
    parser.add_argument("--max-mebibytes", type=float, default=4096.0, help="bar of the peak (default %(default)s)")
    args = parser.parse_args()

    if args.job:
        labels = make_labels(args)
        queries, gallery = make_embeddings(args, labels[0], labels[2])
        if args.job == "ours":
            from hat.metrics import evaluate_embeddings

            report, result = timed(lambda: evaluate_embeddings(queries, gallery, *labels), args.repeats)
            report["metrics"] = [result.mAP, result.rank1, result.mINP]
        else:
            report, metrics = timed(lambda: argsort_loop(1 - queries @ gallery.T, *labels), 1)
            report["metrics"] = list(metrics)
        print(json.dumps(report))
        return

    ours = run_job("ours")
    result = {"num_query": args.num_query, "num_gallery": args.num_gallery, "embed_dim": args.embed_dim, "ours": ours}
    lines = [f"{args.num_query} x {args.num_gallery}, {args.embed_dim}-d", describe("evaluate_embeddings", ours)]
    result["passed"] = ours["peak_bytes"] <= args.max_mebibytes * MEBIBYTE
    if args.peer:
        peer = result["peer"] = run_job("peer")
        result["times_faster"] = peer["wall_s"] / ours["wall_s"]
        result["times_less_memory"] = peer["peak_bytes"] / ours["peak_bytes"]
        result["largest_difference"] = max(abs(a - b) for a, b in zip(ours["metrics"], peer["metrics"], strict=True))
        # The two sum in different orders, so that distances which agree to the last bits may change places.
        result["passed"] = result["passed"] and result["largest_difference"] < 1e-4
        lines += [
            describe("whole matrix", peer),
            f"{result['times_faster']:.1f} times faster, {result['times_less_memory']:.1f} times less memory; "
            f"largest difference of mAP, Rank-1, mINP: {result['largest_difference']:.1e}",
        ]
    finish(result, lines, args.json)


if __name__ == "__main__":
    main()
