"""Any history of additions, removals, vacuums, reopenings and restored backups, beside a dictionary and brute force."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from gallery_cases import EMBED_DIM, assert_neighbors, brute_force, new_record, open_small, passes, sha256, unit_rows
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hat.errors import UsageError
from hat.serve import Filter

VECTORS = unit_rows(7)  # few, so that many records are equally near


class Histories(RuleBasedStateMachine):
    """A writer, a reader, and what both should answer."""

    @initialize(
        stored_type=st.sampled_from(["float32", "float16"]),
        # All in memory; all in a mapped file; and some in each, since some tens of records come to this.
        map_above_bytes=st.sampled_from([2**31, 0, 6 * EMBED_DIM * 4]),
    )
    def begin(self, stored_type, map_above_bytes):
        self.folder = Path(tempfile.mkdtemp())
        self.stored_type, self.map_above_bytes = stored_type, map_above_bytes
        self.records, self.vectors, self.last_id, self.num_names = {}, {}, 0, 0
        self.backup = None
        self.open()

    def open(self):
        options = {"stored_type": self.stored_type, "map_above_bytes": self.map_above_bytes}
        self.writer = open_small(self.folder / "g", **options)
        with self.writer._writer.exclusive() as sqlite:
            sqlite.execute("PRAGMA synchronous = OFF")  # nothing is killed here, and the disk takes most of the time
        self.reader = open_small(self.folder / "g", read_only=True, **options)

    def close(self):
        self.reader.close()
        self.writer.close()

    @rule(
        names=st.lists(st.integers(0, 40), min_size=1, max_size=12),
        pid=st.none() | st.integers(0, 3),
        camid=st.none() | st.integers(0, 2),
        which=st.integers(0, 6),
    )
    def add(self, names, pid, camid, which):
        vectors = VECTORS[[(which + name) % len(VECTORS) for name in names]]
        given = [new_record(name, pid=pid, camid=camid, attributes={"even": name % 2 == 0}) for name in names]
        known = {record.content_hash: id_ for id_, record in self.records.items()}
        expected = []
        for record, vector in zip(given, vectors, strict=True):
            if record.content_hash not in known:
                self.last_id += 1
                known[record.content_hash] = self.last_id
                self.vectors[self.last_id] = vector.astype(self.stored_type)
            expected.append(known[record.content_hash])
        assert self.writer.add(vectors, given) == expected
        for record in self.writer.get(sorted(set(expected) - set(self.records))):
            self.records[record.id] = record

    @rule(data=st.data())
    def remove_some(self, data):
        ids = data.draw(st.sets(st.integers(1, max(self.last_id, 1))))
        assert self.writer.remove(ids=ids) == len(ids & self.records.keys())
        self.keep(lambda record: record.id not in ids)

    @rule(pid=st.integers(0, 3))
    def remove_person(self, pid):
        assert self.writer.remove(pid=pid) == sum(record.pid == pid for record in self.records.values())
        self.keep(lambda record: record.pid != pid)

    def keep(self, stays):
        self.records = {id_: record for id_, record in self.records.items() if stays(record)}
        self.vectors = {id_: self.vectors[id_] for id_ in self.records}

    @rule()
    def vacuum(self):
        self.writer.vacuum()
        assert not list(self.folder.glob("g-vectors*"))

    @rule()
    def reopen(self):
        self.close()
        self.open()

    @rule()
    def make_backup(self):
        self.close()
        self.backup = (dict(self.records), dict(self.vectors), self.last_id)
        shutil.copy(self.folder / "g", self.folder / "backup")
        self.open()

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore_backup(self):
        """The file of vectors that lies beside the gallery is of another history then, and ids will be given anew."""
        self.close()
        shutil.copy(self.folder / "backup", self.folder / "g")
        self.records, self.vectors, self.last_id = dict(self.backup[0]), dict(self.backup[1]), self.backup[2]
        self.open()

    @rule(
        seed=st.integers(0, 9),
        num_queries=st.integers(1, 12),
        top=st.integers(1, 30),
        where=st.builds(
            Filter,
            camids=st.none() | st.frozensets(st.integers(0, 2)),
            pids=st.none() | st.frozensets(st.integers(0, 3)),
            exclude_ids=st.frozensets(st.integers(1, 20)),
            attributes=st.sampled_from([{}, {"even": True}]),
        ),
        by_reader=st.booleans(),
    )
    def search(self, seed, num_queries, top, where, by_reader):
        queries = np.vstack([VECTORS, unit_rows(5, seed)])[:num_queries]
        passing = {id_: self.vectors[id_] for id_, record in self.records.items() if passes(record, where)}
        gallery = self.reader if by_reader else self.writer
        assert_neighbors(gallery.search(queries, top, where), brute_force(passing, queries, top))

    @rule()
    def read(self):
        ids = sorted(self.records)
        assert self.reader.get(ids) == [self.records[id_] for id_ in ids]
        if ids:
            expected = np.array([self.vectors[id_] for id_ in ids], dtype=np.float32)
            np.testing.assert_allclose(self.reader.embeddings(ids), expected, atol=1e-3)
        gone = self.last_id + 1
        with pytest.raises(UsageError, match=f"no record with id {gone}"):
            self.writer.get([gone])
        assert self.writer.ids_by_hash([sha256(name) for name in range(41)]) == {
            record.content_hash: id_ for id_, record in self.records.items()
        }

    @invariant()
    def counts_agree(self):
        if not hasattr(self, "records"):
            return
        for gallery in (self.writer, self.reader):
            assert len(gallery) == len(self.records)
            assert gallery.ids().tolist() == sorted(self.records)
        assert sum(self.reader.counts().by_pid.values()) == len(self.records)

    def teardown(self):
        if hasattr(self, "folder"):
            self.close()
            shutil.rmtree(self.folder)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
