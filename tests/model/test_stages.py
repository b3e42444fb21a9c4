"""The parts of the network against hand-made second implementations of the paper's equations."""

import math

import pytest
import torch
import torch.nn.functional as F

from hat.model.config import ModelConfig, TransformerConfig
from hat.model.dsa import TFC, scale_map, stage_widths
from hat.model.layers import Attention, ResidualBlock, TransformerBlock


def attention_by_loops(attention, tokens, scale):
    """Softmax attention, one image, one head, one query at a time."""
    heads, dim = attention.num_heads, attention.head_dim
    qkv = tokens @ attention.to_qkv.weight.T
    gathered = torch.zeros(*tokens.shape[:2], heads * dim)
    for b in range(tokens.shape[0]):
        for h in range(heads):
            q, k, v = (qkv[b, :, part * heads * dim + h * dim :][:, :dim] for part in range(3))
            for i in range(tokens.shape[1]):
                logits = torch.tensor([float(q[i] @ k[j]) / scale for j in range(tokens.shape[1])])
                gathered[b, i, h * dim : (h + 1) * dim] = (logits.softmax(0)[:, None] * v).sum(0)
    return gathered @ attention.to_out.weight.T + attention.to_out.bias


@pytest.mark.parametrize(("head_dim", "scale_by", "scale"), [(3, "head_dim", math.sqrt(3)), (4, "model_dim", math.sqrt(6))])
def test_attention_equals_loops_over_heads_and_queries(head_dim, scale_by, scale):
    torch.manual_seed(0)
    attention, tokens = Attention(6, 2, head_dim, scale_by, 0.0).eval(), torch.randn(2, 5, 6)
    with torch.no_grad():
        expected = attention_by_loops(attention, tokens, scale)
    torch.testing.assert_close(attention(tokens), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attention(tokens, num_queries=2), expected[:, :2], atol=1e-5, rtol=1e-4)
    weights = attention.weights(tokens)
    assert weights.shape == (2, 2, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))


@pytest.mark.parametrize(
    ("settings", "width", "expected"),
    [
        ({}, 768, (16, 48)),
        ({"head_dim": 64}, 768, (16, 64)),
        ({"num_heads": None, "head_dim": 32}, 256, (8, 32)),
        ({"num_heads": None, "head_dim": 32}, 16, (1, 16)),
        ({"num_heads": None, "head_dim": 16}, 40, (2, 20)),
        ({"num_heads": None, "head_dim": 16}, 58, (2, 29)),
    ],
)
def test_head_shape_shares_the_width_or_is_as_said(settings, width, expected):
    assert TransformerConfig(**settings).head_shape(width) == expected


@pytest.mark.parametrize("order", ["post", "pre"])
def test_blocks_follow_equations_2_and_3_in_either_norm_order(order):
    torch.manual_seed(0)
    block = TransformerBlock(8, TransformerConfig(norm_order=order, num_heads=2, ffn_dim=12, dropout=0.1)).eval()
    x = torch.randn(2, 5, 8)

    def ffn(t):
        return F.linear(F.gelu(F.linear(t, block.ffn.up.weight, block.ffn.up.bias)), block.ffn.down.weight, block.ffn.down.bias)

    if order == "post":
        y = F.layer_norm(x + block.attention(x), (8,))
        expected = F.layer_norm(y + ffn(y), (8,))
    else:
        y = x + block.attention(F.layer_norm(x, (8,)))
        expected = y + ffn(F.layer_norm(y, (8,)))
    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(block(x, num_queries=1), expected[:, :1])


def test_a_stage_lays_tokens_out_row_by_row_with_cls_first():
    torch.manual_seed(0)
    stage = TFC(3, 4, 1, (2, 5), TransformerConfig(num_heads=2, ffn_dim=8), nea=False).eval()
    feature_map = torch.randn(2, 3, 2, 5)
    tokens = stage.embed(feature_map)
    assert tokens.shape == (2, 11, 4)
    torch.testing.assert_close(tokens[0, 0], stage.cls_token[0, 0] + stage.position_embedding[0, 0])
    expected = stage.patch_embed(feature_map[1, :, 1, 3]) + stage.position_embedding[0, 1 + 1 * 5 + 3]
    torch.testing.assert_close(tokens[1, 9], expected)
    cls, calibrated = stage(feature_map)
    after = stage.blocks[0](tokens)
    torch.testing.assert_close(cls, after[:, 0])
    torch.testing.assert_close(calibrated[1, :, 1, 3], after[1, 9])
    torch.testing.assert_close(stage.forward_cls(feature_map), cls)


def test_positions_resampled_to_their_own_grid_are_themselves():
    stage = TFC(3, 4, 1, (4, 2), TransformerConfig(num_heads=2, ffn_dim=8), nea=False)
    assert stage.interpolate_pos_embed(4, 2) is stage.position_embedding
    larger = stage.interpolate_pos_embed(8, 4)
    assert larger.shape == (1, 33, 4)
    torch.testing.assert_close(larger[:, 0], stage.position_embedding[:, 0])


def test_scaling_pools_the_maximum_down_and_interpolates_up():
    feature_map = torch.arange(32.0).view(1, 1, 8, 4)
    assert scale_map(feature_map, (4, 2)).tolist() == [[[[5, 7], [13, 15], [21, 23], [29, 31]]]]
    assert scale_map(feature_map, (8, 4)) is feature_map
    row = scale_map(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    assert row.tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, {1: (256, 256), 2: (768, 768), 3: (1792, 2048)}),
        ({"mfe_supervision": False}, {1: (256, 256), 2: (768, 768), 3: (1792, 2048)}),
        ({"depths": (12, 0, 0, 0)}, {1: (256, 256)}),
        ({"depths": (0, 12, 0, 0)}, {2: (512, 512)}),
        ({"depths": (0, 0, 6, 0)}, {3: (1024, 1024)}),
        ({"depths": (0, 0, 0, 12)}, {4: (2048, 2048)}),
        ({"depths": (0, 4, 4, 4)}, {2: (512, 512), 3: (1536, 1536), 4: (3584, 2048)}),
        ({"depths": (0, 0, 0, 0)}, {}),
    ],
    ids=str,
)
def test_stage_widths_are_the_paper_s(overrides, expected):
    assert stage_widths(ModelConfig(**overrides), (256, 512, 1024, 2048)) == expected
    edge = stage_widths(ModelConfig(depths=(1, 1, 0, 0)), (24, 40, 112, 960))
    assert edge == {1: (24, 32), 2: (72, 960)}  # rounded up to the heads


def test_the_residual_block_keeps_shape_and_adds_its_input():
    block = ResidualBlock(8).eval()
    torch.nn.init.zeros_(block.bn3.weight)
    x = torch.randn(2, 8, 4, 3)
    torch.testing.assert_close(block(x), x.relu())
