"""Random numbers that belong to a sample, not to a stream: the same wherever and in whatever order they are computed.

A generator hands out its numbers in order, so what an image gets would depend on how many processes share a batch and on where
a run was resumed. Here every number is a hash of what it is for: (seed, epoch, position in the epoch, number of the draw). The
hash is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), whole-number arithmetic and hence the same on every
device.
"""

import torch
from torch import Tensor

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def derive_seed(*parts: int) -> int:
    """Hash whole numbers, such as (seed, epoch, step, rank) in this order, into a seed in [0, 2**63)."""
    state = 0
    for part in parts:
        state = _mix((state + _GOLDEN + (part & _MASK)) & _MASK)
    return state >> 1


def uniforms(seed: int, epoch: int, positions: Tensor, num_draws: int) -> Tensor:
    """Draw (B, num_draws) float32 in [0, 1) for samples at ``positions`` (B,) int64 of the epoch's global sequence."""
    key = derive_seed(seed, epoch)
    samples = _mix_tensor(_wrap(key) + (positions + 1) * _wrap(_GOLDEN))  # (B,)
    draws = torch.arange(1, num_draws + 1, device=positions.device) * _wrap(_GOLDEN)  # (D,)
    bits = _mix_tensor(samples[:, None] + draws)  # (B, D)
    # A float32 holds 24 bits exactly; rounding more of them could give 1.0.
    numbers: Tensor = _shift(bits, 40).to(torch.float32) * 2.0**-24
    return numbers


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * _MULTIPLIER_1) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLIER_2) & _MASK
    return value ^ (value >> 31)


def _mix_tensor(value: Tensor) -> Tensor:
    """`_mix` for int64 tensors, whose products wrap around as unsigned ones do."""
    value = (value ^ _shift(value, 30)) * _wrap(_MULTIPLIER_1)
    value = (value ^ _shift(value, 27)) * _wrap(_MULTIPLIER_2)
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift right with zeros coming in; torch's own shift of int64 copies the sign."""
    shifted: Tensor = (value >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _wrap(value: int) -> int:
    """Return an unsigned 64-bit number as the signed one with the same bits."""
    return value - 2**64 if value >= 2**63 else value
