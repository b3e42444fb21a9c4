"""A gallery in plain Python and brute force: what every store has to agree with."""

import time
from dataclasses import replace

import numpy as np

from hat.serve import Gallery, GalleryCounts, Neighbors, Record
from hat.serve.gallery.records import missing_records


class MemoryGallery(Gallery):
    def __init__(self, binding, *, read_only=False):
        self.location = "memory"
        self.binding = binding
        self.stored_type = "float32"
        self.read_only = read_only
        self.rows = {}
        self.vectors = {}
        self.next_id = 1
        self.num_adds = 0
        self.is_closed = False

    def __len__(self):
        return len(self.rows)

    def add(self, embeddings, records):
        assert len(embeddings) == len(records) and embeddings.shape[1] == self.binding.embed_dim
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
        self.num_adds += 1
        by_hash = {record.content_hash: number for number, record in self.rows.items()}
        ids = []
        for vector, new in zip(embeddings, records, strict=True):
            if new.content_hash not in by_hash:
                known = vars(new) | {"enrolled_s": new.enrolled_s or time.time()}
                self.rows[self.next_id] = Record(**known, id=self.next_id)
                self.vectors[self.next_id] = np.array(vector, dtype=np.float32)
                by_hash[new.content_hash] = self.next_id
                self.next_id += 1
            ids.append(by_hash[new.content_hash])
        return ids

    def search(self, embeddings, top=10, where=None):
        ids = [int(one) for one in self.ids(where)]
        width = min(top, len(ids))
        found = np.full((len(embeddings), width), -1, dtype=np.int64)
        values = np.full((len(embeddings), width), np.nan, dtype=np.float32)
        for row, query in enumerate(embeddings):
            ranked = sorted((-float(np.dot(query, self.vectors[one])), one) for one in ids)[:width]
            found[row] = [one for _, one in ranked]
            values[row] = [-value for value, _ in ranked]
        return Neighbors(found, values)

    def get(self, ids, *, thumbnails=False):
        missing = [one for one in ids if one not in self.rows]
        if missing:
            raise missing_records(missing)
        return [self.rows[one] for one in ids]

    def embeddings(self, ids):
        if any(one not in self.vectors for one in ids):
            raise missing_records(ids)
        return np.stack([self.vectors[one] for one in ids]) if ids else np.empty((0, self.binding.embed_dim), np.float32)

    def ids(self, where=None):
        return np.array([one for one in sorted(self.rows) if where is None or passes(self.rows[one], where)], dtype=np.int64)

    def ids_by_hash(self, content_hashes):
        return {record.content_hash: one for one, record in self.rows.items() if record.content_hash in content_hashes}

    def counts(self):
        rows = list(self.rows.values())
        times = [record.time_s for record in rows if record.time_s is not None]
        return GalleryCounts(
            num_records=len(rows),
            by_pid={pid: sum(record.pid == pid for record in rows) for pid in {record.pid for record in rows}},
            by_camid={camid: sum(record.camid == camid for record in rows) for camid in {record.camid for record in rows}},
            first_seen_s=min(times, default=None),
            last_seen_s=max(times, default=None),
        )

    def remove(self, *, ids=None, pid=None, enrolled_before_s=None):
        gone = [
            one
            for one, record in self.rows.items()
            if (ids is not None and one in ids)
            or (pid is not None and record.pid == pid)
            or (enrolled_before_s is not None and record.enrolled_s < enrolled_before_s)
        ]
        for one in gone:
            del self.rows[one], self.vectors[one]
        return len(gone)

    def update(self, ids, labels):
        changed = 0
        for record in self.get(list(ids)):
            attributes = {**record.attributes, **labels.get("attributes", {})}
            other = replace(record, **{**labels, "attributes": attributes})
            changed += other != record
            self.rows[record.id] = other
        return changed

    def vacuum(self):
        pass

    def accept(self, compatible):
        raise NotImplementedError

    def close(self):
        self.is_closed = True


def passes(record, where):
    """A filter, said once more in the plainest way."""
    return (
        (where.camids is None or record.camid in where.camids)
        and record.camid not in where.exclude_camids
        and (where.pids is None or record.pid in where.pids)
        and (where.since_s is None or (record.time_s is not None and record.time_s >= where.since_s))
        and (where.until_s is None or (record.time_s is not None and record.time_s < where.until_s))
        and record.id not in where.exclude_ids
        and all(name in record.attributes and record.attributes[name] == value for name, value in where.attributes.items())
    )
