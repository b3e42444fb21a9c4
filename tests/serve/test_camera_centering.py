"""Search with the means of cameras subtracted, against sums made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from gallery_cases import BINDING, new_record
from memory_gallery import MemoryGallery

from hat.errors import UsageError
from hat.serve import Filter, search_gallery
from hat.serve.search.searching import CenteredGallery


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def gallery_of(vectors, camids):
    gallery = MemoryGallery(replace(BINDING, embed_dim=vectors.shape[1]))
    gallery.add(vectors, [new_record(n, camid=camid) for n, camid in enumerate(camids)])
    return gallery


def test_the_camera_decides_no_rank_any_more():
    """Two people seen by two cameras, each of which adds one direction to all of its images."""
    person, camera = np.eye(4)[:2], 3 * np.eye(4)[2:]
    vectors = unit(np.stack([person[p] + camera[c] for c in (0, 1) for p in (0, 1)]))  # ids 1 to 4
    gallery = gallery_of(vectors, [1, 1, 2, 2])
    others = Filter.of(exclude_ids=[1])
    (plain,) = search_gallery(gallery, vectors[:1], top=3, where=others)
    assert [match.record.id for match in plain] == [2, 3, 4]  # the other person, seen by the same camera
    centered = CenteredGallery(gallery)
    embedding = centered.center(vectors[0], {1})  # person 0, seen by camera 1
    np.testing.assert_allclose(embedding, unit(vectors[0] - vectors[:2].mean(axis=0)), atol=1e-6)
    (matches,) = search_gallery(centered, embedding[None], top=3, where=others)
    assert [match.record.id for match in matches] == [3, 2, 4]
    np.testing.assert_allclose([match.similarity for match in matches], [1, -1, -1], atol=1e-6)
    (reranked,) = search_gallery(centered, embedding[None], top=3, where=others, rerank=True)
    assert reranked[0].record.id == 3


def test_unknown_cameras_lose_the_mean_of_all():
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((9, 6)))
    centered = CenteredGallery(gallery_of(vectors, [1, 1, 1, 2, 2, 2, 3, None, None]))
    mean = vectors.mean(axis=0)
    expected = [vectors[:3].mean(axis=0)] * 3 + [vectors[3:6].mean(axis=0)] * 3 + [mean] * 3
    np.testing.assert_allclose(centered.embeddings(list(range(1, 10))), unit(vectors - np.stack(expected)), atol=1e-6)
    for camids in (set(), {1, 2}, {77}):
        np.testing.assert_allclose(centered.center(vectors[0], camids), unit(vectors[0] - mean), atol=1e-6)


def test_cameras_with_one_record_each_have_no_mean():
    with pytest.raises(UsageError, match="no camera has two images"):
        CenteredGallery(gallery_of(unit(np.eye(3)), [1, 2, None]))
