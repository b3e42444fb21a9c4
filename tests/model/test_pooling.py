"""Generalized mean pooling: by hand, at its ends, in half precision, and inside a model."""

import hashlib
import json

import numpy as np
import pytest
import torch
from test_architecture import tiny

from hat.config import config_to_dict
from hat.io.artifact import fingerprint
from hat.model import ModelConfig
from hat.model.inference import InferenceModel
from hat.model.layers import GeneralizedMean, Mean
from hat.preprocessing import Preprocessing


def test_by_hand():
    feature_map = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 5.0]], [[-7.0, -7.0], [-7.0, 6.0]]]])
    found = GeneralizedMean(p=3.0)(feature_map)
    expected = [25 ** (1 / 3), 5 * 0.25 ** (1 / 3), 6 * 0.25 ** (1 / 3)]  # mean of cubes; what is negative counts as nothing
    torch.testing.assert_close(found, torch.tensor([expected]))
    torch.testing.assert_close(GeneralizedMean(p=1.0)(feature_map), Mean()(feature_map.clamp(min=0)))


def test_gradients_of_the_map_and_of_the_power_agree_with_finite_differences():
    pooling = GeneralizedMean(p=2.5).double()
    feature_map = torch.rand(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.2
    feature_map.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: pooling(x), (feature_map, pooling.p))
    dead = torch.zeros(1, 2, 3, 3, requires_grad=True)
    GeneralizedMean()(dead).sum().backward()
    assert torch.isfinite(dead.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_pooled_in_float32(dtype):
    feature_map = 90 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = GeneralizedMean()(feature_map)
    assert found.dtype == torch.float32
    expected = np.mean(feature_map.double().numpy() ** 3, axis=(2, 3)) ** (1 / 3)  # cubes reach 700,000, float16 ends at 65,504
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)


def test_a_model_pools_its_mfe_feature_with_it():
    mean, generalized = tiny(), tiny(pooling="gem")
    assert set(generalized.state_dict()) - set(mean.state_dict()) == {"pooling.p"}
    images = torch.randn(2, 3, 64, 32)
    last = generalized.mfe(images)[-1]
    assert generalized.training
    expected = np.maximum(last.detach().double().numpy(), 1e-6)
    expected = np.mean(expected**3, axis=(2, 3)) ** (1 / 3)
    np.testing.assert_allclose(generalized.features(images)["mfe"].detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    generalized(images).branches["mfe"].feature.sum().backward()
    assert generalized.pooling.p.grad is not None and generalized.pooling.p.grad.abs() > 0
    assert not hasattr(tiny(pooling="gem", mfe_supervision=False), "pooling"), "nothing would read it"


def test_the_exact_inference_graph_pools_alike():
    model = tiny(pooling="gem").eval()
    with torch.no_grad():
        model.pooling.p.fill_(3.7)
    pixels = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(InferenceModel(model)(pixels), model(pixels), atol=1e-5, rtol=0)


def test_models_from_before_keep_their_fingerprint():
    config, preprocessing = ModelConfig(), Preprocessing()
    before = config_to_dict(config)
    del before["pooling"], before["projection_dim"]
    metadata = json.dumps([before, config_to_dict(preprocessing), "ab", "fp32"], sort_keys=True)
    assert fingerprint(config, preprocessing, "ab", "fp32") == hashlib.sha256(metadata.encode()).hexdigest()
    for changed in (ModelConfig(pooling="gem"), ModelConfig(projection_dim=64)):
        assert fingerprint(changed, preprocessing, "ab", "fp32") != fingerprint(config, preprocessing, "ab", "fp32")
