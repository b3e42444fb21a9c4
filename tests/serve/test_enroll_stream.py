"""Enrollment as a stream: what is written when, what is asked of the model, and what is left when it stops."""

import io
import itertools
import json

import numpy as np
import pytest
from gallery_cases import open_small
from PIL import Image
from tiny_hat import lively_hat

import hat
from hat.errors import ImageError, UsageError, WorkError
from hat.runtime import TorchRuntime, runtime_info
from hat.serve import Enrollment, Item, binding_of, enroll_images
from hat.serve.gallery.person_crops import content_hash


def png(seed, size=(80, 40)):
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def item(seed, **labels):
    return Item(source=f"{seed}.png", read=lambda: png(seed), **labels)


class CountingEmbedder(hat.Embedder):
    """Keeps what it was asked."""

    def embed(self, images):
        self.batches.append(len(images))
        return super().embed(images)


@pytest.fixture(scope="module")
def runtime():
    return TorchRuntime(lively_hat())


@pytest.fixture
def embedder(runtime):
    embedder = CountingEmbedder(runtime)
    embedder.batches = []
    return embedder


@pytest.fixture
def gallery(embedder, tmp_path):
    with open_small(tmp_path / "g", binding=binding_of(runtime_info(embedder.runtime))) as opened:
        yield opened


def test_embeddings_are_those_of_the_images_whole_or_cropped(gallery, embedder):
    items = [item(0, pid=1, camid=2, time_s=3.0, attributes={"a": 1}), item(1), item(1, pid=7)]
    boxed = Item(source="1.png", read=lambda: png(1), box=(5, -4, 38, 70))
    found = enroll_images(gallery, embedder, [*items, boxed], batch_size=3, thumbnail_height=32)
    assert (found.ids, found.num_added, found.num_known, found.bad) == ([1, 2, 2, 3], 3, 1, [])
    whole = [Image.open(io.BytesIO(png(seed))).convert("RGB") for seed in (0, 1)]
    expected = embedder.embed([*whole, whole[1].crop((5, 0, 38, 70))])
    np.testing.assert_allclose(gallery.embeddings([1, 2, 3]), expected, atol=1e-6)
    first, second, third = gallery.get([1, 2, 3], thumbnails=True)
    assert (first.pid, first.camid, first.time_s, dict(first.attributes)) == (1, 2, 3.0, {"a": 1})
    assert (first.source, first.content_hash) == ("0.png", content_hash(png(0)))
    # The first to be enrolled says who it is; a copy changes nothing.
    assert second.pid is None and dict(third.attributes) == {"box": "5,-4,38,70"}
    assert third.content_hash != second.content_hash
    with Image.open(io.BytesIO(third.thumbnail)) as small:
        assert (small.format, small.size) == ("JPEG", (15, 32))


def test_enrolling_again_asks_the_model_for_nothing(gallery, embedder):
    items = [item(seed) for seed in range(10)]
    assert enroll_images(gallery, embedder, items, batch_size=4).num_added == 10
    assert embedder.batches == [4, 4, 2]
    again = enroll_images(gallery, embedder, reversed(items), batch_size=4)
    assert (again.ids, again.num_added, again.num_known) == (list(range(10, 0, -1)), 0, 10)
    assert embedder.batches == [4, 4, 2] and len(gallery) == 10


def test_bad_images_are_told_and_the_rest_is_enrolled(gallery, embedder):
    def fail():
        raise ImageError("gone.png: there is no such file")

    items = [
        item(0),
        Item(source="gone.png", read=fail),
        Item(source="text.png", read=lambda: b"hello"),
        Item(source="cut.png", read=lambda: png(3)[:300]),
        Item(source="empty.png", read=lambda: b""),
        Item(source="far.png", read=lambda: png(4), box=(100, 100, 120, 140)),
        Item(source="\udcff.png", read=lambda: png(5)),
        Item(source="a" * 5000, read=lambda: png(6)),
        item(7, pid=2**70),
        item(8, time_s=float("inf")),
        item(9, attributes={"x": float("nan")}),
        item(1),
    ]
    found = enroll_images(gallery, embedder, items)
    assert (found.ids, found.num_added) == ([1, 2], 2)
    broken = ["gone.png", "text.png", "cut.png", "empty.png", "far.png"]
    assert [source for source, _ in found.bad] == [*broken, "\\udcff.png", "a" * 5000, "7.png", "8.png", "9.png"]
    assert found.bad[0][1] == "there is no such file" and "not an image" in found.bad[1][1] and "rename it" in found.bad[5][1]
    assert all(not reason.startswith(source) for source, reason in found.bad[:5])
    json.dumps(found.bad, ensure_ascii=False).encode()


def test_an_endless_stream_is_taken_piece_by_piece(gallery, embedder):
    taken = []

    def endless():
        for seed in itertools.count():
            taken.append(seed)
            yield item(seed)

    def stop_at_40(count):
        if len(gallery) >= 40:
            raise WorkError("full")

    with pytest.raises(WorkError, match="full"):
        enroll_images(gallery, embedder, endless(), batch_size=8, progress=stop_at_40)
    assert len(gallery) == 40 and len(taken) < 120


def test_progress_counts_every_item_once(gallery, embedder, monkeypatch):
    counts = []
    items = [item(0), item(0), Item(source="bad", read=lambda: b"x"), *(item(seed) for seed in range(20))]
    enroll_images(gallery, embedder, items, batch_size=5, progress=counts.append)
    assert sum(counts) == 23 and len(counts) > 3
    # Many known images wait for no batch of new ones.
    monkeypatch.setattr("hat.serve.enroll.enrolling._MAX_IDLE", 16)
    counts.clear()
    enroll_images(gallery, embedder, [item(0)] * 100, batch_size=4, progress=counts.append)
    assert max(counts) <= 20 and sum(counts) == 100


def test_another_model_and_numbers_out_of_range_are_refused_before_anything_is_read(gallery, embedder, tmp_path):
    for options, sentence in (({"batch_size": 0}, "batch_size"), ({"thumbnail_height": 4}, "16 to 1024")):
        with pytest.raises(UsageError, match=sentence):
            enroll_images(gallery, embedder, [], **options)
    assert enroll_images(gallery, embedder, []) == Enrollment()

    def read():
        raise AssertionError("nothing is to be read")

    with open_small(tmp_path / "other") as other, pytest.raises(UsageError, match="was made by another model"):
        enroll_images(other, embedder, [Item(source="a", read=read)])
