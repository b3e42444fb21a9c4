"""`hat search` as a user meets it: against rankings made by hand, filters, thresholds, pictures, wrong requests."""

import json
import shutil
import sys

import numpy as np
import pytest
from enrolled_people import new_gallery, save_model
from PIL import Image

from hat.embedder import Embedder
from hat.serve import Gallery, calibrate_thresholds, person_embedding, search_gallery


@pytest.fixture(scope="module")
def world(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(world / "people", folder / "people")  # one test moves it away
    (folder / "model").symlink_to(world / "model")
    embedder = Embedder.open(folder / "model")
    for name, height in (("plain", None), ("pictured", 64)):
        images = [folder / "people" / "bounding_box_test"]
        new_gallery(folder / f"{name}.gallery", embedder, images, thumbnail_height=height).close()
    return folder


@pytest.fixture
def run(world, call):
    return lambda *arguments: call("search", world / "plain.gallery", *arguments)


@pytest.fixture
def model(world):
    return ("--model", world / "model")


@pytest.fixture
def queries(world):
    return sorted((world / "people" / "query").iterdir())


@pytest.fixture
def known(world):
    """Ids, embeddings and records of the gallery."""
    with Gallery.open(world / "plain.gallery", read_only=True) as opened:
        ids = opened.ids().tolist()
        return ids, opened.embeddings(ids), opened.get(ids)


def ranked(result, query=0):
    return [match["id"] for match in result["queries"][query]["matches"]]


def embed(world, paths):
    return Embedder.open(world / "model").embed([str(path) for path in paths])


def test_the_ranking_is_that_of_the_cosines(run, world, model, queries, known):
    ids, embeddings, _ = known
    answer = run(*queries[:3], *model, "--top", 5, "--json")
    assert answer.code == 0, answer.err
    for number, query in enumerate(embed(world, queries[:3])):
        similarities = embeddings @ query
        order = np.argsort(-similarities, kind="stable")[:5]
        assert ranked(answer.json, number) == [ids[place] for place in order]
        matches = answer.json["queries"][number]["matches"]
        np.testing.assert_allclose([match["similarity"] for match in matches], similarities[order], atol=2e-6)
        assert [match["rank"] for match in matches] == [1, 2, 3, 4, 5]
    table = run(queries[0], *model).out
    assert "similarity" in table and "0002_c1s1_000689_00.jpg" in table


def test_several_images_of_one_person(run, world, model, queries, known):
    ids, embeddings, _ = known
    answer = run(*queries[:2], *model, "--one-person", "--top", 12, "--json")
    mean = person_embedding(embed(world, queries[:2]))
    assert ranked(answer.json) == [ids[place] for place in np.argsort(-(embeddings @ mean), kind="stable")]
    assert len(answer.json["queries"]) == 1
    strangers = run(queries[0], queries[-1], *model, "--one-person")
    assert strangers.code == 2 and "images of one person" in strangers.err


def test_records_are_searched_for_without_a_model_and_do_not_find_themselves(run, known):
    ids, embeddings, _ = known
    answer = run("--id", ids[3], "--top", 50, "--json")
    assert answer.code == 0, answer.err
    order = [ids[place] for place in np.argsort(-(embeddings @ embeddings[3]), kind="stable")]
    assert ranked(answer.json) == [one for one in order if one != ids[3]]
    both = run("--id", ids[2], "--id", ids[3], "--one-person", "--top", 50, "--json").json
    assert set(ranked(both)) == set(ids) - {ids[2], ids[3]}


def test_reranking_is_that_of_the_library(run, world, model, queries):
    answer = run(queries[0], *model, "--rerank", "--top", 12, "--json")
    with Gallery.open(world / "plain.gallery", read_only=True) as opened:
        (expected,) = search_gallery(opened, embed(world, queries[:1]), top=12, rerank=True)
    assert ranked(answer.json) == [match.record.id for match in expected]
    matches = answer.json["queries"][0]["matches"]
    np.testing.assert_allclose([match["distance"] for match in matches], [match.distance for match in expected], atol=2e-6)
    assert [match["rank_before"] for match in matches] == [match.rank_before for match in expected] != list(range(1, 13))
    assert "before" in run(queries[0], *model, "--rerank").out


def test_filters(run, model, queries, known, tmp_path):
    _, _, records = known
    mine = next(record for record in records if record.camid == 2)

    def found(*options):
        answer = run(*(options if "--query-camid" in options else ("--id", mine.id, *options)), "--top", 50, "--json")
        assert answer.code == 0, answer.err
        return set(ranked(answer.json))

    def those(condition):
        return {record.id for record in records if condition(record)}

    assert found("--camid", 2) == those(lambda record: record.camid == 2) - {mine.id}
    assert found("--exclude-camid", 2) == found("--other-cameras") == those(lambda record: record.camid != 2)
    assert found("--pid", 3, "--pid", 4) == those(lambda record: record.pid in (3, 4)) - {mine.id}
    assert found("--attribute", "frame=689") == those(lambda record: record.attributes["frame"] == 689) - {mine.id}
    assert found("--since", "2026-01-01") == set()
    # The name of the image says camera 1.
    assert found(queries[0], *model, "--other-cameras", "--query-camid", 2) == those(lambda record: record.camid == 1)
    answer = run(queries[0], *model, "--other-cameras", "--top", 50, "--json")
    assert set(ranked(answer.json)) == those(lambda record: record.camid == 2)


def test_thresholds(run, world):
    everything = run("--id", 1, "--top", 50, "--json").json["queries"][0]["matches"]
    values = [match["similarity"] for match in everything]
    count = max(range(1, len(values)), key=lambda at: values[at - 1] - values[at])  # similarities are printed with six digits
    middle = (values[count - 1] + values[count]) / 2
    above = run("--id", 1, "--top", 50, "--min-similarity", middle, "--json").json
    assert ranked(above) == [match["id"] for match in everything[:count]]
    nothing = run("--id", 1, "--min-similarity", 1)
    assert nothing.code == 0 and "no match of 1.0000 or more" in nothing.out
    rated = run("--id", 1, "--top", 50, "--false-match-rate", 0.3, "--json")
    with Gallery.open(world / "plain.gallery", read_only=True) as opened:
        threshold = calibrate_thresholds(opened).threshold_at(0.3)
    assert rated.json["min_similarity"] == threshold
    assert ranked(rated.json) == [match["id"] for match in everything if match["similarity"] >= threshold]
    assert "at most 0.3 of the pairs of different people" in rated.err and "among 12 images" in rated.err
    too_fine = run("--id", 1, "--false-match-rate", 0.0001)
    assert too_fine.code == 2 and "cannot be shown by 40 pairs of different people" in too_fine.err


def test_a_picture_of_the_matches(run, call, world, model, queries, tmp_path):
    path = tmp_path / "matches.png"
    answer = run(queries[0], queries[1], "--id", 3, *model, "--top", 4, "--picture", path)
    assert answer.code == 0 and f"drawn: {path}" in answer.err
    with Image.open(path) as picture:
        assert picture.width > 600 and picture.height > 800
    person = int(queries[-1].name[:4])
    for pid in (person, person - 1):  # frames are green or red
        assert run(queries[-1], *model, "--pid", pid, "--picture", path, "--force").code == 0
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        frames = [(pixels == color).all(axis=1).any() for color in ((12, 138, 84), (204, 44, 36))]
        assert frames == [pid == person, pid != person]
    moved = world / "people" / "bounding_box_test"
    moved.rename(moved.with_name("moved"))
    try:
        gone = run(queries[0], *model, "--picture", path, "--force")
        again = ["search", world / "pictured.gallery", "--id", 3, "--top", 1, "--picture", path]
        refused, kept = call(*again), call(*again, "--force")
    finally:
        moved.with_name("moved").rename(moved)
    assert gone.code == 2 and "none of the matches has a picture" in gone.err
    assert kept.code == 0 and refused.code == 2 and "is there already" in refused.err


def test_a_picture_without_matplotlib_is_refused_before_the_search(run, model, queries, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("hat.embedder.Embedder.open", None)  # the model is not even opened
    answer = run(queries[0], *model, "--picture", tmp_path / "x.png")
    assert answer.code == 2 and "matplotlib is needed for drawing the matches" in answer.err


def test_wrong_requests_end_with_2(run, model, queries, tmp_path):
    shutil.copy(queries[0], tmp_path / "someone.jpg")
    spelled = {"QUERY": [queries[0]], "MODEL": model, "SOMEONE": [tmp_path / "someone.jpg"]}
    for arguments, sentence in (
        ([], "nothing to look for"),
        (["QUERY"], "--model FILE"),
        (["SOMEONE", "MODEL", "--other-cameras"], "which camera saw it is not known"),
        (["QUERY", "MODEL", "--min-similarity", "0.5", "--false-match-rate", "0.1"], "give one of them"),
        (["QUERY", "MODEL", "--false-match-rate", "2"], "between 0 and 1"),
        (["QUERY", "MODEL", "--since", "2026-02-01", "--until", "2026-01-01"], "nothing is seen at"),
        (["QUERY", "MODEL", "--attribute", "x"], "NAME=VALUE"),
        (["QUERY", "MODEL", "--picture", "a.txt"], "must name a picture format"),
        (["QUERY", "MODEL", "--picture", "nowhere/a.png"], "is no folder"),
        (["QUERY", "MODEL", "--rerank", "--rerank-pool", "100000"], "nearest records"),
        (["--id", "3", "--other-cameras", "--query-camid", "2"], "--query-camid is of the query images"),
        (["QUERY", "MODEL", "--query-camid", "2"], "for --other-cameras and --center-cameras"),
        (["nowhere.jpg", "MODEL"], "nowhere.jpg: there is no such file"),
        (["--id", "999"], "999"),
        (["QUERY", "MODEL", "--top", "0"], "greater than or equal to 1"),
    ):
        answer = run(*(word for argument in arguments for word in spelled.get(argument, [argument])))
        assert answer.code == 2 and sentence in answer.err, answer.err


def test_galleries_and_models_that_do_not_fit(call, world, queries, model, tmp_path):
    missing = call("search", tmp_path / "none.gallery", queries[0], *model)
    assert missing.code == 2 and "none.gallery" in missing.err and not (tmp_path / "none.gallery").exists()
    other = call("search", world / "plain.gallery", queries[0], "--model", save_model(tmp_path / "other", seed=1))
    assert other.code == 2 and "was made by another model" in other.err
    (tmp_path / "text.gallery").write_text(json.dumps({}))
    assert call("search", tmp_path / "text.gallery", "--id", 1).code == 2
