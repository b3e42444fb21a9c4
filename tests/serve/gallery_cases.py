"""What the tests of galleries share: made-up embeddings and records, and the answer by brute force."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from hat.preprocessing import Preprocessing
from hat.serve import Binding, NewRecord
from hat.serve.gallery.identities import name_number
from hat.serve.sqlite.gallery import SqliteGallery

EMBED_DIM = 8

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

BINDING = Binding(
    fingerprint="a" * 64,
    name="market",
    model={"backbone": {"name": "resnet50"}, "depths": [0, 4, 4, 4]},
    preprocessing=Preprocessing(),
    source_sha256="b" * 64,
    precision="fp32",
    embed_dim=EMBED_DIM,
)


def open_small(path, **options):
    """A gallery of small embeddings, made where it is not there."""
    return SqliteGallery.open(path, **{"binding": BINDING, "create": True, **options})


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def unit_rows(count, seed=0, dim=EMBED_DIM):
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def sha256(text):
    return hashlib.sha256(str(text).encode()).hexdigest()


def new_record(name, **values):
    return NewRecord(**{"content_hash": sha256(name), "source": f"{name}.jpg", **values})


def new_records(names, **values):
    return [new_record(name, **values) for name in names]


def passes(record, where):
    """Whether a record passes a filter, in the words of its documentation; names may be there as stores number them."""
    known, pid = record.attributes, record.pid
    return (
        (where.camids is None or record.camid in where.camids)
        and record.camid not in where.exclude_camids
        and (where.pids is None or (pid is not None and not where.pids.isdisjoint({pid, name_number(pid)})))
        and (where.since_s is None or (record.time_s is not None and record.time_s >= where.since_s))
        and (where.until_s is None or (record.time_s is not None and record.time_s < where.until_s))
        and record.id not in where.exclude_ids
        and all(isinstance(known.get(name), bool) == isinstance(value, bool) for name, value in where.attributes.items())
        and all(name in known and known[name] == value for name, value in where.attributes.items())
    )


def brute_force(vectors_by_id, queries, top):
    """Ids and similarities by sorting everything: similarities summed in float64 and rounded once, equal ones by their ids."""
    ids = np.full((len(queries), top), -1, dtype=np.int64)
    similarities = np.full((len(queries), top), np.nan, dtype=np.float32)
    for row, query in enumerate(queries.astype(np.float64)):
        products = {id_: np.dot(vector.astype(np.float64), query) for id_, vector in vectors_by_id.items()}
        hits = sorted((-np.float32(np.clip(product, -1, 1)), id_) for id_, product in products.items())[:top]
        ids[row, : len(hits)] = [id_ for _, id_ in hits]
        similarities[row, : len(hits)] = [-negated for negated, _ in hits]
    return ids, similarities


def assert_neighbors(found, expected):
    np.testing.assert_array_equal(found.ids, expected[0])
    np.testing.assert_array_equal(found.similarities, expected[1])


def run_python(code, *arguments):
    """Run Python that finds these files in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
