"""Layers that HAT puts on its CNN: residual block, poolings to the MFE feature, and transformer blocks (Sec. 3.2, Eq. 1-4).

Every module of the transformer takes `num_queries`: only the first so many tokens are carried on, while keys and values still
come from all of them. A last stage of which nothing but CLS is read uses it: the result is the same and most of a block's work
is not done.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.config import TransformerConfig


class ResidualBlock(nn.Module):
    """ResNet's bottleneck with as many channels out as in, ``reduction`` times narrower inside.

    Used on each level of the CNN before scaling ("bottleneck", Sec. 3.2) and, after a stage's transformer blocks, as the
    Neighborhood Adjustment NeA (Eq. 5), for which the paper asks for convolutions with batch norm and the released code takes
    this block.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.conv1 = nn.Conv2d(channels, inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)))  # (B, C/r, h, w)
        y = F.relu(self.bn2(self.conv2(y)))  # (B, C/r, h, w)
        return F.relu(self.bn3(self.conv3(y)) + x)  # (B, C, h, w)


class Mean(nn.Module):
    """The mean over all positions, as in the released code; the paper names no pooling."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C)."""
        return feature_map.mean(dim=(2, 3))


class GeneralizedMean(nn.Module):
    """GeM: the p-th root of the mean of p-th powers (Radenovic et al., TPAMI 2019).

    p = 1 is the mean and a large p the maximum; it is learned, one for all channels. Values below 1e-6 count as 1e-6, so that
    the map should be one that a ReLU has left. Computed in float32 at least.
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C)."""
        # A cube leaves the range of float16 at 40, and most of bfloat16's digits are gone after two powers.
        values = feature_map.float() if feature_map.dtype in (torch.float16, torch.bfloat16) else feature_map
        values = values.clamp(min=1e-6)
        # With gradients a power by a learned p costs three of its kind; the same as an exponential, half of that.
        powers = (values.log() * self.p).exp() if self.training else values.pow(self.p)
        pooled: Tensor = powers.mean(dim=(2, 3)).pow(1 / self.p)
        return pooled


def build_pooling(kind: Literal["avg", "gem"]) -> nn.Module:
    """Make the pooling that `ModelConfig.pooling` names."""
    return GeneralizedMean() if kind == "gem" else Mean()


class Attention(nn.Module):
    """Multi-head self-attention (Eq. 1) of tokens (B, N, C_p).

    Logits are divided by the square root of the head's width (paper), or of C_p where ``scale_by`` is ``"model_dim"`` (released
    code).
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, scale_by: str, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.scale = (head_dim if scale_by == "head_dim" else width) ** -0.5
        inner = num_heads * head_dim
        self.to_qkv = nn.Linear(width, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, num_queries: int | None = None) -> Tensor:
        """Mix the values of all tokens (B, N, C_p), for each query by its weights: (B, N or num_queries, C_p)."""
        if num_queries is None:
            q, k, v = (self._split(part) for part in self.to_qkv(tokens).chunk(3, dim=-1))  # each (B, heads, N, head_dim)
        else:
            inner = self.num_heads * self.head_dim
            weight_q, weight_kv = self.to_qkv.weight.split([inner, 2 * inner])
            q = self._split(F.linear(tokens[:, :num_queries], weight_q))  # (B, heads, num_queries, head_dim)
            k, v = (self._split(part) for part in F.linear(tokens, weight_kv).chunk(2, dim=-1))
        out: Tensor = self.to_out(self.attend(q, k, v).transpose(1, 2).flatten(2))  # (B, queries, C_p)
        dropped: Tensor = self.dropout(out)
        return dropped

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T * scale) v, (B, heads, queries, head_dim)."""
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)

    def weights(self, tokens: Tensor) -> Tensor:
        """Return the weights of tokens (B, N, C_p), to be drawn: (B, heads, N queries, N keys), each row a distribution."""
        q, k, _ = (self._split(part) for part in self.to_qkv(tokens).chunk(3, dim=-1))
        weights: Tensor = (q @ k.transpose(-1, -2) * self.scale).softmax(dim=-1)
        return weights

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, heads * head_dim) to (B, heads, N, head_dim); heads are outermost in the channels."""
        heads: Tensor = x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        return heads


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them (Eq. 4)."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, C_p) to (B, N, C_p), each token by itself."""
        inner: Tensor = self.dropout(F.gelu(self.up(tokens)))  # (B, N, inner)
        out: Tensor = self.dropout(self.down(inner))
        return out


class TransformerBlock(nn.Module):
    """Attention and feed-forward network, each with a residual sum and a layer norm (after it in Eq. 2-3)."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        ffn_dim = round(config.ffn_ratio * width) if config.ffn_dim is None else config.ffn_dim
        self.pre_norm = config.norm_order == "pre"
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, *config.head_shape(width), config.attention_scale, config.dropout)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = FeedForward(width, ffn_dim, config.dropout)

    def forward(self, tokens: Tensor, num_queries: int | None = None) -> Tensor:
        """Map (B, N, C_p) to (B, N or num_queries, C_p)."""
        residual = tokens if num_queries is None else tokens[:, :num_queries]
        if self.pre_norm:
            residual = residual + self.attention(self.norm1(tokens), num_queries)
            out: Tensor = residual + self.ffn(self.norm2(residual))
        else:
            residual = self.norm1(residual + self.attention(tokens, num_queries))
            out = self.norm2(residual + self.ffn(residual))
        return out
