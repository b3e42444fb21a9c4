"""Ranked lists against a brute-force ranking; pictures read back pixel by pixel, and the colors of maps."""

import numpy as np
import pytest
from PIL import Image

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.errors import DataError, ImageError, UsageError
from hat.metrics import evaluate_ranking
from hat.visual import Tile, color_table, colorize, draw_grid, overlay, rank_rows, ranked_list, scale_to_unit


def make_dataset(query_labels, gallery_labels, folder="."):
    def split(name, labels):
        return Split(name, [Sample(f"{folder}/{name}{index}.png", *label) for index, label in enumerate(labels)])

    return ReIDDataset("made", split("train", []), split("query", query_labels), split("gallery", gallery_labels))


def random_case(seed, num_query=12, num_gallery=60):
    rng = np.random.default_rng(seed)
    query = list(zip(rng.integers(1, 8, num_query).tolist(), rng.integers(1, 4, num_query).tolist(), strict=True))
    gallery = list(zip(rng.integers(-1, 8, num_gallery).tolist(), rng.integers(1, 4, num_gallery).tolist(), strict=True))
    embeddings = rng.standard_normal((num_query + num_gallery, 6)).astype(np.float32)
    return embeddings[:num_query], embeddings[num_query:], make_dataset(query, gallery)


def ranking_by_loops(query, gallery, dataset, index):
    """(gallery index, similarity, right or wrong) of everything that is ranked, one image at a time."""
    asked, ranked = dataset.query[index], []
    for place, sample in enumerate(dataset.gallery):
        if sample.pid == -1 or (sample.pid == asked.pid and sample.camid == asked.camid):
            continue
        a, b = query[index].astype(np.float64), gallery[place].astype(np.float64)
        similarity = float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))
        ranked.append((place, similarity, sample.pid == asked.pid))
    return sorted(ranked, key=lambda item: -item[1])


@pytest.mark.parametrize("seed", range(5))
def test_rows_equal_a_ranking_by_loops_and_average_precisions_have_the_metrics_mean(seed):
    query, gallery, dataset = random_case(seed)
    rows = rank_rows(query, gallery, dataset, num_queries=5, top_k=9, seed=seed)
    assert len(rows) == 5
    for row in rows:
        expected = ranking_by_loops(query, gallery, dataset, row.query)[:9]
        assert row.top.tolist() == [place for place, _, _ in expected]
        np.testing.assert_allclose(row.similarities, [value for _, value, _ in expected], atol=1e-5)
    rows = rank_rows(query, gallery, dataset, num_queries=1000)
    unit_query = query / np.linalg.norm(query, axis=1, keepdims=True)
    unit_gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    labels = (dataset.query.pids, dataset.query.camids, dataset.gallery.pids, dataset.gallery.camids)
    result = evaluate_ranking(1 - unit_query @ unit_gallery.T, *labels)
    assert len(rows) == result.num_queries
    assert np.mean([row.average_precision for row in rows]) == pytest.approx(result.mAP, abs=1e-6)
    first_right = [dataset.gallery.pids[row.top[0]] == dataset.query.pids[row.query] for row in rows]
    assert np.mean(first_right) == pytest.approx(result.cmc[0], abs=1e-6)


def test_same_camera_matches_and_junk_never_appear_though_they_are_nearest():
    #                           same camera, junk, other camera, distractor, other person in the same camera
    dataset = make_dataset([(5, 1)], [(5, 1), (-1, 2), (5, 2), (0, 3), (7, 1)])
    gallery = np.array([[1, 0], [1, 0.01], [1, 0.5], [1, 0.1], [1, 0.2]], dtype=np.float32)
    (row,) = rank_rows(np.array([[2.0, 0.0]], dtype=np.float32), gallery, dataset)
    assert row.top.tolist() == [3, 4, 2]
    assert row.average_precision == pytest.approx(1 / 3)
    assert row.similarities[2] == pytest.approx(1 / np.sqrt(1.25), abs=1e-6)
    # Equal distances are ordered by gallery index.
    dataset = make_dataset([(1, 1)], [(2, 2), (1, 2), (3, 2), (1, 3)])
    (row,) = rank_rows(np.ones((1, 3), dtype=np.float32), np.ones((4, 3), dtype=np.float32), dataset)
    assert row.top.tolist() == [0, 1, 2, 3]


def test_given_distances_replace_the_order_and_keep_the_similarities():
    query, gallery, dataset = random_case(3)
    distances = np.random.default_rng(9).random((len(query), len(gallery))).astype(np.float32)
    for row in rank_rows(query, gallery, dataset, distances=distances, top_k=5):
        similarities = {place: value for place, value, _ in ranking_by_loops(query, gallery, dataset, row.query)}
        expected = sorted(similarities, key=lambda place, query_index=row.query: distances[query_index, place])[:5]
        assert row.top.tolist() == expected
        np.testing.assert_allclose(row.similarities, [similarities[i] for i in expected], atol=1e-5)


def test_queries_are_chosen_as_asked_and_only_among_those_with_a_match():
    query, gallery, dataset = random_case(1)
    every = rank_rows(query, gallery, dataset, num_queries=1000)
    assert [row.query for row in every] == [
        index for index in range(len(query)) if any(right for *_, right in ranking_by_loops(query, gallery, dataset, index))
    ]
    drawn = [[row.query for row in rank_rows(query, gallery, dataset, num_queries=4, seed=seed)] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len({tuple(queries) for queries in drawn}) > 1
    assert all(len(set(queries)) == 4 and queries == sorted(queries) for queries in drawn)
    dataset = make_dataset([(1, 1), (2, 1), (-1, 1)], [(1, 1), (2, 2), (-1, 2)])
    rows = rank_rows(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), dataset)
    assert [row.query for row in rows] == [1]
    with pytest.raises(DataError, match="none of the 1 queries"):
        rank_rows(np.eye(1, 3), np.eye(3), make_dataset([(1, 1)], [(1, 1), (2, 2), (-1, 2)]))


def test_wrong_requests_are_refused_with_a_reason():
    for name, value, message in [
        ("num_queries", 0, "num_queries must be"),
        ("top_k", 0, "top_k must be"),
        ("query_embeddings", np.ones((2, 3)), "got 2 query embeddings for the 1 images"),
        ("gallery_embeddings", np.ones((2, 4)), "equally wide"),
        ("gallery_embeddings", np.ones((2, 3), dtype=np.int64), "must be float16"),
        ("gallery_embeddings", np.zeros((2, 3)), "row 0 is zero"),
        ("query_embeddings", np.full((1, 3), np.nan), "row 0 is not finite"),
        ("distances", np.ones((2, 2)), "must be of shape"),
        ("distances", np.full((1, 2), np.nan), "NaN"),
    ]:
        arguments = {"query_embeddings": np.ones((1, 3)), "gallery_embeddings": np.ones((2, 3)), name: value}
        with pytest.raises(UsageError, match=message):
            rank_rows(dataset=make_dataset([(1, 1)], [(1, 2), (2, 2)]), **arguments)


QUERY, RIGHT, WRONG = (tuple(bytes.fromhex(color)) for color in ("1c2026", "0c8a54", "cc2c24"))


def box_of(picture, color):
    """(left, top, right, bottom) of the pixels of a color, and the color of the frame around it at the left edge."""
    pixels = np.asarray(picture)
    mask = (pixels == color).all(axis=2)
    assert mask.any(), f"no pixel of {color}"
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1), tuple(pixels[(ys[0] + ys[-1]) // 2, xs[0] - 3].tolist())


def test_scale_to_unit_scales_each_map_to_its_own_range():
    maps = np.array([[[1.0, 3.0], [2.0, 1.5]], [[-4.0, -4.0], [0.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = [[[0, 1], [0.5, 0.25]], [[0, 0], [1, 0.5]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(scale_to_unit(maps), expected)
    almost = np.full((1, 2, 2), 5.0)
    almost[0, 0, 0] += 1e-9
    assert not scale_to_unit(almost).any(), "rounding errors are no picture"


def test_colorize_paints_values_in_their_places():
    picture = np.asarray(colorize(np.array([[0.0, 1.0], [0.5, 0.25]]), (200, 400)))
    assert picture.shape == (400, 200, 3)
    for (y, x), value in {(10, 10): 0, (10, 190): 255, (390, 10): 128, (390, 190): 64}.items():
        assert picture[y, x].tolist() == color_table()[value].tolist()


def test_overlay_shows_both_the_image_and_the_map():
    image = Image.new("RGB", (10, 20), (250, 250, 250))
    image.paste((5, 5, 5), (0, 0, 10, 10))
    flat = np.asarray(overlay(image, np.full((4, 2), 0.5), (50, 100))).astype(int)
    assert flat[10, 25].sum() < flat[90, 25].sum() - 100, "the dark half of the image stays darker"
    sides = np.asarray(overlay(Image.new("L", (10, 20), 128), np.array([[0.0, 1.0]]), (50, 100))).astype(int)
    assert sides[50, 5].sum() < sides[50, 45].sum() - 100, "the high half of the map is lighter"


def test_draw_grid_shows_whole_images_in_their_proportions_and_places():
    sizes, colors = [(30, 60), (60, 60), (20, 200)], [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    tiles = [Tile(Image.new("RGB", size, color)) for size, color in zip(sizes, colors, strict=True)]
    picture = draw_grid([tiles[:2], tiles[2:]], "title", ["line"], row_labels=["a", "b"])
    boxes = [box_of(picture, color)[0] for color in colors]
    for (left, top, right, bottom), (width, height) in zip(boxes, sizes, strict=True):
        assert (right - left) / (bottom - top) == pytest.approx(width / height, abs=0.03)
    assert boxes[0][2] < boxes[1][0], "side by side"
    assert boxes[0][3] < boxes[2][1], "one under the other"


def test_draw_grid_cuts_long_names_and_takes_dollars_any_script_and_no_picture():
    wide = Image.new("RGB", (30, 60), (200, 0, 0))
    names = ["many words $x^2$ " * 30, "\u5f20\u4f1f.jpg", "a\tb\nc"]
    picture = np.asarray(draw_grid([[Tile(wide, names[0])], [Tile(wide, names[1])], [Tile(None, names[2])]], "", []))
    assert (picture[:, 240:] == 255).all(), "a caption of one column ends where the next one would begin"
    assert draw_grid([[Tile(None)]], "a very long $ name " * 40, ["line"]).width == 640
    with pytest.raises(UsageError, match="ask for fewer"):
        draw_grid([[Tile("never read.png")] * 50_000], "title", [])


def test_ranked_list_frames_every_image_in_its_place(tmp_path):
    rng = np.random.default_rng(0)
    queries, gallery = [(200, 50, 90), (201, 80, 90)], [(20 + 7 * index, 90, 200) for index in range(6)]
    dataset = make_dataset([(1, 1), (2, 1)], [(1, 2), (2, 2), (3, 1), (1, 1), (2, 3), (3, 2)], tmp_path)
    for split, colors in ((dataset.query, queries), (dataset.gallery, gallery)):
        for sample, color in zip(split, colors, strict=True):
            Image.new("RGB", (32, 64), color).save(sample.path)
    rows = rank_rows(rng.standard_normal((2, 5)), rng.standard_normal((6, 5)), dataset, top_k=4)
    for row in rows:
        picture = ranked_list([row], dataset, title="model")
        shown = [box_of(picture, queries[row.query]), *(box_of(picture, gallery[index]) for index in row.top)]
        right = [dataset.gallery[index].pid == dataset.query[row.query].pid for index in row.top]
        assert len(set(right)) == 2, "the case must show both kinds"
        assert [frame for _, frame in shown] == [QUERY, *(RIGHT if is_match else WRONG for is_match in right)]
        assert [box[0] for box, _ in shown] == sorted(box[0] for box, _ in shown)
    (tmp_path / f"gallery{rows[0].top[0]}.png").unlink()
    with pytest.raises(ImageError, match=r"gallery\d+\.png"):
        ranked_list(rows, dataset)
