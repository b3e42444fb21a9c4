"""Search in a gallery: against the plainest ranking, and re-ranking against `hat.rerank` on everything."""

from types import SimpleNamespace

import numpy as np
import pytest
from gallery_cases import unit

import hat
from hat.errors import UsageError, WorkError
from hat.serve import Filter, person_embedding, search_gallery
from hat.serve.search.query_embeddings import Query, queries_of_images, rank_queries
from hat.serve.search.searching import CenteredGallery


@pytest.fixture
def gallery(gallery_of):
    rng = np.random.default_rng(0)
    pids = np.arange(90) % 12
    vectors = unit(rng.normal(size=(12, 24))[pids] + 0.9 * rng.normal(size=(90, 24)))
    vectors[40] = vectors[3]  # exact duplicates: ties are broken by id
    return gallery_of(vectors, pid=pids.tolist(), camid=[n % 4 for n in range(90)], time_s=np.arange(90.0).tolist())


@pytest.fixture
def queries():
    return unit(np.random.default_rng(1).normal(size=(5, 24)))


def test_matches_are_the_nearest_with_their_records(gallery, queries):
    every = gallery.embeddings(list(range(1, 91)))
    for query, matches in zip(queries, search_gallery(gallery, queries, top=7), strict=True):
        similarities = every @ query
        order = np.argsort(-similarities, kind="stable")[:7]
        assert [match.record.id for match in matches] == (order + 1).tolist()
        np.testing.assert_allclose([match.similarity for match in matches], similarities[order], atol=1e-6)
        assert all(match.distance is None and match.rank_before is None for match in matches)
        assert all(match.record.source == f"{match.record.id - 1}.jpg" for match in matches)


@pytest.mark.parametrize("pool", [90, 500])
def test_reranking_with_a_pool_of_everything_is_hat_rerank(gallery, queries, pool):
    every = gallery.embeddings(list(range(1, 91)))
    found = search_gallery(gallery, queries, top=90, rerank=True, rerank_pool=pool)
    plain = search_gallery(gallery, queries, top=90)
    for query, matches, before in zip(queries, found, plain, strict=True):
        distances = hat.rerank(query[None], every)[0]
        order = np.argsort(distances, kind="stable")
        assert [match.record.id for match in matches] == (order + 1).tolist()
        assert [match.distance for match in matches] == distances[order].tolist()
        assert all(match.similarity == before[match.rank_before - 1].similarity for match in matches)
        ids, ids_before = ([match.record.id for match in ranked] for ranked in (matches, before))
        assert ids != ids_before and [ids_before.index(id_) + 1 for id_ in ids] == [match.rank_before for match in matches]


def test_a_query_is_reranked_by_itself(gallery, queries):
    together = search_gallery(gallery, queries, rerank=True)
    for query, matches in zip(queries, together, strict=True):
        assert search_gallery(gallery, query[None], rerank=True) == [matches]


def test_the_pool_holds_the_nearest_and_the_top_is_taken_from_it(gallery, queries):
    nearest = search_gallery(gallery, queries[:1], top=20)[0]
    found = search_gallery(gallery, queries[:1], top=5, rerank=True, rerank_pool=20)[0]
    pool = sorted(match.record.id for match in nearest)
    distances = hat.rerank(queries[:1], gallery.embeddings(pool))[0]
    assert [match.record.id for match in found] == [pool[place] for place in np.argsort(distances, kind="stable")[:5]]
    assert len(search_gallery(gallery, queries[:1], top=30, rerank=True, rerank_pool=5)[0]) == 30


def test_filters_hold_in_both_ways(gallery, queries):
    where = Filter(exclude_camids=frozenset({1, 2}), since_s=10, until_s=60, exclude_ids=frozenset({13}))
    passing = {number + 1 for number in range(10, 60) if number % 4 not in (1, 2) and number != 12}
    for rerank in (False, True):
        for matches in search_gallery(gallery, queries, top=90, where=where, rerank=rerank):
            assert {match.record.id for match in matches} == passing
        assert search_gallery(gallery, queries, where=Filter(pids=frozenset({99})), rerank=rerank) == [[]] * 5
    assert search_gallery(gallery, queries[:0]) == []


def test_numbers_out_of_range(gallery, queries):
    too_large = {"rerank": True, "rerank_pool": 6000}, {"rerank": True, "top": 6000}
    for options, sentence in (({"top": 0}, "top is at least 1"), (too_large[0], "nearest records"), (too_large[1], "6,000")):
        with pytest.raises(UsageError, match=sentence):
            search_gallery(gallery, queries, **options)


def test_several_images_of_a_person_are_their_mean_direction():
    rows = unit(np.array([[1.0, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(person_embedding(rows), [0.5**0.5, 0.5**0.5, 0], atol=1e-7)
    assert person_embedding(rows).dtype == np.float32
    assert np.array_equal(person_embedding(rows[:1]), rows[0])
    for wrong in (rows[:0], rows[0], unit(np.array([[1.0, 0], [-1, 0]])), unit(np.array([[1.0, 0], [-1, 1e-4]]))):
        with pytest.raises(UsageError):
            person_embedding(wrong)


class Counting:
    """A gallery that counts its searches and whose records vanish between being found and being read."""

    def __init__(self, gallery, num_vanishing):
        self.gallery, self.num_vanishing, self.num_searches = gallery, num_vanishing, 0
        self.location = gallery.location

    def search(self, *given):
        self.num_searches += 1
        return self.gallery.search(*given)

    def get(self, ids, **options):
        if self.num_searches <= self.num_vanishing:
            self.gallery.remove(ids=ids[:1])
        return self.gallery.get(ids, **options)


def test_records_that_vanish_are_looked_for_again_and_are_an_error_in_the_end(gallery, queries):
    for num_vanishing in (1, 2):
        counting = Counting(gallery, num_vanishing)
        (matches,) = search_gallery(counting, queries[:1], top=3)
        assert counting.num_searches == num_vanishing + 1 and len(matches) == 3
    with pytest.raises(WorkError, match="removed as fast as they are found: try again"):
        search_gallery(Counting(gallery, 5), queries[:1], top=3)
    counting = Counting(gallery, 0)
    with pytest.raises(UsageError, match="expected rows of length 1"):
        search_gallery(counting, 2 * queries)
    assert counting.num_searches == 1


def test_centered_galleries_lose_the_mean_of_each_camera_and_of_all_where_it_is_unknown(gallery_of):
    vectors = unit(np.random.default_rng(0).standard_normal((9, 6)))
    centered = CenteredGallery(gallery_of(vectors, camid=[1, 1, 1, 2, 2, 2, 3, None, None]))
    mean = vectors.mean(axis=0)
    expected = [vectors[:3].mean(axis=0)] * 3 + [vectors[3:6].mean(axis=0)] * 3 + [mean] * 3
    np.testing.assert_allclose(centered.embeddings(list(range(1, 10))), unit(vectors - np.stack(expected)), atol=1e-6)
    np.testing.assert_allclose(centered.center(vectors[0], {1}), unit(vectors[0] - expected[0]), atol=1e-6)
    for camids in (set(), {1, 2}, {77}):
        np.testing.assert_allclose(centered.center(vectors[0], camids), unit(vectors[0] - mean), atol=1e-6)
    with pytest.raises(UsageError, match="no camera has two images"):
        CenteredGallery(gallery_of(unit(np.eye(3)), camid=[1, 2, None]))


def test_rank_queries_centers_each_image_of_a_person_by_its_own_camera(gallery):
    """By hand: the mean of what is left of the two images, of what is left of the gallery."""
    every, centered = gallery.embeddings(list(range(1, 91))), CenteredGallery(gallery)
    images = [
        Query(str(number), every[number], camids=frozenset({number % 4}), ids=frozenset({number + 1})) for number in (5, 8)
    ]
    left = [unit(image.embedding - every[next(iter(image.camids)) :: 4].mean(axis=0)) for image in images]
    similarities = centered.embeddings(list(range(1, 91))) @ unit(left[0] + left[1])
    order = [place + 1 for place in np.argsort(-similarities, kind="stable") if place not in (0, 5, 8)]
    where = Filter(exclude_ids=frozenset({1}))
    ((person, matches),) = rank_queries(centered, images, where=where, one_person=True, top=90)
    assert person.name == "5 + 8" and [match.record.id for match in matches] == order
    minimum = matches[10].similarity
    ((_, above),) = rank_queries(centered, images, where=where, one_person=True, top=90, min_similarity=minimum)
    assert above == matches[:11]


def test_queries_of_images_know_what_their_names_say():
    embedder = SimpleNamespace(embed_paths=lambda paths: np.eye(len(paths), dtype=np.float32))
    paths = ["people.zip!0002_c1s1_000451_03.jpg", "x/-1_c3s1_000001_00.jpg", "a.jpg"]
    assert [(query.pid, query.camids) for query in queries_of_images(paths, embedder)] == [(2, {1}), (None, {3}), (None, set())]
    assert [query.camids for query in queries_of_images(paths, embedder, camid=7)] == [{7}] * 3
