"""Batches: shared, cut, withdrawn, cancelled, failed, and always the same numbers."""

import asyncio

import numpy as np
import pytest
from PIL import Image
from service_stand_ins import ColorRuntime, colors, embedding_of, picture, until

from hat.errors import WorkError
from hat.serve.service import ServiceSettings
from hat.serve.service.audit import ServiceMetrics
from hat.serve.service.batching import Batcher, Pipeline
from hat.serve.service.uploads import UploadedImage


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 16), dtype=np.uint8)


@pytest.fixture
def runtime():
    return ColorRuntime()


def batcher_of(runtime, *, max_batch=8, max_wait_s=0.005, on_run=lambda num_images, seconds: None):
    return Batcher(runtime, max_batch=max_batch, max_wait_s=max_wait_s, on_run=on_run)


@pytest.fixture
def make(runtime):
    made = []

    def batcher(**options):
        made.append(batcher_of(runtime, **options))
        return made[-1]

    yield batcher
    runtime.held.set()
    for one in made:
        one.close()


@pytest.fixture
def held(make, runtime):
    """A batcher of 8 whose first run is under way and waits, and that run's future."""
    batcher = make()
    runtime.held.clear()
    first = batcher.submit(pixels(1))
    assert runtime.in_run.wait(10)
    return batcher, first


@pytest.mark.parametrize(("counts", "runs"), [((2, 1, 3), [6]), ((5, 2, 2, 8), [7, 2, 8])])
def test_batcher_shares_the_next_runs_in_order_among_what_arrives_meanwhile(held, runtime, counts, runs):
    batcher, _ = held
    futures = [batcher.submit(pixels(count, seed=count)) for count in counts]
    assert batcher.num_waiting == sum(counts)
    runtime.held.set()
    for future, count in zip(futures, counts, strict=True):
        np.testing.assert_array_equal(future.result(10), colors(pixels(count, seed=count)))
    assert runtime.batches == [1, *runs] and batcher.num_waiting == 0


def test_pipeline_splits_what_is_more_than_the_runtime_takes(runtime):
    runtime.max_batch = 2
    pipeline = Pipeline(runtime, ServiceSettings(), ServiceMetrics())
    assert pipeline.batcher.max_batch == 2
    images = [Image.fromarray(image) for image in pixels(5).transpose(0, 2, 3, 1)]
    np.testing.assert_array_equal(pipeline.embed(images), colors(pixels(5)))
    encoded = [UploadedImage("a", picture(seed)) for seed in range(5)]
    expected = [embedding_of(image.data) for image in encoded]
    np.testing.assert_allclose(asyncio.run(pipeline.embed_encoded(encoded)), expected, atol=1e-6)
    pipeline.close()
    assert sum(runtime.batches) == 10 and max(runtime.batches) == 2


def test_batcher_waits_for_announced_images_alone_and_not_for_ever(make, runtime):
    batcher = make(max_wait_s=3600)
    batcher.submit(pixels(1)).result(10)
    batcher.announce(3)
    first = batcher.submit(pixels(1), announced=1)
    second = batcher.submit(pixels(1), announced=1)
    assert not first.done()
    batcher.announce(-1)
    assert first.result(10) is not None and second.result(10) is not None
    assert runtime.batches == [1, 2]
    hasty = make(max_wait_s=0.01)
    hasty.announce(1)
    hasty.submit(pixels(1)).result(10)
    assert runtime.batches == [1, 2, 1]


def test_batcher_never_runs_what_is_cancelled_before(held, runtime):
    batcher, running = held
    dropped, kept = batcher.submit(pixels(5)), batcher.submit(pixels(2))
    assert dropped.cancel() and not running.cancel()
    runtime.held.set()
    kept.result(10)
    assert runtime.batches == [1, 2] and batcher.num_waiting == 0


def test_batcher_gives_a_failure_to_its_run_alone(make, runtime):
    batcher = make(max_batch=2)
    runtime.failure = RuntimeError("out of memory")
    failed = batcher.submit(pixels(2))
    with pytest.raises(RuntimeError, match="out of memory"):
        failed.result(10)
    until(lambda: batcher.num_waiting == 0)
    runtime.failure = None
    np.testing.assert_array_equal(batcher.submit(pixels(2)).result(10), colors(pixels(2)))


def test_close_runs_what_waits_and_takes_no_more(runtime):
    told = []
    batcher = batcher_of(runtime, max_batch=4, on_run=lambda count, seconds: told.append((count, seconds >= 0)))
    runtime.held.clear()
    futures = [batcher.submit(pixels(1)) for _ in range(6)]
    runtime.held.set()
    batcher.close()
    batcher.close()
    assert all(future.done() for future in futures) and sum(runtime.batches) == 6 and not batcher.is_alive
    assert told == [(count, True) for count in runtime.batches]
    with pytest.raises(WorkError, match="shutting down"):
        batcher.submit(pixels(1))


@pytest.mark.parametrize(("device", "num_decoded"), [("cpu", 0), ("cuda", 2)])
def test_pipeline_decodes_beside_the_model_only_where_it_has_a_device_of_its_own(device, num_decoded, runtime):
    runtime.device_type = device
    pipeline = Pipeline(runtime, ServiceSettings(num_decoders=2), ServiceMetrics())
    images = [UploadedImage("a", picture(seed)) for seed in range(3)]

    async def embed():
        runtime.held.clear()
        first = asyncio.create_task(pipeline.embed_encoded(images[:1]))
        while not runtime.in_run.is_set():
            await asyncio.sleep(0.005)
        others = [asyncio.create_task(pipeline.embed_encoded([image])) for image in images[1:]]
        await asyncio.sleep(0.1)
        while pipeline.batcher.num_waiting < num_decoded:
            await asyncio.sleep(0.005)
        waiting = pipeline.batcher.num_waiting
        runtime.held.set()
        return waiting, [(await task)[0] for task in (first, *others)]

    waiting, rows = asyncio.run(embed())
    pipeline.close()
    assert waiting == num_decoded
    np.testing.assert_allclose(rows, [embedding_of(image.data) for image in images], atol=1e-6)
