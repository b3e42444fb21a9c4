"""Learning from a teacher: the losses against slow loops, the teachers against plain embedding, and whole runs."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_hat import batch_norms
from tiny_run import CPU, NO_AUGMENTATION, assert_same_weights, configure, interrupt, read_state, run, run_lines

import hat
from hat.data import load_images, merge_training, open_dataset
from hat.errors import CheckpointError, ConfigError
from hat.model import HAT
from hat.train import TrainConfig, Trainer
from hat.train.distillation import embedding_loss, similarity_loss
from hat.train.initial_model import initial_model
from hat.train.run.run_folder import RunFolder, describe_data
from hat.train.teacher import TEACHER_FILE, OnlineTeacher, read_rows, write_rows


def unit_rows(num, width, seed):
    rows = torch.randn(num, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows, dim=1)


def slow_similarity(student, target, kind, temperature):
    total = 0.0
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        ours, theirs = ([float(rows[i] @ rows[j]) for j in others] for rows in (student, target))
        if kind == "mse":
            total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(others)
            continue
        p, q = ([math.exp(c / temperature) for c in cosines] for cosines in (theirs, ours))
        p, q = [a / sum(p) for a in p], [b / sum(q) for b in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize(("kind", "temperature"), [("kl", 0.2), ("kl", 1.0), ("mse", 1.0)])
def test_similarities_equal_the_double_loop(kind, temperature):
    student, target = unit_rows(7, 4, 0), unit_rows(7, 9, 1)
    expected = slow_similarity(student, target, kind, temperature)
    assert similarity_loss(student, target, kind, temperature).item() == pytest.approx(expected, rel=1e-9)
    whole = {"gathered": student, "gathered_target": target}
    halves = (slice(0, 3), slice(3, 7))
    first, second = (similarity_loss(student[r], target[r], kind, temperature, **whole, offset=r.start) for r in halves)
    assert (3 * first + 4 * second).item() / 7 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_a_student_that_is_the_teacher_turned_around_has_nothing_to_learn(kind):
    target = unit_rows(6, 5, 2)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    student = (target @ turn).requires_grad_()
    loss = similarity_loss(student, target, kind, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None and student.grad.abs().max() < 1e-12
    assert similarity_loss(unit_rows(6, 5, 3), target, kind, 0.2).item() > 1e-3
    other = unit_rows(6, 5, 3).float().requires_grad_()
    similarity_loss(other, target.float(), kind, 1e-4).backward()
    assert torch.isfinite(other.grad).all(), "at a tiny temperature"


def test_embedding_loss_by_hand():
    # Cosines 0.6 and -1; lengths do not matter.
    projected = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assert embedding_loss(projected, target).item() == pytest.approx((0.4 + 2) / 2)


@pytest.fixture(scope="module")
def dataset(market_folder):
    return open_dataset(market_folder)


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    """A model of another width and image size, of other people, whose batch norms have seen images."""
    torch.manual_seed(11)
    sizes = {"image_size": (64, 32), "depths": (0, 0, 1, 0), "widths": (16, 16, 40, 16)}
    model = hat.create_model("hat_mobilenet_v3_small", num_classes=9, **sizes)
    for module in batch_norms(model):
        module.momentum = None  # the mean over all that was seen
    with torch.no_grad():
        model.train()(load_images(dataset.train.paths, model.preprocessing))
    return hat.save_checkpoint(model, tmp_path_factory.mktemp("teacher"))


def taught_by(teacher, distill=None, **changes):
    return configure(distill={"teacher": str(teacher), **(distill or {})}, **changes)


def some_images(size):
    return torch.randint(0, 256, (5, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def test_a_checkpoint_embeds_the_students_images_at_its_own_size(teacher):
    beside = OnlineTeacher(hat.runtime.open_runtime(teacher, "cpu"), "fp32")
    model = hat.load_checkpoint(teacher)
    images = some_images((64, 32))
    with torch.no_grad():
        expected = model(images)
    found = beside.embed(images, torch.arange(5))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert beside.embed_dim == model.embed_dim and not found.requires_grad and not found.is_inference()
    # Where the student's images are smaller, the teacher sees them enlarged.
    small = some_images((32, 16))
    enlarged = F.interpolate(small.float(), (64, 32), mode="bilinear", antialias=True).round().to(torch.uint8)
    torch.testing.assert_close(beside.embed(small, torch.arange(5)), beside.embed(enlarged, torch.arange(5)))


class SmallBatches:
    """An exported file's runtime: host arrays, and no more than two images at once."""

    def __init__(self, runtime):
        self.inner, self.info = runtime, runtime.info
        self.name, self.embed_dim, self.preprocessing, self.max_batch = "small", runtime.embed_dim, runtime.preprocessing, 2

    def run(self, images):
        assert images.dtype == np.uint8 and 1 <= len(images) <= 2
        return self.inner.run(images)


def test_an_exported_file_is_a_teacher_too(teacher):
    runtime = hat.runtime.open_runtime(teacher, "cpu")
    assert isinstance(runtime, hat.runtime.TorchRuntime)
    images = some_images((32, 16))
    teachers = OnlineTeacher(SmallBatches(runtime), "bf16"), OnlineTeacher(runtime, "fp32")
    torch.testing.assert_close(*(one.embed(images, torch.arange(5)) for one in teachers), rtol=1e-4, atol=1e-5)


def test_a_student_becomes_like_its_teacher(dataset, teacher, tmp_path):
    ends = {}
    quiet = {"augmentation": NO_AUGMENTATION, "model": {"transformer": {"dropout": 0}}}
    for name, weights in (("taught", (5.0, 20.0)), ("watched", (1e-9, 1e-9))):
        distill = {"embedding_weight": weights[0], "similarity_weight": weights[1]}
        config = taught_by(teacher, distill, num_epochs=8, optim={"lr": 2e-3}, **quiet)
        result = run(config, dataset, tmp_path / name)
        ends[name] = run_lines(tmp_path / name)[-3:]
    for part in ("distill_embedding", "distill_similarity"):
        taught, watched = (np.mean([line[part] for line in lines]) for lines in ends.values())
        assert taught < 0.6 * watched, part
    last = ends["taught"][-1]
    identities = last["mfe_ce"] + last["mfe_triplet"] + last["tfc3_ce"] + last["tfc3_triplet"]
    identities += 0.5 * (last["tfc1_ce"] + last["tfc1_triplet"])
    assert last["loss"] == pytest.approx(identities + 5 * last["distill_embedding"] + 20 * last["distill_similarity"], rel=1e-5)
    # The projection is learned beside the student and is no part of it.
    product = hat.load_checkpoint(result.folder).state_dict()
    assert list(product) == list(HAT(config.model, 6).state_dict())
    state = read_state(result.folder)
    widths = (hat.load_checkpoint(teacher).embed_dim, hat.load_checkpoint(result.folder).embed_dim)
    assert {name: tuple(value.shape) for name, value in state["projection"].items()} == {"weight": widths, "bias": widths[:1]}


def by_least_squares(dataset, teacher):
    """16 training images, the untrained student's features of them (16, C + 1), the last of which is 1, and the projection."""
    paths = [merge_training([dataset]).paths[index] for index in np.linspace(0, 23, 16).round().astype(int)]
    student = initial_model(taught_by(teacher), 6)[0].eval()
    with torch.no_grad():
        rows = student(load_images(paths, student.preprocessing)).double().numpy()
    target = hat.Embedder.open(teacher, device="cpu").embed_paths(paths)
    rows = np.hstack([rows, np.ones((16, 1))])
    width = rows.shape[1]
    ridge = np.sqrt(0.1 * 16 / width) * np.eye(width)  # as observations whose targets are 0
    expected, *_ = np.linalg.lstsq(
        np.vstack([rows, ridge]), np.vstack([target, np.zeros((width, target.shape[1]))]), rcond=None
    )
    return paths, rows, expected


def test_a_projection_is_fitted_as_least_squares_with_a_ridge_would_be(dataset, teacher, tmp_path, capsys):
    config = taught_by(teacher, {"projection_images": 16, "cache": True}, num_epochs=1, optim={"lr": 1e-12})
    run(config, dataset, tmp_path / "run")
    projection = read_state(tmp_path / "run")["projection"]
    found = np.vstack([projection["weight"].numpy().T, projection["bias"].numpy()])
    _, rows, expected = by_least_squares(dataset, teacher)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    width = rows.shape[1] - 1  # beside the ones that the bias goes with
    assert f"fitted on 16 images, fewer than the {width} features" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("average", [False, True])
def test_a_run_of_no_epochs_fits_the_students_own_projection_and_keeps_all_else(average, dataset, teacher, tmp_path):
    width = hat.load_checkpoint(teacher).embed_dim
    own = {"model": {"projection_dim": width}, "ema": {"enabled": average}, "num_epochs": 0}
    config = taught_by(teacher, {"projection_images": 16, "cache": True}, **own)
    result = run(config, dataset, tmp_path / "run")
    assert result.num_steps == 0 and result.stopped is None
    paths, rows, expected = by_least_squares(dataset, teacher)
    product = hat.load_checkpoint(result.folder)
    plain = initial_model(taught_by(teacher), 6)[0].state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in product.state_dict().items() if "projection" not in name)
    led = rows @ expected
    embeddings = hat.Embedder.open(result.folder, device="cpu").embed_paths(paths)
    np.testing.assert_allclose(embeddings, led / np.linalg.norm(led, axis=1, keepdims=True), atol=1e-3)


def test_a_students_own_projection_is_its_embedding_and_learns_from_the_teacher(dataset, teacher, tmp_path):
    width = hat.load_checkpoint(teacher).embed_dim
    own = {"model": {"projection_dim": width, "transformer": {"dropout": 0}}, "augmentation": NO_AUGMENTATION}
    config = taught_by(teacher, num_epochs=12, optim={"lr": 2e-3}, **own)
    out = tmp_path / "run"
    run(config, dataset, out)
    assert read_state(out)["projection"] is None, "the run needs none beside it"
    taught, paths = hat.Embedder.open(teacher, device="cpu"), list(dataset.train.paths)
    target = taught.embed_paths(paths)
    before = initial_model(config, 6)[0].eval()
    with torch.no_grad():
        untrained = before(load_images(paths, before.preprocessing)).numpy()
    trained = hat.Embedder.open(out, device="cpu").embed_paths(paths)
    cosines = [(rows * target).sum(axis=1).mean() for rows in (untrained, trained)]
    assert cosines[1] > cosines[0] + 0.3, cosines
    # Another run goes on with it, from its own values; one without a projection leaves it out.
    again = taught_by(teacher, num_epochs=1, backbone_weights=None, initial_checkpoint=str(out), **own)
    learned = hat.load_checkpoint(out).state_dict()["projection.weight"]
    assert torch.equal(initial_model(again, 9)[0].state_dict()["projection.weight"], learned)


def test_a_projection_of_another_width_than_the_teachers_learns_similarities_alone(dataset, teacher, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.projection_dim is 8 and the teacher's embeddings have \d+ values"):
        run(taught_by(teacher, model={"projection_dim": 8}), dataset, tmp_path / "refused")
    run(taught_by(teacher, {"embedding_weight": 0}, num_epochs=1, model={"projection_dim": 8}), dataset, tmp_path / "run")
    assert hat.load_checkpoint(tmp_path / "run").embed_dim == 8


@pytest.mark.parametrize("cache", [False, True])
def test_a_resumed_student_ends_in_the_same_weights(cache, dataset, teacher, tmp_path):
    distill = {"cache": cache, "similarity": "mse" if cache else "kl"}
    config = taught_by(teacher, distill, checkpoint={"every_steps": 2}, optim={"clip_grad_norm": 1.0})
    whole = tmp_path / "whole"
    run(config, dataset, whole)
    out = tmp_path / "stopped"
    interrupt(config, dataset, out, 5)  # a step after the last state
    run(config, dataset, out, resume=True)
    assert_same_weights(whole, out)
    assert run_lines(out) == run_lines(whole)
    states = [read_state(folder) for folder in (whole, out)]
    for name, value in states[0]["projection"].items():
        assert torch.equal(value, states[1]["projection"][name])
    assert (out / TEACHER_FILE).is_file() == cache


def test_embeddings_that_are_kept_are_those_of_the_images_as_they_are(dataset, teacher, tmp_path):
    train = merge_training([dataset])
    run(taught_by(teacher, num_epochs=1, distill={"cache": True}), dataset, tmp_path / "first")
    path = tmp_path / "first" / TEACHER_FILE
    expected = hat.Embedder.open(teacher, device="cpu").embed_paths(train.paths)
    rows, _ = read_rows(path, describe_data(train), 24)
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-5)
    # Another run names the file instead of the model and ends in the same weights.
    run(taught_by(path, num_epochs=1), dataset, tmp_path / "second")
    assert_same_weights(tmp_path / "first", tmp_path / "second")
    assert not (tmp_path / "second" / TEACHER_FILE).exists()
    # A new run in the first one's folder begins with embeddings of its own.
    RunFolder(tmp_path / "first").begin(TrainConfig(), resume=False)
    assert not path.exists()


def test_a_teacher_of_both_directions_gives_what_a_flip_test_gives(dataset, teacher, tmp_path):
    train = merge_training([dataset])
    embedder = hat.Embedder.open(teacher, device="cpu")
    expected = embedder.embed_paths(train.paths, flip=True)
    run(taught_by(teacher, num_epochs=1, distill={"cache": True, "flip": True}), dataset, tmp_path / "run")
    rows, _ = read_rows(tmp_path / "run" / TEACHER_FILE, describe_data(train), 24)
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-5)
    online = OnlineTeacher(embedder.runtime, "fp32", flip=True)
    images = load_images(train.paths, embedder.preprocessing)
    np.testing.assert_allclose(online.embed(images, torch.arange(24)).numpy(), expected, atol=1e-5)
    assert np.abs(expected - embedder.embed_paths(train.paths)).max() > 1e-3
    with pytest.raises(ConfigError, match=r"distill\.flip is for a model that embeds"):
        run(taught_by(tmp_path / "run" / TEACHER_FILE, distill={"flip": True}), dataset, tmp_path / "refused")


def test_wrong_teachers_are_refused(dataset, teacher, tmp_path):
    train, folder = merge_training([dataset]), RunFolder(tmp_path / "run")

    def refused(path, error, match):
        with pytest.raises(error, match=match):
            Trainer(taught_by(path), train, folder, CPU)

    refused(tmp_path / "nowhere", CheckpointError, "nowhere: there is no such checkpoint or file")
    refused(tmp_path / "nowhere.safetensors", CheckpointError, "there is no such file of a teacher's embeddings")
    path = tmp_path / TEACHER_FILE
    write_rows(path, unit_rows(24, 8, 0), "x", "other images")
    refused(path, ConfigError, "belongs to other training images: other images; got 24 images, 6 identities")
    write_rows(path, torch.ones(24, 8), "x", describe_data(train))
    refused(path, CheckpointError, "not of unit length")
    write_rows(path, unit_rows(23, 8, 0), "x", describe_data(train))
    refused(path, CheckpointError, r"holds \(23, 8\) .* expected 24 float32 rows")
    save_file({"embeddings": torch.ones(24, 8)}, path)
    refused(path, CheckpointError, "holds no teacher's embeddings")
    path.write_bytes(b"no tensors")
    refused(path, CheckpointError, "is damaged")
    assert not (tmp_path / "run").exists()


def test_another_teacher_at_the_same_path_does_not_go_on_with_a_run(dataset, teacher, tmp_path):
    path = tmp_path / "teacher"
    hat.save_checkpoint(hat.load_checkpoint(teacher), path)
    config = taught_by(path, num_epochs=1)
    run(config, dataset, tmp_path / "run")
    changed = hat.load_checkpoint(teacher)
    changed.necks["tfc3"].weight.data.mul_(1.5)
    hat.save_checkpoint(changed, path)
    with pytest.raises(ConfigError, match="learned from another teacher"):
        run(config, dataset, tmp_path / "run", resume=True)


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="cache is set and there is no teacher"):
        configure(distill={"cache": True})
    with pytest.raises(ConfigError, match="flip is set and there is no teacher"):
        configure(distill={"flip": True})
    with pytest.raises(ConfigError, match="nothing is learned from it: both weights are 0"):
        configure(distill={"teacher": "t", "embedding_weight": 0, "similarity_weight": 0})
    with pytest.raises(ConfigError, match="projection_images is set and there is no projection"):
        configure(distill={"teacher": "t", "embedding_weight": 0, "projection_images": 8})
    with pytest.raises(ConfigError, match=r"distill\.temperature: .*greater than 0"):
        configure(distill={"temperature": 0})
