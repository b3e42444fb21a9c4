"""Processes and threads: killed while they write, writing at once, reading while another writes."""

import dataclasses
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from enrolling_process import BATCH, record_of, row_of
from gallery_cases import BINDING, ENVIRONMENT, assert_neighbors, brute_force, new_records, open_small, run_python, unit_rows

from hat.errors import WorkError
from hat.serve import Record
from hat.serve.sqlite.gallery import SqliteGallery


def check_after_kill(path, num_acknowledged, first):
    """The gallery opens, holds whole calls only, and has all that was promised; the number of names that it knows."""
    with SqliteGallery.open(path) as gallery:
        with gallery._reader.reading() as sqlite:
            assert sqlite.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            count = sqlite.execute("SELECT num_records FROM state").fetchone()
            for table in ("embeddings", "thumbnails", "attributes"):
                assert sqlite.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == count
                query = f"SELECT COUNT(*) FROM {table} WHERE id NOT IN (SELECT id FROM records)"
                assert sqlite.execute(query).fetchone() == (0,)
        records = {record.source: record for record in gallery.records()}
        assert len(records) == len(gallery) >= num_acknowledged and len(gallery) % BATCH == 0
        new = range(first, len(gallery))
        for name in new:
            record = records[f"{name}.jpg"]
            others = {"id": record.id, "enrolled_s": record.enrolled_s, "thumbnail": None}  # the gallery's to say, or not read
            assert record == Record(**vars(record_of(name)) | others)
        if new:
            ids = [records[f"{name}.jpg"].id for name in new]
            np.testing.assert_array_equal(gallery.embeddings(ids), np.stack([row_of(name) for name in new]))
            assert gallery.search(row_of(new[-1])[None], 1).ids.item() == ids[-1]
        return len(gallery)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_while_it_enrolls_it_keeps_what_it_promised(tmp_path, times):
    rng, path = random.Random(7), tmp_path / "g"
    open_small(path, binding=dataclasses.replace(BINDING, embed_dim=64)).close()
    first = 0
    for _ in range(times):
        command = [sys.executable, str(Path(__file__).with_name("enrolling_process.py")), str(path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
            num_acknowledged = first
            for _ in range(rng.randrange(1, 12)):
                num_acknowledged = int(process.stdout.readline())
            timer = threading.Timer(rng.uniform(0, 0.03), process.send_signal, [signal.SIGKILL])
            timer.start()
            for line in process.stdout:  # what it still got to promise
                num_acknowledged = int(line) if line.endswith("\n") else num_acknowledged
            assert process.wait() == -signal.SIGKILL
        first = check_after_kill(path, num_acknowledged, first)
    assert first >= times * BATCH


def test_killed_while_it_is_made_a_gallery_is_whole_or_not_there(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from gallery_cases import *\n"
        "link = os.link\n"
        "def die(*paths):\n"
        "    if when == 'after':\n"
        "        link(*paths)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.link = die\n"
        "for when in ('before', 'after'):\n"
        "    if os.fork() == 0:\n"
        "        open_small(sys.argv[1] + '/' + when)\n"
        "        os._exit(0)\n"
        "    print(os.WTERMSIG(os.wait()[1]))\n"
    )
    done = run_python(code, tmp_path)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 2, done.stderr
    for name, is_there in (("before", False), ("after", True)):
        assert (tmp_path / name).exists() == is_there
        with open_small(tmp_path / name) as gallery:
            assert gallery.add(unit_rows(1), new_records("a")) == [1]


def test_a_second_writer_waits_for_the_first_and_searching_goes_on(tmp_path):
    rows = unit_rows(2)
    with open_small(tmp_path / "g") as other, open_small(tmp_path / "g", busy_timeout_s=60) as gallery:
        gallery.add(rows[:1], new_records("a"))
        with ThreadPoolExecutor(1) as pool:
            with other._writer.writing() as sqlite:
                sqlite.execute("UPDATE state SET generation = generation")
                waiting = pool.submit(gallery.add, rows[1:], new_records("b"))
                with pytest.raises(TimeoutError):
                    waiting.result(timeout=0.3)
                assert gallery.search(rows[:1], 2).ids.tolist() == [[1, -1]] and not waiting.done()
            assert waiting.result(timeout=60) == [2]
        assert set(gallery.search(rows[:1], 2).ids[0]) == {1, 2} and len(other) == 2


def test_a_writer_that_waited_in_vain_says_so(tmp_path):
    with open_small(tmp_path / "g") as first, open_small(tmp_path / "g", busy_timeout_s=0.1) as second:
        with first._writer.writing() as sqlite:
            sqlite.execute("UPDATE state SET generation = generation")
            for change in (lambda: second.add(unit_rows(1), new_records("b")), lambda: second.remove(pid=1), second.vacuum):
                with pytest.raises(WorkError, match=r"another process is writing .* within 0.1 s: nothing was changed"):
                    change()
            assert len(second) == 0 and second.search(unit_rows(1)).ids[0, 0] == -1  # reading goes on
        assert second.add(unit_rows(1), new_records("b")) == [1]


def test_readers_follow_a_process_that_enrolls(tmp_path):
    """Each search finds whole calls only, never less than the one before, and all of it in the end."""
    path = tmp_path / "g"
    open_small(path, binding=dataclasses.replace(BINDING, embed_dim=64)).close()
    command = [sys.executable, str(Path(__file__).with_name("enrolling_process.py")), str(path), "0"]
    with (
        SqliteGallery.open(path, read_only=True, map_above_bytes=20_000) as reader,
        subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) as process,
    ):
        try:
            for _ in range(30):
                promised = int(process.stdout.readline())
                found = reader.search(row_of(promised - 1)[None], 5000)
                count = int((found.ids >= 0).sum())
                assert count >= promised and count % BATCH == 0
                assert sorted(found.ids[0, :count]) == list(range(1, count + 1))
                assert found.ids[0, 0] == promised and found.similarities[0, 0] == 1
        finally:
            process.kill()


def test_many_threads_use_one_gallery(tmp_path):
    rows = unit_rows(400)
    failures = []
    with open_small(tmp_path / "g", map_above_bytes=3000) as gallery:

        def enroll(first):
            for at in range(first, first + 100, 10):
                gallery.add(rows[at : at + 10], new_records(range(at, at + 10)))

        def search():
            while not done.is_set():
                count = len(gallery)  # before the search, which may see more than this and never less
                found = gallery.search(rows[:2], 3)
                if count and (found.ids[0] < 0).all():
                    failures.append(found)
                gallery.get(found.ids[0][found.ids[0] >= 0].tolist())

        done = threading.Event()
        with ThreadPoolExecutor(6) as pool:
            searching = [pool.submit(search) for _ in range(2)]
            for writing in [pool.submit(enroll, first) for first in range(0, 400, 100)]:
                writing.result()
            done.set()
            for task in searching:
                task.result()
        assert not failures and len(gallery) == 400
        vectors = {record.id: rows[int(record.source.removesuffix(".jpg"))] for record in gallery.records()}
        assert_neighbors(gallery.search(rows[:5], 8), brute_force(vectors, rows[:5], 8))
