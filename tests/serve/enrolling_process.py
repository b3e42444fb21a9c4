"""A process that enrolls until it is killed: after each commit it writes down the last name that it was promised for good."""

import sys

import numpy as np
from gallery_cases import new_record, open_small, unit_rows

BATCH = 7  # records of one call


def record_of(name):
    return new_record(
        name, pid=name % 50, camid=name % 3, time_s=float(name), attributes={"name": name}, thumbnail=b"\xff\xd8" + bytes(300)
    )


def row_of(name):
    return unit_rows(1, seed=name, dim=64)[0]


def main():
    """Enroll from a name on, searching now and then, with a vacuum and removals between."""
    path, first = sys.argv[1], int(sys.argv[2])
    with open_small(path, binding=None, create=False, map_above_bytes=100_000) as gallery:
        for start in range(first, first + 100_000, BATCH):
            names = range(start, start + BATCH)
            gallery.add(np.stack([row_of(name) for name in names]), [record_of(name) for name in names])
            sys.stdout.write(f"{start + BATCH}\n")
            sys.stdout.flush()
            if start // BATCH % 5 == 4:
                gallery.search(row_of(start)[None], 3)
            if start // BATCH % 20 == 19:
                gallery.vacuum()


if __name__ == "__main__":
    main()
