"""A gallery in plain Python and brute force: what every store has to agree with."""

from collections import Counter
from dataclasses import replace

import numpy as np
from gallery_cases import brute_force, passes

from hat.serve import Gallery, GalleryCounts, Neighbors, Record
from hat.serve.gallery.records import missing_records


class MemoryGallery(Gallery):
    def __init__(self, binding, *, read_only=False):
        self.location, self.binding, self.stored_type, self.read_only = "memory", binding, "float32", read_only
        self.rows, self.vectors = {}, {}
        self.last_id = self.num_adds = 0

    def counts(self):
        rows = list(self.rows.values())
        times = [record.time_s for record in rows if record.time_s is not None]
        by_pid, by_camid = Counter(record.pid for record in rows), Counter(record.camid for record in rows)
        seen = {"first_seen_s": min(times, default=None), "last_seen_s": max(times, default=None)}
        return GalleryCounts(num_records=len(rows), by_pid=by_pid, by_camid=by_camid, **seen)

    def close(self):
        pass

    def _read_binding(self):
        return self.binding

    def _accept(self, compatible):
        return self.binding.accepting(compatible)

    def _count(self, where):
        return len(self._ids(where))

    def _ids(self, where, after_id=0, limit=None):
        ids = [one for one in sorted(self.rows) if one > after_id and (where is None or passes(self.rows[one], where))]
        return np.array(ids[:limit], dtype=np.int64)

    def _ids_by_hash(self, content_hashes):
        return {record.content_hash: one for one, record in self.rows.items() if record.content_hash in content_hashes}

    def _read(self, ids, thumbnails):
        return {one: self.rows[one] for one in ids if one in self.rows}

    def _read_vectors(self, ids):
        return [([one], self.vectors[one][None]) for one in ids if one in self.rows]

    def _nearest(self, queries, top, where):
        return Neighbors(*brute_force({one: self.vectors[one] for one in self._ids(where).tolist()}, queries, top))

    def _insert(self, vectors, records):
        self.num_adds += 1
        by_hash = {record.content_hash: one for one, record in self.rows.items()}
        for vector, new in zip(vectors, records, strict=True):
            if new.content_hash not in by_hash:
                self.last_id += 1
                by_hash[new.content_hash] = self.last_id
                self.rows[self.last_id], self.vectors[self.last_id] = Record(**vars(new), id=self.last_id), vector.copy()
        return [by_hash[new.content_hash] for new in records]

    def _remove(self, ids, pid, enrolled_before_s):
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

    def _update(self, ids, labels):
        if missing := set(ids) - self.rows.keys():
            raise missing_records(missing)
        changed = 0
        for one in ids:
            before = self.rows[one]
            attributes = {**before.attributes, **labels.get("attributes", {})}
            self.rows[one] = replace(before, **{**labels, "attributes": attributes})
            changed += self.rows[one] != before
        return changed

    def _vacuum(self):
        pass
