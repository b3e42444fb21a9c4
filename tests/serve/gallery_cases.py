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


def unit_rows(count, seed=0, dim=EMBED_DIM):
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sha256(text):
    return hashlib.sha256(str(text).encode()).hexdigest()


def new_record(name, **values):
    return NewRecord(**{"content_hash": sha256(name), "source": f"{name}.jpg", **values})


def new_records(names, **values):
    return [new_record(name, **values) for name in names]


def passes(record, where):
    """Whether a record passes a filter, in the words of its documentation; names may be there as stores number them."""
    return (
        (where.camids is None or (record.camid is not None and record.camid in where.camids))
        and (record.camid is None or record.camid not in where.exclude_camids)
        and (
            where.pids is None or (record.pid is not None and not where.pids.isdisjoint({record.pid, name_number(record.pid)}))
        )
        and (where.since_s is None or (record.time_s is not None and record.time_s >= where.since_s))
        and (where.until_s is None or (record.time_s is not None and record.time_s < where.until_s))
        and record.id not in where.exclude_ids
        and all(
            name in record.attributes
            and isinstance(record.attributes[name], bool) == isinstance(value, bool)
            and record.attributes[name] == value
            for name, value in where.attributes.items()
        )
    )


def brute_force(vectors_by_id, queries, top):
    """Ids and similarities by sorting everything: similarities summed in float64 and rounded once, equal ones by their ids."""
    ids = np.full((len(queries), top), -1, dtype=np.int64)
    similarities = np.full((len(queries), top), np.nan, dtype=np.float32)
    for row, query in enumerate(queries.astype(np.float64)):
        products = {
            id_: np.float32(np.clip(np.dot(vector.astype(np.float64), query), -1, 1)) for id_, vector in vectors_by_id.items()
        }
        order = sorted(products, key=lambda id_: (-products[id_], id_))[:top]
        ids[row, : len(order)] = order
        similarities[row, : len(order)] = [products[id_] for id_ in order]
    return ids, similarities


def assert_neighbors(found, expected):
    np.testing.assert_array_equal(found.ids, expected[0])
    np.testing.assert_array_equal(found.similarities, expected[1])


def run_as_somebody(code, *arguments):
    """Run Python in a process that permissions apply to: root gives itself up when everything has been imported.

    What libraries import at their first use only is called for by a search beforehand: the packages may lie where root
    alone reads.
    """
    prelude = (
        "import mmap, os, sys, tempfile\n"
        "from gallery_cases import *\n"
        "with tempfile.TemporaryDirectory() as scratch, open_small(scratch + '/g', map_above_bytes=0) as gallery:\n"
        "    gallery.add(unit_rows(3), new_records(range(3)))\n"
        "    gallery.search(gallery.embeddings([2]), 1)\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
