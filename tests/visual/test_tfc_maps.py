"""Maps and attention of the stages against the recursion written out by hand."""

import numpy as np
import pytest
import torch

from hat.errors import UsageError
from hat.model.dsa import scale_map
from hat.visual import cls_attention, tfc_maps, token_maps


@pytest.mark.parametrize("order", ["post", "pre"])
def test_maps_and_attention_equal_the_recursion_by_hand(make_model, images, order):
    model = make_model(transformer={"norm_order": order}).eval()
    found, attended = token_maps(model, images), cls_attention(model, images)
    assert list(found) == list(attended) == ["tfc1", "tfc2", "tfc3"]
    batch = torch.stack([model.preprocessing(image) for image in images])
    with torch.no_grad():
        levels, carried = model.mfe(model.preprocessing.normalize(batch)), None
        for level, name in enumerate(found):
            stage = model.dsa[name]
            entering = scale_map(model.bottlenecks[name](levels[level]), (4, 2))
            entering = entering if carried is None else torch.cat([entering, carried], dim=1)
            tokens = stage.embed(entering)
            for block in stage.blocks[:-1]:
                tokens = block(tokens)
            last = stage.blocks[-1]
            asked = last.norm1(tokens) if order == "pre" else tokens
            weights = last.attention.weights(asked)[:, :, 0].mean(dim=1)  # (B, 1 + 8)
            for image in range(3):
                for row in range(4):
                    for column in range(2):
                        assert attended[name][image, row, column] == pytest.approx(
                            float(weights[image, 1 + 2 * row + column]), abs=1e-6
                        )
            np.testing.assert_allclose(attended[name].sum(axis=(1, 2)), 1 - weights[:, 0].numpy(), atol=1e-5)
            assert (weights[:, 0] > 0).all()
            calibrated = last(tokens)[:, 1:].transpose(1, 2).reshape(3, -1, 4, 2)
            carried = stage.nea(calibrated)
            np.testing.assert_allclose(found[name], carried.abs().mean(dim=1).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"depths": (0, 2, 0, 1)}, {"depths": (0, 0, 0, 1), "downscale": 8}, {"mfe_supervision": False, "depths": (1, 0, 0, 0)}],
)
def test_every_stage_that_is_used_has_maps_of_the_token_grid(make_model, images, changes):
    model = make_model(**changes)
    for maps in (token_maps(model, images * 7), cls_attention(model, images * 7)):
        assert list(maps) == [f"tfc{level}" for level in model.config.levels]
        for values in maps.values():
            assert values.shape == (21, *model.config.token_grid)
            assert values.dtype == np.float32
            np.testing.assert_allclose(values[:3], values[18:], atol=1e-4)
            assert np.ptp(values) > 0


def test_the_model_is_left_as_it_was_also_after_an_error(make_model, images, assert_left_as_it_was, monkeypatch):
    model = make_model()
    check = assert_left_as_it_was(model)
    for compute in (token_maps, cls_attention, tfc_maps):
        compute(model, images)
        check()

    def fail(_):
        raise ZeroDivisionError

    monkeypatch.setattr(model.dsa["tfc3"], "embed", fail)
    for compute in (token_maps, cls_attention):
        with pytest.raises(ZeroDivisionError):
            compute(model, images)
        check()


def test_tfc_maps_has_a_row_for_each_map(make_model, images):
    one, two = (tfc_maps(make_model(depths=depths), images[:1]).height for depths in ((0, 0, 0, 1), (0, 0, 1, 1)))
    assert two == one + 2 * (220 + 16)
    with pytest.raises(UsageError, match="at least one"):
        tfc_maps(make_model(), [])
