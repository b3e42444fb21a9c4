"""Searching over HTTP: the ranking of the library, with filters, several images of one person, records and re-ranking."""

import json

import numpy as np
import pytest
from service_stand_ins import embedding_of, files, picture, running

from hat.serve import Filter, NewRecord, person_embedding, search_gallery

NUM_PEOPLE, NUM_CAMERAS = 12, 3
START = 1_700_000_000.0


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Twelve people, each seen by three cameras a minute apart, in pictures that differ in size."""
    with running(galleries=("people",), root=tmp_path_factory.mktemp("search")) as (client, service):
        gallery = service.galleries.get("people")
        for person in range(NUM_PEOPLE):
            for camera in range(NUM_CAMERAS):
                data = seen(person, camera)
                record = NewRecord(
                    content_hash=f"{person:032x}{camera:032x}",
                    source=f"{person}_{camera}.png",
                    pid=person,
                    camid=camera,
                    time_s=START + 60 * camera,
                    attributes={"coat": "red" if person % 2 else "blue", "height": 1.5 + person / 100},
                )
                gallery.add(embedding_of(data)[None], [record])
        yield client, gallery


@pytest.fixture
def search(served):
    client, _ = served

    def ask(*pictures, **fields):
        answer = client.post("/v1/search", files=files(*pictures), data={"gallery": "people", **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    return ask


def seen(person, camera):
    return picture(person, size=(14 + 4 * camera, 40 + 7 * camera))


def ids_of(result):
    return [match["id"] for match in result["matches"]]


def test_each_image_is_a_query_and_is_ranked_as_in_the_library(served, search):
    _, gallery = served
    queries = [picture(person, size=(31, 71)) for person in (4, 7)]
    results = search(*queries, top=5)
    expected = search_gallery(gallery, np.stack([embedding_of(one) for one in queries]), top=5)
    assert [result["query"] for result in results] == ["0.png", "1.png"]
    for result, matches, person in zip(results, expected, (4, 7), strict=True):
        assert ids_of(result) == [match.record.id for match in matches]
        assert [match["similarity"] for match in result["matches"]] == pytest.approx(
            [one.similarity for one in matches], abs=1e-6
        )
        assert [match["pid"] for match in result["matches"]][:3] == [person] * 3
    best = results[0]["matches"][0]
    assert best["source"].startswith("4_") and best["attributes"]["coat"] == "blue" and best["distance"] is None


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"camids": ["0", "2"]}, Filter(camids=frozenset({0, 2}))),
        ({"exclude_camids": "1"}, Filter(exclude_camids=frozenset({1}))),
        ({"pids": ["3", "4", "5"]}, Filter(pids=frozenset({3, 4, 5}))),
        ({"since_s": str(START + 60), "until_s": str(START + 120)}, Filter(since_s=START + 60, until_s=START + 120)),
        ({"attributes": json.dumps({"coat": "red"})}, Filter(attributes={"coat": "red"})),
        ({"attributes": json.dumps({"coat": "red"}), "camids": "1"}, Filter(camids=frozenset({1}), attributes={"coat": "red"})),
        ({"camids": "99"}, Filter(camids=frozenset({99}))),
    ],
)
def test_filters_say_which_records_may_be_found(served, search, fields, where):
    _, gallery = served
    data = picture(4)
    (result,) = search(data, top=100, **fields)
    (expected,) = search_gallery(gallery, embedding_of(data)[None], top=100, where=where)
    assert ids_of(result) == [match.record.id for match in expected]
    assert len(expected) == len(gallery.ids(where))


def test_several_images_of_one_person_are_one_query(served, search):
    _, gallery = served
    pictures = [picture(2), picture(5)]
    (result,) = search(*pictures, top=6, one_person="true")
    query = person_embedding(np.stack([embedding_of(one) for one in pictures]))
    (expected,) = search_gallery(gallery, query[None], top=6)
    assert result["query"] == "0.png, 1.png" and ids_of(result) == [match.record.id for match in expected]
    assert {match["pid"] for match in result["matches"]} == {2, 5}


def test_records_search_for_themselves_and_are_not_found_by_themselves(served):
    client, gallery = served
    own = [int(one) for one in gallery.ids(Filter(pids=frozenset({6})))]
    answer = client.post("/v1/search", json={"gallery": "people", "record_ids": own[:2], "top": 2}).json()
    assert [result["query"] for result in answer["results"]] == [f"record {own[0]}", f"record {own[1]}"]
    assert [set(ids_of(result)) for result in answer["results"]] == [set(own) - {own[0]}, set(own) - {own[1]}]
    together = client.post("/v1/search", json={"gallery": "people", "record_ids": own[:2], "top": 1, "one_person": True}).json()
    assert [ids_of(result) for result in together["results"]] == [[own[2]]]


def test_an_image_and_a_record_may_be_one_person(served, search):
    _, gallery = served
    (result,) = search(picture(8), record_ids="1", one_person="1", top=40)
    assert 1 not in ids_of(result) and len(ids_of(result)) == len(gallery) - 1


def test_matches_below_a_similarity_are_left_out(search):
    (everything,) = search(picture(3), top=100)
    values = [match["similarity"] for match in everything["matches"]]
    bar = (values[4] + values[5]) / 2
    (result,) = search(picture(3), top=100, min_similarity=str(bar))
    assert ids_of(result) == ids_of(everything)[:5]


def test_reranking_orders_by_its_distance_and_tells_the_rank_before(served, search):
    _, gallery = served
    data = picture(9, size=(25, 33))
    (result,) = search(data, top=7, rerank="true", rerank_pool=20)
    (expected,) = search_gallery(gallery, embedding_of(data)[None], top=7, rerank=True, rerank_pool=20)
    assert ids_of(result) == [match.record.id for match in expected]
    for match, one in zip(result["matches"], expected, strict=True):
        assert match["distance"] == pytest.approx(one.distance, abs=1e-6) and match["rank_before"] == one.rank_before


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({}, 422, "gallery: Field required"),
        ({"gallery": "people"}, 422, "expected images, in fields named images, or record_ids"),
        ({"gallery": "nobody", "record_ids": [1]}, 404, "no gallery of this name"),
        ({"gallery": "../people", "record_ids": [1]}, 422, "gallery: "),
        ({"gallery": "people\n", "record_ids": [1]}, 422, "gallery: "),
        ({"gallery": "people", "record_ids": [999]}, 422, "record"),
        ({"gallery": "people", "record_ids": [2**70]}, 422, "record_ids.0"),
        ({"gallery": "people", "record_ids": [1], "top": 0}, 422, "top: "),
        ({"gallery": "people", "record_ids": [1], "top": 10**6}, 422, "top: "),
        ({"gallery": "people", "record_ids": [1], "rerank_pool": 10**6}, 422, "rerank_pool: "),
        ({"gallery": "people", "record_ids": [1], "top": 1001}, 422, "top: at most 1,000"),
        ({"gallery": "people", "record_ids": [1] * 30, "top": 1000, "rerank": True}, 422, "too many"),
        ({"gallery": "people", "record_ids": [1], "min_similarity": 2}, 422, "min_similarity: "),
        ({"gallery": "people", "record_ids": [1], "attributes": {"a": [1]}}, 422, "attributes"),
        ({"gallery": "people", "record_ids": [1], "attributes": {"": 1}}, 422, "attributes"),
        ({"gallery": "people", "record_ids": [1], "camera": 1}, 422, "camera: "),
        ({"gallery": "people", "record_ids": [1] * 100}, 422, "record_ids: "),
    ],
)
def test_a_wrong_search_is_refused_with_the_field_that_is_wrong(served, fields, status, sentence):
    client, _ = served
    answer = client.post("/v1/search", json=fields)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"gallery": NaN}', b'{"gallery": "\\ud800"}', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_refused(served, body):
    client, _ = served
    answer = client.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
