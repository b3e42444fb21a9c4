"""Batches: shared, split, withdrawn, cancelled, failed, and always the same numbers."""

import asyncio
from concurrent.futures import Future

import numpy as np
import pytest
from service_stand_ins import ColorRuntime, colors, picture, until

from hat.errors import UsageError, WorkError
from hat.runtime import TorchRuntime
from hat.serve.service import ServiceSettings
from hat.serve.service.batching import Batcher
from hat.serve.service.metrics import ServiceMetrics
from hat.serve.service.pipeline import Pipeline
from hat.serve.service.uploads import UploadedImage


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 16), dtype=np.uint8)


@pytest.fixture
def runtime():
    return ColorRuntime()


@pytest.fixture
def make(runtime):
    made = []

    def batcher(**options):
        made.append(Batcher(runtime, **options))
        return made[-1]

    yield batcher
    runtime.held.set()
    for one in made:
        one.close()


def test_what_arrives_while_the_model_runs_shares_the_next_run(make, runtime):
    batcher = make(max_batch=8)
    runtime.held.clear()
    first = batcher.submit(pixels(1))
    assert runtime.in_run.wait(10)
    others = [batcher.submit(pixels(count, seed=count)) for count in (2, 1, 3)]
    assert batcher.num_waiting == 6
    runtime.held.set()
    results = [future.result(10) for future in (first, *others)]
    assert runtime.batches == [1, 6]
    for rows, count in zip(results[1:], (2, 1, 3), strict=True):
        np.testing.assert_array_equal(rows, colors(pixels(count, seed=count)))
    assert batcher.num_waiting == 0


def test_a_group_that_is_larger_than_a_run_is_split_and_put_together_again(make, runtime):
    batcher = make(max_batch=4)
    rows = batcher.submit(pixels(11)).result(10)
    assert runtime.batches == [4, 4, 3]
    np.testing.assert_array_equal(rows, colors(pixels(11)))


def test_the_runtimes_own_limit_holds(runtime):
    runtime.max_batch = 2
    batcher = Batcher(runtime, max_batch=32)
    assert batcher.max_batch == 2
    batcher.submit(pixels(5)).result(10)
    batcher.close()
    assert runtime.batches == [2, 2, 1]


def test_a_lone_image_is_not_held_back(make, runtime):
    make(max_batch=8, max_wait_s=3600).submit(pixels(1)).result(10)
    assert runtime.batches == [1]


def test_a_run_waits_for_images_that_were_announced(make, runtime):
    batcher = make(max_batch=8, max_wait_s=3600)
    batcher.announce(3)
    first = batcher.submit(pixels(1), announced=1)
    second = batcher.submit(pixels(1), announced=1)
    assert not first.done()
    batcher.withdraw(1)
    assert first.result(10) is not None and second.result(10) is not None
    assert runtime.batches == [2]


def test_a_run_does_not_wait_for_announced_images_for_ever(make, runtime):
    batcher = make(max_batch=8, max_wait_s=0.01)
    batcher.announce(1)
    batcher.submit(pixels(1)).result(10)
    assert runtime.batches == [1]


def test_what_is_cancelled_before_its_run_is_never_run(make, runtime):
    batcher = make(max_batch=8)
    runtime.held.clear()
    running = batcher.submit(pixels(1))
    assert runtime.in_run.wait(10)
    dropped, kept = batcher.submit(pixels(5)), batcher.submit(pixels(2))
    assert dropped.cancel() and not running.cancel()
    runtime.held.set()
    kept.result(10)
    assert runtime.batches == [1, 2] and batcher.num_waiting == 0


def test_a_failure_belongs_to_its_run_alone(make, runtime):
    batcher = make(max_batch=2)
    runtime.failure = RuntimeError("out of memory")
    split = batcher.submit(pixels(5))
    with pytest.raises(RuntimeError, match="out of memory"):
        split.result(10)
    until(lambda: batcher.num_waiting == 0)
    runtime.failure = None
    np.testing.assert_array_equal(batcher.submit(pixels(3)).result(10), colors(pixels(3)))


def test_closing_runs_what_waits_and_takes_no_more(runtime):
    batcher = Batcher(runtime, max_batch=4)
    runtime.held.clear()
    futures = [batcher.submit(pixels(1)) for _ in range(6)]
    runtime.held.set()
    batcher.close()
    batcher.close()
    assert all(future.done() for future in futures) and sum(runtime.batches) == 6 and not batcher.is_alive
    with pytest.raises(WorkError, match="shutting down"):
        batcher.submit(pixels(1))


def test_images_of_another_shape_are_refused_and_their_announcement_is_taken_back(make, runtime):
    batcher = make(max_batch=4, max_wait_s=3600)
    batcher.announce(2)
    for wrong in (pixels(2)[..., :8], pixels(2).astype(np.float32), pixels(0)):
        with pytest.raises(UsageError, match="expected"):
            batcher.submit(wrong)
    with pytest.raises(UsageError):
        batcher.submit(pixels(0), Future(), announced=2)
    batcher.submit(pixels(1)).result(10)


def test_runs_are_told_with_their_size(runtime):
    told = []
    batcher = Batcher(runtime, max_batch=4, on_run=lambda count, seconds: told.append((count, seconds >= 0)))
    batcher.submit(pixels(6)).result(10)
    batcher.close()
    assert told == [(4, True), (2, True)]


def test_a_real_model_gives_in_any_batch_what_it_gives_alone(tiny_model):
    runtime = TorchRuntime(tiny_model)
    images = np.random.default_rng(1).integers(0, 256, (9, 3, 64, 32), dtype=np.uint8)
    alone = np.concatenate([runtime.run(image[None]) for image in images])
    batcher = Batcher(runtime, max_batch=4)
    futures = [batcher.submit(images[start:stop]) for start, stop in ((0, 1), (1, 6), (6, 9))]
    together = np.concatenate([future.result(30) for future in futures])
    batcher.close()
    np.testing.assert_allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize(("device", "num_decoded"), [("cpu", 0), ("cuda", 2)])
def test_images_are_decoded_beside_the_model_only_where_it_has_a_device_of_its_own(device, num_decoded):
    runtime = ColorRuntime()
    runtime.device_type = device
    pipeline = Pipeline(runtime, ServiceSettings(num_decoders=2), ServiceMetrics())
    images = [UploadedImage("a", picture(seed)) for seed in range(3)]

    async def embed():
        runtime.held.clear()
        first = asyncio.create_task(pipeline.embed(images[:1]))
        while not runtime.in_run.is_set():
            await asyncio.sleep(0.005)
        others = [asyncio.create_task(pipeline.embed([image])) for image in images[1:]]
        await asyncio.sleep(0.1)
        while pipeline.batcher.num_waiting < num_decoded:
            await asyncio.sleep(0.005)
        waiting = pipeline.batcher.num_waiting
        runtime.held.set()
        return waiting, [len(await task) for task in (first, *others)]

    assert asyncio.run(embed()) == (num_decoded, [1, 1, 1])
    pipeline.close()
