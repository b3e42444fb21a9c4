"""Camera centering against cases computed by hand and by loops."""

import numpy as np
import pytest
import torch

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.errors import UsageError
from hat.evaluation import center_dataset, rank_dataset
from hat.metrics import CameraMeans, center_by_camera

HALF = np.sqrt(0.5)


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy])
def test_center_by_camera_hand_computed(wrap):
    # Camera 4 has the mean (0.5, 0.5), camera 9 (0.7, 0.7).
    embeddings = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.8, 0.6]], dtype=np.float32)
    centered = center_by_camera(wrap(embeddings), wrap(np.array([4, 9, 4, 9])))
    assert centered.dtype == np.float32
    np.testing.assert_allclose(centered, [[HALF, -HALF], [-HALF, HALF], [-HALF, HALF], [HALF, -HALF]], atol=1e-6)
    assert embeddings[0].tolist() == [1, 0]  # the caller's rows are left as they are


def test_subtract_takes_the_mean_of_all_for_cameras_with_one_image_or_none():
    means = CameraMeans.of(np.array([[3.0, 0], [1, 0], [0, 2]]), [1, 1, 7])
    assert means.camids.tolist() == [1]
    overall = np.array([4 / 3, 2 / 3])
    for camid in (7, 8, -1):
        expected = np.array([3.0, 3.0]) - overall
        centered = means.subtract(np.array([[3.0, 3.0]]), [camid])
        np.testing.assert_allclose(centered[0], expected / np.linalg.norm(expected), rtol=1e-6)
    np.testing.assert_allclose(means.subtract(np.array([[2.0, 3.0]]), [1])[0], [0, 1], atol=1e-7)


def test_center_dataset_undoes_what_a_camera_adds():
    """Camera 2 adds (0, 3) to everything, so that the query's nearest image is the other person of its own camera."""
    query = Split("query", [Sample("a", 1, 1)])
    gallery = Split("gallery", [Sample("b", 2, 1), Sample("c", 1, 2), Sample("d", 2, 2)])
    dataset = ReIDDataset("hand", Split("train", []), query, gallery)
    rows = np.array([[1, 0.2], [0.9, -0.4], [1, 3], [-1, 3.2]], dtype=np.float32)
    assert rank_dataset(rows[:1], rows[1:], dataset).result.mAP == pytest.approx(1 / 2)
    # Means: camera 1 (0.95, -0.1), camera 2 (0, 3.1): the query is left with (0.05, 0.3), its match with (1, -0.1),
    # person 2 with (-0.05, -0.3) in camera 1 and (-1, 0.1) in camera 2.
    centered_query, centered_gallery = center_dataset(rows[:1], rows[1:], dataset)
    expected = np.array([[0.05, 0.3], [-0.05, -0.3], [1, -0.1], [-1, 0.1]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.vstack([centered_query, centered_gallery]), expected, atol=1e-5)
    assert rank_dataset(centered_query, centered_gallery, dataset).result.mAP == pytest.approx(1.0)


def test_center_by_camera_refuses():
    for embeddings, camids, sentence in [
        (np.ones((3, 2)), [1, 1, 1], r"row 0 \(camera 1\) equals the mean of its camera"),
        (np.ones((3, 2)), [1, 1], "camids must be a vector of 3 integers"),
        (np.array([[1.0, np.nan]]), [1], "row 0 is not finite"),
        (np.ones((3, 2)), [0.5, 1, 1], "camids must be integers"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            center_by_camera(embeddings, camids)
    with pytest.raises(UsageError, match="embeddings are 3 wide and the cameras' means 2"):
        CameraMeans.of(np.eye(2), [1, 1]).subtract(np.eye(3), [1, 1, 1])
