"""Many images at once: order, bad ones, bounded work ahead, and threads that end."""

import threading
import time

import numpy as np
import pytest
import torch

from hat.data import Sample, Split, check_images, iterate_batches, load_images, loading, read_image
from hat.data.images import decode_image, read_encoded
from hat.data.loading import map_in_order
from hat.errors import ImageError, UsageError
from hat.preprocessing import Preprocessing

SMALL = Preprocessing(height=32, width=16)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def num_threads():
    return sum(thread.name.startswith("hat-images") for thread in threading.enumerate())


@pytest.fixture
def paths(tmp_path, picture):
    """Forty images, each of a color of its own."""
    for i in range(40):
        picture(10 + i, 20, seed=i).save(tmp_path / f"{i:02d}.png")
    return [str(tmp_path / f"{i:02d}.png") for i in range(40)]


def reference(paths):
    return torch.stack([SMALL(read_image(path)) for path in paths])


def test_load_images_one_tensor_in_order(paths):
    counts: list[int] = []
    images = load_images(paths, SMALL, progress=counts.append)
    assert sum(counts) == len(paths) and len(counts) > 1
    assert images.dtype == torch.uint8
    assert torch.equal(images, reference(paths))
    assert load_images([], SMALL).shape == (0, 3, 32, 16) and list(iterate_batches([], SMALL, 4)) == []
    assert num_threads() == 0


@pytest.mark.parametrize(("num_workers", "batch_size"), [(0, 7), (1, 40), (3, 1), (3, 7), (3, 64)])
@pytest.mark.parametrize("in_turns", [False, True])
def test_batches_in_order(paths, num_workers, batch_size, in_turns):
    batches = list(iterate_batches(paths, SMALL, batch_size, num_workers=num_workers, in_turns=in_turns))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.equal(torch.cat(batches), reference(paths))
    assert num_threads() == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_iterate_batches_bad_images_are_raised_or_told_in_order_and_left_black(paths, num_workers, tmp_path):
    expected = reference(paths)
    for i in (33, 17):
        (tmp_path / f"{i}.png").write_bytes(b"")
        expected[i] = 0
    bad: list[int] = []

    def note(index, error):
        assert threading.current_thread() is threading.main_thread()
        assert str(error).startswith(paths[index])
        bad.append(index)

    assert torch.equal(torch.cat(list(iterate_batches(paths, SMALL, 6, num_workers=num_workers, on_bad=note))), expected)
    assert torch.equal(load_images(paths, SMALL, on_bad=note), expected)
    assert bad == [17, 33] * 2
    for call in (lambda: load_images(paths, SMALL), lambda: list(iterate_batches(paths, SMALL, 8, num_workers=num_workers))):
        with pytest.raises(ImageError, match=r"17\.png: empty"):
            call()
        assert num_threads() == 0


@pytest.mark.parametrize("stop", ["close", "drop"])
def test_threads_end_when_the_reader_stops_early(paths, stop):
    batches = iterate_batches(paths, SMALL, 2, num_workers=3)
    next(batches)
    assert num_threads() > 0
    if stop == "close":
        batches.close()
    del batches
    assert num_threads() == 0


@pytest.mark.parametrize("in_turns", [False, True])
def test_in_turns_nothing_is_decoded_while_the_caller_works(paths, monkeypatch, in_turns):
    begun, working, decoded_meanwhile, read = threading.Event(), threading.Event(), [], []

    def decode(data, name):
        if not in_turns and len(decoded_meanwhile) >= 10:
            begun.wait(10)  # otherwise fast threads are done before the caller has begun
        decoded_meanwhile.append(working.is_set())
        return decode_image(data, name)

    monkeypatch.setattr(loading, "decode_image", decode)
    monkeypatch.setattr(loading, "read_encoded", lambda path: (read.append(path), read_encoded(path))[1])
    batches = []
    for batch in iterate_batches(paths, SMALL, 10, num_workers=2, in_turns=in_turns):
        working.set()
        begun.set()
        wait_until(lambda: len(read) > 10 * (len(batches) + 1) or len(batches) == 3)  # files are read ahead in both
        if in_turns:
            time.sleep(0.05)
        else:
            wait_until(lambda: sum(decoded_meanwhile) >= 10)
        batches.append(batch)
        working.clear()
    assert torch.equal(torch.cat(batches), reference(paths))
    # A thread that is in the middle of an image when the turn ends may still begin the one it was let through for.
    assert not in_turns or sum(decoded_meanwhile) <= 2 * len(batches)


@pytest.mark.parametrize("at", [0, 1])
def test_threads_that_wait_for_their_turn_end_too(paths, at, tmp_path):
    def read():
        return iterate_batches([*paths, str(tmp_path / "missing.png")], SMALL, 10, num_workers=2, in_turns=True)

    batches = read()
    for _ in range(at + 1):
        next(batches)
    batches.close()
    assert num_threads() == 0
    with pytest.raises(ImageError, match=r"missing\.png"):
        list(read())
    assert num_threads() == 0


def test_work_ahead_is_bounded_and_results_are_in_order_however_long_each_takes():
    taken: list[int] = []

    def items():
        for i in range(60):
            taken.append(i)
            yield i

    delays = np.random.default_rng(0).uniform(0, 0.003, 60)
    results = map_in_order(lambda i: time.sleep(delays[i]) or i, items(), num_workers=2, window=5)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(taken) <= 6
    assert list(results) == list(range(1, 60))


def test_iterate_batches_arguments_are_checked_at_the_call(paths):
    with pytest.raises(UsageError, match="batch_size is 0"):
        iterate_batches(paths, SMALL, 0)
    with pytest.raises(UsageError, match="num_workers is -1"):
        iterate_batches(paths, SMALL, 1, num_workers=-1)


def test_check_images_leaves_bad_ones_out_with_the_reason(paths, tmp_path):
    split = Split("query", [Sample(path, pid, pid % 3) for pid, path in enumerate(paths)])
    assert check_images(split) == (split, [])
    (tmp_path / "05.png").write_bytes(b"")
    (tmp_path / "07.png").unlink()
    (tmp_path / "39.png").write_bytes((tmp_path / "39.png").read_bytes()[:-30])
    good, bad = check_images(split)
    assert good.name == "query"
    assert good.samples == tuple(sample for sample in split if sample.pid not in (5, 7, 39))
    assert [path for path, _ in bad] == [str(tmp_path / name) for name in ("05.png", "07.png", "39.png")]
    assert [reason for _, reason in bad[:2]] == ["empty (0 bytes)", "there is no such file"]
