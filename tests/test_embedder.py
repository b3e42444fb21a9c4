"""The front door: every kind of input gives the same embeddings as the model by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import hat
from hat.errors import CheckpointError, ImageError, UsageError
from hat.runtime import Runtime, TorchRuntime
from hat.runtime.protocol import runtime_device


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five random pictures of several sizes and modes, as files without loss."""
    rng, folder, paths = np.random.default_rng(0), tmp_path_factory.mktemp("pictures"), []
    for index, (height, width) in enumerate([(64, 32), (128, 64), (50, 30), (64, 32), (200, 90)]):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        path = folder / f"{index}.png"
        (image.convert("L") if index == 3 else image).save(path)
        paths.append(path)
    return paths


@torch.no_grad()
def by_hand(model, paths, flip=False):
    decoded = [np.asarray(Image.open(path).convert("RGB").resize((32, 64), Image.Resampling.BILINEAR)) for path in paths]
    pixels = (np.stack(decoded) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    rows = model(inputs) + model(inputs.flip(-1)) if flip else model(inputs)
    return torch.nn.functional.normalize(rows, dim=1).numpy()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_paths_images_and_arrays_give_the_embeddings_of_the_model(tiny_model, pictures, batch_size):
    expected = by_hand(tiny_model, pictures)
    embedder = hat.Embedder(TorchRuntime(tiny_model, "cpu"), batch_size=batch_size)
    decoded = [Image.open(path) for path in pictures[2:]]
    mixed = [str(pictures[0]), pictures[1], *decoded[:2], np.asarray(decoded[2])]
    embeddings = embedder.embed(mixed)
    assert embeddings.shape == (5, embedder.embed_dim) and embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    done = []
    np.testing.assert_allclose(embedder.embed_paths([str(path) for path in pictures], advance=done.append), expected, atol=1e-5)
    assert sum(done) == 5 and max(done) <= batch_size
    np.testing.assert_allclose(embedder.embed_paths(path for path in pictures), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(path for path in pictures), expected, atol=1e-5)


def test_flip_averages_an_image_and_its_mirror_image_and_no_images_give_no_rows(tiny_model, pictures):
    embedder = hat.Embedder(TorchRuntime(tiny_model, "cpu"))
    np.testing.assert_allclose(embedder.embed(pictures, flip=True), by_hand(tiny_model, pictures, flip=True), atol=1e-5)
    assert embedder.embed([]).shape == embedder.embed_paths([]).shape == (0, tiny_model.embed_dim)


def test_a_runtime_with_a_largest_batch_is_never_given_a_larger_one(tiny_model, pictures):
    class Small(TorchRuntime):
        max_batch = 2

        def run(self, images):
            assert 1 <= len(images) <= 2
            return super().run(images)

    embedder = hat.Embedder(Small(tiny_model, "cpu"), batch_size=32)
    assert isinstance(embedder.runtime, Runtime)
    np.testing.assert_allclose(embedder.embed(pictures), by_hand(tiny_model, pictures), atol=1e-5)


def test_a_checkpoint_opens_and_bfloat16_stays_near(tiny_model, pictures, tmp_path):
    folder = hat.save_checkpoint(tiny_model, tmp_path / "run")
    expected = by_hand(tiny_model, pictures)
    np.testing.assert_allclose(hat.Embedder.open(folder, device="cpu").embed(pictures), expected, atol=1e-5)
    lower = hat.Embedder.open(folder, device="cpu", precision="bf16").embed(pictures)
    cosines = (lower * expected).sum(axis=1)
    assert 0.97 < cosines.min() < 0.99999999
    np.testing.assert_allclose(np.linalg.norm(lower, axis=1), 1, atol=1e-5)


def test_a_precision_that_the_processor_is_slow_in_is_told_of(tiny_model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("hat.processor._CPUINFO", tmp_path / "cpuinfo")
    for flags, precision, warned in (("avx2", "bf16", 1), ("avx2", "fp32", 0), ("avx512_bf16", "bf16", 0), ("", "bf16", 0)):
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        caplog.clear()
        TorchRuntime(tiny_model, "cpu", precision)
        assert ("no instructions for bf16" in caplog.text) == warned, flags


def test_what_cannot_be_embedded_is_refused(tiny_model, pictures, tmp_path):
    embedder = hat.Embedder(TorchRuntime(tiny_model, "cpu"))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        embedder.embed([tmp_path / "broken.jpg"])
    with pytest.raises(UsageError, match="put it in a list"):
        embedder.embed(str(pictures[0]))
    with pytest.raises(UsageError, match="put it in a list"):
        embedder.embed_paths(str(pictures[0]))
    with pytest.raises(UsageError, match=r"hat\.Embedder\.open\('model\.onnx'\)"):
        hat.Embedder("model.onnx")
    with pytest.raises(UsageError, match="got int"):
        embedder.embed([3])
    for shape, dtype in [((8, 8), np.uint8), ((8, 8, 3), np.float32), ((3, 8, 8), np.uint8), ((0, 8, 3), np.uint8)]:
        with pytest.raises(UsageError, match=r"\(H, W, 3\)"):
            embedder.embed([np.zeros(shape, dtype)])
    with pytest.raises(CheckpointError, match="there is no such"):
        hat.Embedder.open(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        hat.Embedder.open(tmp_path / "broken.jpg")


def test_a_precision_or_device_that_nothing_knows_is_refused_and_torch_devices_are_taken(tiny_model, tmp_path):
    folder = hat.save_checkpoint(tiny_model, tmp_path / "run")
    for precision in ("int8", "float32", torch.float16):
        with pytest.raises(UsageError, match="unknown precision"):
            hat.Embedder.open(folder, precision=precision)
        with pytest.raises(UsageError, match="unknown precision"):
            TorchRuntime(tiny_model, "cpu", precision)
    with pytest.raises(UsageError, match="unknown device '0'"):
        hat.Embedder.open(folder, device=0)
    assert hat.Embedder.open(folder, device=torch.device("cpu")).runtime.device_type == "cpu"


def test_a_device_that_is_not_there_is_an_error_and_never_a_fallback(tiny_model):
    for device, reason in {"gpu": "unknown device 'gpu'", "cuda:99": "CUDA devices"}.items():
        with pytest.raises(UsageError, match=reason):
            TorchRuntime(tiny_model, device)


def test_runtime_device_does_not_read_the_display_name():
    for device_type, device in {"cpu": "cpu", "cuda": "cuda", "gpu": None}.items():
        assert runtime_device(SimpleNamespace(name="on a machine with cpu", device_type=device_type)) == device
    assert runtime_device(SimpleNamespace(name="cpu")) is None


def test_preprocessing_resizes_by_its_filter_and_normalizes_a_copy():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 40, 3), dtype=np.uint8))
    for name in ("bilinear", "bicubic"):
        expected = noise.resize((32, 64), Image.Resampling[name.upper()])
        assert np.array_equal(hat.Preprocessing(height=64, width=32, resize=name).resize_image(noise), expected)
    taken = hat.Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    for dtype, result in ((torch.uint8, torch.float32), (torch.float16, torch.float16)):
        images = torch.full((1, 3, 1, 1), 255, dtype=dtype)
        normalized = taken.normalize(images)
        assert normalized.dtype == result and normalized.flatten().tolist() == [1, 3, 1] and (images == 255).all()
