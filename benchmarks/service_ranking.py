"""Does the service rank as the library does? A data set's gallery is enrolled and its queries are searched, all over HTTP.

python benchmarks/service_ranking.py market.onnx --data ~/data [--num-ids 50] [--json]

mAP, Rank-1 and mINP are counted from the service's answers alone and compared with `hat eval` of the same file: they must
agree to four digits. Every query asks for the whole gallery, so that the full Market-1501 takes a while: 3,368 answers of
15,913 records each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from measuring import finish, one_sentence_errors
from serving import served

from hat.console import describe_machine
from hat.data import ReIDDataset, Split, open_dataset
from hat.data.archives import read_member, split_location
from hat.embedder import Embedder
from hat.evaluation import evaluate
from hat.export.parity.levels import some_identities
from hat.metrics import evaluate_ranking

GALLERY = "benchmark"
ENROLLED_AT_ONCE = 32
CLIENTS = 4
FIGURES = ("mAP", "rank1", "rank5", "mINP")


def encoded(path: str) -> bytes:
    member = split_location(path)
    return Path(path).read_bytes() if member is None else read_member(*member, max_bytes=2**26)


def enroll(client: httpx.Client, gallery: Split) -> np.ndarray:
    """Enroll a gallery; the record of each image. Images of the same bytes share one."""
    ids = np.empty(len(gallery), dtype=np.int64)
    for start in range(0, len(gallery), ENROLLED_AT_ONCE):
        samples = gallery.samples[start : start + ENROLLED_AT_ONCE]
        images = [("images", (Path(one.path).name, encoded(one.path))) for one in samples]
        records = json.dumps([{"pid": one.pid, "camid": one.camid} for one in samples])
        answer = client.post(f"/v1/galleries/{GALLERY}/records", files=images, data={"records": records})
        answer.raise_for_status()
        ids[start : start + len(samples)] = answer.json()["ids"]
    return ids


def distances_of(client: httpx.Client, path: str, ids: np.ndarray, rerank: bool) -> np.ndarray:
    """Distance of one query to every gallery image, from the service's answer alone."""
    form: dict[str, Any] = {"gallery": GALLERY, "top": len(ids)}
    if rerank:
        form |= {"rerank": True, "rerank_pool": min(2000, len(ids))}
    while True:
        answer = client.post("/v1/search", files=[("images", ("query", encoded(path)))], data=form)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(float(answer.headers["retry-after"]))
    answer.raise_for_status()
    matches = answer.json()["results"][0]["matches"]
    found = {match["id"]: match["distance"] if rerank else 1 - match["similarity"] for match in matches}
    return np.array([found[one] for one in ids.tolist()], dtype=np.float32)


def over_http(args: argparse.Namespace, dataset: ReIDDataset) -> tuple[dict[str, Any], dict[str, float]]:
    """Figures and times of the service."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--gallery-root", folder, "--max-top", str(len(dataset.gallery)), "--timeout-s", "600"]
        options += ["--threads", str(args.threads)] if args.threads else []
        with served(args.artifact, *options) as service, httpx.Client(base_url=service["address"], timeout=600) as client:
            client.post("/v1/galleries", json={"name": GALLERY}).raise_for_status()
            start = time.perf_counter()
            ids = enroll(client, dataset.gallery)
            enrolled = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as clients:
                paths = dataset.query.paths
                rows = clients.map(
                    distances_of, itertools.repeat(client), paths, itertools.repeat(ids), itertools.repeat(args.rerank)
                )
                distances = np.stack(list(rows))
            searched = time.perf_counter()
    labels = (dataset.query.pids, dataset.query.camids, dataset.gallery.pids, dataset.gallery.camids)
    times = {
        "enrolled_per_s": len(dataset.gallery) / (enrolled - start),
        "searches_per_s": len(dataset.query) / (searched - enrolled),
        "num_shared_records": len(ids) - len(set(ids.tolist())),
    }
    return evaluate_ranking(distances, *labels).to_dict(), times


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="a checkpoint or an exported file")
    parser.add_argument("--data", required=True, help="a data set: DIR, or NAME=DIR")
    parser.add_argument("--num-ids", type=int, help="rank so many identities only")
    parser.add_argument(
        "--rerank", action="store_true", help="k-reciprocal re-ranking on both sides; a gallery of at most 2,000"
    )
    parser.add_argument("--threads", type=int, help="threads of the CPU that compute in the service")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of identities")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    dataset = some_identities(open_dataset(args.data), args.num_ids, args.seed)
    if args.rerank and len(dataset.gallery) > 2000:
        parser.error(f"the service re-ranks at most 2,000 records and the gallery has {len(dataset.gallery)}: give --num-ids")
    service, times = over_http(args, dataset)
    library = evaluate(Embedder.open(args.artifact), dataset, rerank=args.rerank).to_dict()
    differences = {name: abs(service[name] - library[name]) for name in FIGURES}
    result = {
        "machine": describe_machine(),
        "num_query": len(dataset.query),
        "num_gallery": len(dataset.gallery),
        "service": {name: service[name] for name in FIGURES},
        "library": {name: library[name] for name in FIGURES},
        "largest_difference": max(differences.values()),
        **times,
        "passed": max(differences.values()) < 5e-5,
    }
    lines = [
        f"{len(dataset.query)} queries, {len(dataset.gallery)} gallery images, {times['num_shared_records']} of the same bytes",
        "             " + "".join(f"{name:>10}" for name in FIGURES),
        "over HTTP    " + "".join(f"{100 * service[name]:10.4f}" for name in FIGURES),
        "hat eval     " + "".join(f"{100 * library[name]:10.4f}" for name in FIGURES),
        f"enrolled {times['enrolled_per_s']:.1f} images/s, searched {times['searches_per_s']:.1f} queries/s",
        result["machine"],
    ]
    finish(result, lines, args.json)


if __name__ == "__main__":
    main()
