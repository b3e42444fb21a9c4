"""Losses against hand-computed values and a slow double loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.model import Branch
from hat.train import batch_hard_triplet, hat_loss, smoothed_cross_entropy
from hat.train.config import LossConfig
from hat.train.losses import branch_weights, circle_loss


def slow_triplet(features, pids, margin):
    total = 0.0
    for i, anchor in enumerate(features):
        distances = [math.dist(anchor.tolist(), other.tolist()) for other in features]
        positive = max(d for d, pid in zip(distances, pids, strict=True) if pid == pids[i])
        negatives = [d for d, pid in zip(distances, pids, strict=True) if pid != pids[i]]
        if not negatives:
            continue
        gap = positive - min(negatives)
        total += math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin)
    return total / len(pids)


def test_smoothed_cross_entropy_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    normalizer = math.log(math.exp(2) + 1 + math.exp(-1))
    logs = [2 - normalizer, -normalizer, -1 - normalizer]
    # e = 0.3 over K = 3: the true identity has 0.8, the others 0.1.
    expected = (-(0.8 * logs[0] + 0.1 * logs[1] + 0.1 * logs[2]) + math.log(3)) / 2
    assert smoothed_cross_entropy(logits, torch.tensor([0, 2]), 0.3).item() == pytest.approx(expected, rel=1e-6)
    assert smoothed_cross_entropy(logits.bfloat16(), torch.tensor([0, 2]), 0.3).dtype == torch.float32


def test_triplet_by_hand():
    # On a line: identity 0 at 0 and 3, identity 1 at 4 and 10.
    features = torch.tensor([[0.0], [3.0], [4.0], [10.0]])
    pids = torch.tensor([0, 0, 1, 1])
    # positive - negative: 3 - 4, 3 - 1, 6 - 1, 6 - 7
    assert batch_hard_triplet(features, pids, 0.3).item() == pytest.approx((0 + 2.3 + 5.3 + 0) / 4)
    soft = [math.log1p(math.exp(gap)) for gap in (-1, 2, 5, -1)]
    assert batch_hard_triplet(features, pids, None).item() == pytest.approx(sum(soft) / 4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pids=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    margin=st.sampled_from([0.3, 1.0, None]),
)
def test_triplet_equals_the_double_loop(seed, pids, margin):
    features = torch.randn(len(pids), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = batch_hard_triplet(features, torch.tensor(pids), margin).item()
    assert found == pytest.approx(slow_triplet(features, pids, margin), rel=1e-9, abs=1e-12)


def test_pairs_far_from_the_mean_are_told_apart():
    near = torch.rand(12, 3, generator=torch.Generator().manual_seed(2))
    features = near + torch.tensor([1000.0, -1000.0]).repeat_interleave(6)[:, None]
    pids = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    found = batch_hard_triplet(features, torch.tensor(pids), 0.3).item()
    assert found == pytest.approx(slow_triplet(features, pids, 0.3), rel=1e-5)


def slow_circle(features, pids, margin, scale):
    total = 0.0
    for i in range(len(pids)):
        pull, push = 0.0, 0.0
        for j in range(len(pids)):
            cosine = float(features[i] @ features[j] / features[i].norm() / features[j].norm())
            if pids[i] != pids[j]:
                push += math.exp(scale * max(0.0, cosine + margin) * (cosine - margin))
            elif i != j:
                pull += math.exp(-scale * max(0.0, 1 + margin - cosine) * (cosine - (1 - margin)))
        total += math.log1p(pull * push)
    return total / len(pids)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pids=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    margin=st.sampled_from([0.0, 0.25, 0.4]),
    scale=st.sampled_from([1.0, 64.0, 128.0]),
)
def test_circle_equals_the_double_loop(seed, pids, margin, scale):
    features = torch.randn(len(pids), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    features.requires_grad_()
    loss = circle_loss(features, torch.tensor(pids), margin, scale)
    loss.backward()
    assert loss.item() == pytest.approx(slow_circle(features.detach(), pids, margin, scale), rel=1e-9, abs=1e-12)
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_pairs_are_looked_for_among_the_gathered():
    gathered = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pids = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    pool, halves = {"gathered_features": gathered, "gathered_pids": pids}, (slice(0, 4), slice(4, 8))
    triplets = [batch_hard_triplet(gathered[r], pids[r], 0.3, **pool).item() for r in halves]
    assert sum(triplets) / 2 == pytest.approx(slow_triplet(gathered, pids.tolist(), 0.3), rel=1e-9)
    circles = [circle_loss(gathered[r], pids[r], 0.25, 64.0, **pool, offset=r.start).item() for r in halves]
    assert sum(circles) / 2 == pytest.approx(slow_circle(gathered, pids.tolist(), 0.25, 64.0), rel=1e-9)


def test_circle_forces_carry_no_gradient():
    # One positive and one negative, far from where they should be: d loss / d cosine is -scale * pull and scale * push.
    angle = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    still = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    anchor = torch.stack([angle.cos(), angle.sin()])[None]
    gathered, pids = torch.cat([anchor.detach(), still]), torch.tensor([0, 0, 1])
    circle_loss(anchor, pids[:1], 0.25, 8.0, gathered_features=gathered, gathered_pids=pids).backward()
    positive, negative = math.cos(1.2), 0.6 * math.cos(1.2) + 0.8 * math.sin(1.2)
    pull, push = 1.25 - positive, negative + 0.25
    inside = -8 * pull * (positive - 0.75) + 8 * push * (negative - 0.25)
    slopes = (-math.sin(1.2), -0.6 * math.sin(1.2) + 0.8 * math.cos(1.2))
    expected = (-8 * pull * slopes[0] + 8 * push * slopes[1]) / (1 + math.exp(-inside))
    assert angle.grad is not None and angle.grad.item() == pytest.approx(expected, rel=1e-9)


def test_triplet_gradient_agrees_with_finite_differences_and_is_finite_or_zero_at_the_edges():
    features = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    pids = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet(x, pids, 1.0), (features,))

    equal = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard_triplet(equal, torch.tensor([0, 0, 1, 1]), 0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert equal.grad is not None and torch.isfinite(equal.grad).all()
    features = torch.randn(3, 2, requires_grad=True)
    for margin in (0.3, None):
        loss = batch_hard_triplet(features, torch.tensor([5, 5, 5]), margin)
        loss.backward()
        assert loss.item() == 0
    assert features.grad is not None and not features.grad.any()


def test_branch_weights():
    whole = {"mfe": 1, "tfc1": 0.25, "tfc2": 0.25, "tfc3": 1}
    for expected in (whole, {"mfe": 1, "tfc3": 1}, {"tfc1": 0.25, "tfc4": 1}, {"tfc2": 1}):
        assert branch_weights(list(expected), 0.25) == expected


def random_branches(*names):
    generator, outputs = torch.Generator().manual_seed(0), {}
    for name in names:
        feature, logits = (torch.randn(4, width, generator=generator, requires_grad=width == 3) for width in (5, 3))
        outputs[name] = Branch(feature, logits)
    return outputs, torch.tensor([0, 0, 1, 1])


def test_total_is_the_sum_of_equation_9():
    names = ["mfe", "tfc1", "tfc2", "tfc3"]
    outputs, pids = random_branches(*names)
    loss = hat_loss(outputs, pids, LossConfig(auxiliary_weight=0.7))

    def branch(name):
        entropy = smoothed_cross_entropy(outputs[name].logits, pids, 0.1).item()
        return entropy + slow_triplet(outputs[name].feature, pids.tolist(), 0.3)

    expected = branch("mfe") + branch("tfc3") + 0.7 * (branch("tfc1") + branch("tfc2"))
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert set(loss.parts) == {f"{name}_{part}" for name in names for part in ("ce", "triplet")}
    assert not any(part.requires_grad for part in loss.parts.values())
    halves = {name: Branch(*(value.bfloat16() for value in branch)) for name, branch in outputs.items()}
    assert hat_loss(halves, pids, LossConfig(auxiliary_weight=0.7)).total.dtype == torch.float32


def test_losses_beside_the_entropy_are_weighed_or_left_out():
    outputs, pids = random_branches("tfc3")
    entropy = smoothed_cross_entropy(outputs["tfc3"].logits, pids, 0.1).item()
    triplet = slow_triplet(outputs["tfc3"].feature, pids.tolist(), 0.3)
    circle = slow_circle(outputs["tfc3"].feature.double(), pids.tolist(), 0.25, 128.0)
    both = hat_loss(outputs, pids, LossConfig(triplet_weight=0.5, circle_weight=2.0))
    assert both.total.item() == pytest.approx(entropy + 0.5 * triplet + 2 * circle, rel=1e-5)
    assert both.parts["tfc3_circle"].item() == pytest.approx(circle, rel=1e-5)
    alone = hat_loss(outputs, pids, LossConfig(triplet_weight=0, circle_weight=1.0))
    assert alone.total.item() == pytest.approx(entropy + circle, rel=1e-5)
    assert set(alone.parts) == {"tfc3_ce", "tfc3_circle"}
