"""What every planned batch holds, whatever the data set looks like."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.errors import ConfigError, DataError
from hat.train import RandomIdentitySampler
from hat.train.config import SamplerConfig

counts_of_identities = st.lists(st.integers(1, 12), min_size=2, max_size=14)
sizes = st.tuples(st.integers(2, 6), st.integers(2, 4))


def make(counts, p, l, seed=0):  # noqa: E741
    pids = np.repeat(np.arange(len(counts)), counts)
    pids = np.random.default_rng(1).permutation(pids)
    return RandomIdentitySampler(pids, SamplerConfig(num_identities=p, num_instances=l), seed), pids


@settings(max_examples=80, deadline=None)
@given(counts=counts_of_identities, size=sizes, epoch=st.integers(0, 5))
@example(counts=[1, 3], size=(3, 4), epoch=0)
def test_every_batch_is_exactly_p_identities_of_l_images(counts, size, epoch):
    p, l = size  # noqa: E741
    sampler, pids = make(counts, p, l)
    plan = sampler.plan(epoch)
    assert plan.shape == (sampler.num_batches, p * l)
    assert plan.dtype == np.int64
    for batch in plan:
        groups = pids[batch].reshape(p, l)
        assert (groups == groups[:, :1]).all(), "the images of an identity stand together"
        if len(counts) >= p:
            assert len(set(groups[:, 0])) == p, "identities are different"
        else:
            times = Counter(groups[:, 0].tolist())
            assert len(times) == len(counts) and max(times.values()) - min(times.values()) <= 1
        for images, pid in zip(batch.reshape(p, l), groups[:, 0], strict=True):
            if counts[pid] >= l:
                assert len(set(images)) == l, "nothing is repeated where there are enough images"
            else:
                assert set(images) == set(np.flatnonzero(pids == pid)), "short identities show all they have"


@settings(max_examples=60, deadline=None)
@given(counts=counts_of_identities, size=sizes)
def test_number_of_batches_is_the_largest_possible(counts, size):
    p, l = size  # noqa: E741
    sampler, pids = make(counts, p, l)
    groups = [max(1, count // l) for count in counts]
    if len(counts) >= p:
        possible = [n for n in range(1, sum(groups) + 1) if sum(min(g, n) for g in groups) >= n * p]
        assert sampler.num_batches == max(possible)
        plan = sampler.plan(0)
        used = Counter(pids[plan[:, ::l]].ravel().tolist())
        assert all(used[pid] <= groups[pid] for pid in used)
        once = Counter(plan.ravel().tolist())
        assert all(times == 1 for image, times in once.items() if counts[pids[image]] >= l), "no image twice in an epoch"


def test_epochs_and_seeds_differ_and_repeat_and_draw_identities_evenly():
    sampler, _ = make([6] * 10, 4, 2)
    again, _ = make([6] * 10, 4, 2)
    other, _ = make([6] * 10, 4, 2, seed=1)
    assert (sampler.plan(3) == again.plan(3)).all()
    assert (sampler.plan(3) != sampler.plan(4)).any()
    assert (sampler.plan(3) != other.plan(3)).any()
    sampler, _ = make([5] * 4, 4, 2)  # two groups of five images: the one left over is another one in each epoch
    assert len(np.unique([sampler.plan(epoch) for epoch in range(40)])) == 20
    sampler, pids = make([4] * 8, 4, 4)
    pairs = Counter(frozenset(pids[batch[::4]].tolist()) for epoch in range(300) for batch in sampler.plan(epoch))
    # Two batches of 4 of 8 identities: 70 possible halves, each expected 600 / 70 times.
    assert len(pairs) == 70
    assert max(pairs.values()) < 30


def test_shares_of_processes_make_up_the_global_batch():
    sampler, pids = make([5] * 9, 6, 3)
    plan = sampler.plan(2)
    shares = [sampler.shard(plan, rank, 3) for rank in range(3)]
    assert (np.concatenate(shares, axis=1) == plan).all()
    assert all(len(set(pids[row].tolist())) == 2 for share in shares for row in share)
    with pytest.raises(ConfigError, match=r"num_identities=6 is no multiple of the 4 processes"):
        sampler.shard(sampler.plan(0), 0, 4)
    with pytest.raises(DataError, match="at least 2 identities, got 1"):
        RandomIdentitySampler([7, 7, 7], SamplerConfig(), 0)
