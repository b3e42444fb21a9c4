"""`hat eval` and `hat.evaluate`: the figures of a model are those of its embeddings, by whatever way they are asked for."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_hat import lively_hat

import hat
from hat.errors import UsageError
from hat.evaluation import center_dataset, rank_dataset
from hat.runtime import TorchRuntime


@pytest.fixture(scope="module")
def market_folder(tmp_path_factory):
    """A Market-1501 in small: six people, three cameras, a distractor and a junk image."""
    rng = np.random.default_rng(5)
    root = tmp_path_factory.mktemp("data") / "Market-1501-v15.09.15"
    patterns = {pid: np.kron(rng.integers(0, 256, (8, 4, 3)), np.ones((8, 8, 1))) for pid in range(-1, 7)}

    def draw(split, pid, camera, frame):
        (root / split).mkdir(parents=True, exist_ok=True)
        pixels = (patterns[pid] + rng.normal(0, 40, (64, 32, 3))).clip(0, 255).astype(np.uint8)
        name = f"{pid:04d}" if pid >= 0 else "-1"
        Image.fromarray(pixels).save(root / split / f"{name}_c{camera}s1_{frame:06d}_01.jpg", quality=95)

    for pid in range(1, 7):
        draw("query", pid, 1, pid)
        for camera in (1, 2, 3):
            draw("bounding_box_test", pid, camera, 100 * camera + pid)
            draw("bounding_box_train", pid, camera, 200 * camera + pid)
    draw("bounding_box_test", 0, 2, 7)
    draw("bounding_box_test", -1, 3, 8)
    return root


@pytest.fixture(scope="module")
def embedder():
    return hat.Embedder(TorchRuntime(lively_hat(), "cpu"))


@pytest.fixture(scope="module")
def checkpoint(embedder, tmp_path_factory):
    return hat.save_checkpoint(embedder.runtime.model, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def eval_json(run_hat, market_folder, checkpoint):
    """`hat eval` of the checkpoint, as JSON."""

    def run(*options, data=market_folder):
        result = run_hat("eval", checkpoint, "--data", data, "--device", "cpu", "--json", *options)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout), result.stderr

    return run


def brute_force_map(query, gallery, dataset):
    """Mean average precision by the definition, one query and one rank at a time."""
    precisions = []
    for row, sample in zip(query, dataset.query, strict=True):
        order = sorted(range(len(gallery)), key=lambda j: float(-(row @ gallery[j])))
        kept = [j for j in order if (dataset.gallery[j].pid, dataset.gallery[j].camid) != (sample.pid, sample.camid)]
        hits = [rank for rank, j in enumerate(kept, start=1) if dataset.gallery[j].pid == sample.pid]
        precisions.append(np.mean([found / rank for found, rank in enumerate(hits, start=1)]))
    return float(np.mean(precisions))


def test_the_figures_are_those_of_the_definition(market_folder, embedder):
    dataset = hat.load_dataset("market1501", market_folder)
    result = hat.evaluate(embedder, dataset)
    query, gallery = embedder.embed(dataset.query.paths), embedder.embed(dataset.gallery.paths)
    assert len(gallery) == 19  # junk is left out, the distractor stays
    assert result.mAP == pytest.approx(brute_force_map(query, gallery, dataset), abs=1e-9)
    assert result.num_queries == 6


def test_the_command_gives_the_same_figures_records_them_and_draws(market_folder, embedder, eval_json, tmp_path):
    pictures = [tmp_path / name for name in ("ranks.png", "cam.png", "maps.png")]
    options = ["--rank-list", pictures[0], "--cam", pictures[1], "--tfc-maps", pictures[2], "--record", tmp_path / "RESULTS.md"]
    (figures,) = eval_json(*options)[0]["results"]
    expected = hat.evaluate(embedder, hat.load_dataset("market1501", market_folder))
    assert figures["mAP"] == pytest.approx(expected.mAP, abs=1e-6) and figures["num_gallery"] == 19
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size[0] > 200
    recorded = (tmp_path / "RESULTS.md").read_text()
    assert f"{100 * expected.mAP:.2f}" in recorded and "--rank-list" in recorded and "cores" in recorded


def test_several_data_sets_make_a_table(market_folder, checkpoint, run_hat):
    plain = run_hat("eval", checkpoint, "--data", market_folder, "--data", f"market-style={market_folder}", "--device", "cpu")
    assert plain.returncode == 0, plain.stderr
    assert "market1501" in plain.stdout and "market-style" in plain.stdout and "6 of 6" in plain.stdout


def test_reranking_and_flipping_are_done_and_told(market_folder, embedder, eval_json):
    dataset = hat.load_dataset("market1501", market_folder)
    query, gallery = (embedder.embed(side.paths, flip=True) for side in (dataset.query, dataset.gallery))
    labels = (dataset.query.pids, dataset.query.camids, dataset.gallery.pids, dataset.gallery.camids)
    expected = hat.evaluate_ranking(hat.rerank(query, gallery), *labels)
    content, _ = eval_json("--rerank", "--flip")
    assert content["rerank"] and content["flip"]
    assert content["results"][0]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    others = [hat.evaluate(embedder, dataset, **{name: True}) for name in ("rerank", "flip")]
    assert expected.mAP not in [other.mAP for other in others], "each of the two changes the figure"


def test_evaluate_center_cameras_is_the_same_in_python_and_on_the_command_line(market_folder, embedder, eval_json):
    content, _ = eval_json("--center-cameras")
    dataset = hat.load_dataset("market1501", market_folder)
    expected = hat.evaluate(embedder, dataset, center_cameras=True)
    assert content["center_cameras"] is True
    assert content["results"][0]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    rows = hat.center_by_camera(
        np.concatenate([embedder.embed(dataset.query.paths), embedder.embed(dataset.gallery.paths)]),
        np.concatenate([dataset.query.camids, dataset.gallery.camids]),
    )
    assert expected.mAP == pytest.approx(brute_force_map(rows[:6], rows[6:], dataset), abs=1e-9)


def test_cameras_are_centered_also_where_they_do_not_decide_which_pairs_count(market_folder, embedder, eval_json):
    content, _ = eval_json("--center-cameras", "--no-cameras")
    dataset = hat.load_dataset("market1501", market_folder)
    sides = center_dataset(embedder.embed(dataset.query.paths), embedder.embed(dataset.gallery.paths), dataset)
    expected = rank_dataset(*sides, dataset.without_cameras()).result
    assert content["results"][0]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert content["results"][0]["has_cameras"] is False
    with pytest.raises(UsageError, match="nothing says a camera"):
        hat.evaluate(embedder, dataset.without_cameras(), center_cameras=True)


def test_a_bad_image_is_named_and_can_be_left_out(market_folder, checkpoint, run_hat, eval_json, tmp_path):
    folder = shutil.copytree(market_folder, tmp_path / market_folder.name)
    bad = sorted((folder / "bounding_box_test").glob("0003*"))[0]
    bad.write_bytes(bad.read_bytes()[:200])
    refused = run_hat("eval", checkpoint, "--data", folder, "--device", "cpu")
    assert refused.returncode == 2 and bad.name in refused.stderr and refused.stdout == ""
    content, said = eval_json("--skip-bad", data=folder)
    assert bad.name in said.replace("\n", "") and content["results"][0]["num_bad_images"] == 1


def test_wrong_options_are_one_sentence(market_folder, checkpoint, run_hat, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "there.png").touch()
    image = next((market_folder / "query").iterdir())
    before = image.read_bytes()
    for options, sentence in {
        ("--precision", "int4"): "unknown precision 'int4'",
        ("--device", "gpu"): "unknown device 'gpu'",
        ("--rank-list", "ranks.xyz"): "must name a picture format",
        ("--record", market_folder): "takes a Markdown file",
        ("--rank-list", "ranks.psd"): "must name a picture format",
        ("--rank-list", tmp_path / "folder.png"): "is a folder",
        ("--rank-list", tmp_path / "there.png"): "is there already",
        ("--rank-list", image): "is an image of market1501",
        ("--save-split", image): "is there already",
        ("--baseline", checkpoint): "--baseline is shown by --cam",
        ("--cam", tmp_path / "cam.png", "--baseline", "nowhere"): "nowhere",
    }.items():
        result = run_hat("eval", checkpoint, "--data", market_folder, *options)
        assert result.returncode == 2 and sentence in result.stderr and "Traceback" not in result.stderr, options
    assert image.read_bytes() == before
