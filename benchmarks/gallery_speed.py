"""Enrolling, opening and searching a gallery file, beside a bare FAISS index of the same vectors.

python benchmarks/gallery_speed.py [--json] [--stored-type float16]
python benchmarks/gallery_speed.py --num-gallery 1000000 --embed-dim 4096 --stored-type float16 --no-peer

Three processes: one enrolls, one opens the file and answers its first query, one searches. Searches of the gallery and of FAISS
take turns in the same process. The larger size needs 20 GB of disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measuring import MEBIBYTE, add_size_arguments, finish, peak_bytes, run_job

CHUNK = 4096


def made_chunks(args: argparse.Namespace) -> Iterator[tuple[int, np.ndarray]]:
    """First row and rows of the gallery, a piece at a time: unit rows around one center for each identity."""
    centers = np.random.default_rng(args.seed).standard_normal((args.num_pids, args.embed_dim), dtype=np.float32)
    for first in range(0, args.num_gallery, CHUNK):
        rows = np.arange(first, min(first + CHUNK, args.num_gallery))
        noise = np.random.default_rng([args.seed, first]).standard_normal((len(rows), args.embed_dim), dtype=np.float32)
        vectors = centers[rows % args.num_pids] + 2 * noise
        yield first, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made_queries(args: argparse.Namespace) -> np.ndarray:
    centers = np.random.default_rng(args.seed).standard_normal((args.num_pids, args.embed_dim), dtype=np.float32)
    rng = np.random.default_rng(args.seed + 1)
    queries = centers[rng.integers(0, args.num_pids, args.num_query)]
    queries = queries + 2 * rng.standard_normal(queries.shape, dtype=np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def enroll(args: argparse.Namespace, path: Path) -> dict:
    from hat.preprocessing import Preprocessing
    from hat.serve import Binding, Gallery, NewRecord

    binding = Binding(
        fingerprint="0" * 64,
        name="made up",
        model={},
        preprocessing=Preprocessing(),
        source_sha256="0" * 64,
        precision="fp32",
        embed_dim=args.embed_dim,
    )
    seconds = []
    with Gallery.open(path, binding=binding, create=True, stored_type=args.stored_type) as gallery:
        for first, vectors in made_chunks(args):
            for start in range(0, len(vectors), args.batch):
                records = [
                    NewRecord(
                        content_hash=hashlib.sha256(str(row).encode()).hexdigest(),
                        source=f"{row % args.num_pids:06d}_c{row % args.num_cameras}_{row}.jpg",
                        pid=row % args.num_pids,
                        camid=row % args.num_cameras,
                        time_s=float(row),
                    )
                    for row in range(first + start, first + min(start + args.batch, len(vectors)))
                ]
                begin = time.perf_counter()
                gallery.add(vectors[start : start + args.batch], records)
                seconds.append(time.perf_counter() - begin)
    return {
        "records_per_s": args.num_gallery / sum(seconds),
        "p50_add_s": statistics.median(seconds),
        "file_bytes": path.stat().st_size,
        "peak_bytes": peak_bytes(),
    }


def open_and_search_once(args: argparse.Namespace, path: Path) -> dict:
    from hat.serve import Gallery

    queries = made_queries(args)
    before, begin = peak_bytes(), time.perf_counter()
    with Gallery.open(path, read_only=True) as gallery:
        opened = time.perf_counter() - begin
        gallery.prepare()
        prepared = time.perf_counter() - begin
        gallery.search(queries[:1])
        return {
            "open_s": opened,
            "ready_s": prepared,
            "first_answer_s": time.perf_counter() - begin,
            "peak_bytes": peak_bytes(),
            "peak_bytes_before": before,
            "mapped": path.with_name(f"{path.name}-vectors").exists(),
        }


def search(args: argparse.Namespace, path: Path) -> dict:
    from hat.serve import Filter, Gallery

    queries = made_queries(args)
    other_cameras = Filter(exclude_camids=frozenset([0]))
    with Gallery.open(path, read_only=True) as gallery:
        gallery.prepare()
        jobs: dict[str, Callable[[], object]] = {
            "all queries": lambda: gallery.search(queries, args.top),
            "all queries, filtered": lambda: gallery.search(queries, args.top, other_cameras),
        }
        singles: dict[str, Callable[[int], object]] = {
            "1 query": lambda at: gallery.search(queries[at : at + 1], args.top),
            "1 query, filtered": lambda at: gallery.search(queries[at : at + 1], args.top, other_cameras),
        }
        report: dict = {}
        if args.peer:
            import faiss

            kind = faiss.ScalarQuantizer.QT_fp16
            if args.stored_type == "float16":
                index = faiss.IndexScalarQuantizer(args.embed_dim, kind, faiss.METRIC_INNER_PRODUCT)
                index.train(queries)
            else:
                index = faiss.IndexFlatIP(args.embed_dim)
            for _, vectors in made_chunks(args):
                index.add(vectors)
            jobs["all queries, FAISS"] = lambda: index.search(queries, args.top)
            singles["1 query, FAISS"] = lambda at: index.search(queries[at : at + 1], args.top)
            similarities, rows = index.search(queries, args.top)
            found = gallery.search(queries, args.top)
            report["same_neighbors"] = float((found.ids == rows + 1).mean())
            report["largest_difference"] = float(np.abs(found.similarities - similarities).max())
        walls: dict[str, list[float]] = {name: [] for name in (*jobs, *singles)}
        for job in jobs.values():
            job()
        for _ in range(args.repeats):
            for name, job in jobs.items():
                begin = time.perf_counter()
                job()
                walls[name].append(time.perf_counter() - begin)
        for at in range(args.num_single):
            for name, single in singles.items():
                begin = time.perf_counter()
                single(at % len(queries))
                walls[name].append(time.perf_counter() - begin)
    p50 = {name: statistics.median(values) for name, values in walls.items()}
    p95 = {name: float(np.quantile(values, 0.95)) for name, values in walls.items()}
    return report | {"p50_s": p50, "p95_s": p95, "peak_bytes": peak_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser, query=100, gallery=100_000, pids=5000, cameras=6, dim=2048)
    parser.add_argument("--stored-type", choices=["float32", "float16"], default="float32")
    parser.add_argument("--batch", type=int, default=256, help="records of one call that enrolls (default %(default)s)")
    parser.add_argument("--top", type=int, default=10, help="neighbors of a query (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of all queries (default %(default)s)")
    parser.add_argument("--num-single", type=int, default=50, help="runs of one query (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the gallery is made (default: a temporary folder)")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="do not run FAISS")
    parser.add_argument("--max-open-seconds", type=float, default=5.0, help="bar (default %(default)s)")
    parser.add_argument("--max-query-seconds", type=float, default=0.06, help="bar of one query (default %(default)s)")
    parser.add_argument("--max-ratio", type=float, default=1.3, help="bar of all queries beside FAISS (default %(default)s)")
    parser.add_argument("--min-records-per-second", type=float, default=5000.0, help="bar of enrolling (default %(default)s)")
    args = parser.parse_args()

    if args.job:
        jobs = {"enroll": enroll, "open": open_and_search_once, "search": search}
        print(json.dumps(jobs[args.job](args, args.folder / "people.gallery")))
        return

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        enrolled, opened, searched = (run_job(job, ["--folder", folder]) for job in ("enroll", "open", "search"))
    p50, p95 = searched["p50_s"], searched["p95_s"]
    result = {
        "num_gallery": args.num_gallery,
        "embed_dim": args.embed_dim,
        "stored_type": args.stored_type,
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "enroll": enrolled,
        "open": opened,
        "search": searched,
    }
    passed = {
        "enroll": enrolled["records_per_s"] >= args.min_records_per_second,
        "open": opened["first_answer_s"] <= args.max_open_seconds,
        "1 query": p50["1 query"] <= args.max_query_seconds,
    }
    lines = [
        f"{args.num_gallery} x {args.embed_dim} {args.stored_type}, {result['num_cores']} cores",
        f"{args.num_query} queries of the {args.top} nearest; enrolled {args.batch} at a time",
        f"enroll                  {enrolled['records_per_s']:8.0f} records/s, file {enrolled['file_bytes'] / MEBIBYTE:.0f} MiB",
        f"open, ready, answer    {opened['open_s']:.2f} s, {opened['ready_s']:.2f} s, {opened['first_answer_s']:.2f} s; "
        f"peak {opened['peak_bytes'] / MEBIBYTE:.0f} MiB (before: {opened['peak_bytes_before'] / MEBIBYTE:.0f} MiB)"
        + (", mapped file" if opened["mapped"] else ""),
        *(f"{name:<22} p50 {1000 * p50[name]:8.1f} ms  p95 {1000 * p95[name]:8.1f} ms" for name in p50),
    ]
    if args.peer:
        result["ratio"] = p50["all queries"] / p50["all queries, FAISS"]
        passed["all queries"] = result["ratio"] <= args.max_ratio
        passed["same neighbors"] = searched["same_neighbors"] > 0.999 and searched["largest_difference"] < 1e-4
        agreement, difference = searched["same_neighbors"], searched["largest_difference"]
        lines.append(
            f"{args.num_query} queries take {result['ratio']:.2f} times FAISS's time; {100 * agreement:.3f} % of the "
            f"neighbors are the same, largest difference of similarities {difference:.1e}"
        )
    result |= {"bars": passed, "passed": all(passed.values())}
    finish(result, [*lines, *(f"bar missed: {name}" for name, met in passed.items() if not met)], args.json)


if __name__ == "__main__":
    main()
