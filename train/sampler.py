"""Batches of P identities with L images each, planned for a whole epoch from (seed, epoch) alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hat.errors import ConfigError, DataError

from .config import SamplerConfig
from .randomness import derive_seed

Indices = npt.NDArray[np.int64]


class RandomIdentitySampler:
    """Plans epochs of P x L batches (paper Sec. 4.2: 16 x 4) of images of at least two identities.

    In an epoch the images of each identity are shuffled and cut into groups of L; an identity with fewer than L repeats some,
    and what is left over after the last full group waits for another epoch. Each batch takes one group from each of P
    identities drawn at random among those that have groups left. An identity with so many groups that they would not fit into
    the batches that remain is taken first, so the number of batches is the same in every epoch: the largest for which P
    different identities in every batch are possible. With fewer than P identities in all, a batch takes several groups from
    each.

    Everything follows from (seed, epoch), so an epoch can be entered at any batch, and each process can compute the same plan
    and take its own slice of it. ``pids`` are the (n,) identities of the training images.
    """

    def __init__(self, pids: Sequence[int] | Indices, config: SamplerConfig, seed: int) -> None:
        labels = np.asarray(pids, dtype=np.int64)
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if len(counts) < 2:
            raise DataError(f"triplets need images of at least 2 identities, got {len(counts)}")
        order = np.argsort(inverse, kind="stable")
        self._members: list[Indices] = np.split(order.astype(np.int64), np.cumsum(counts)[:-1])
        self._num_groups = np.maximum(1, counts // config.num_instances).astype(np.int64)
        self.num_identities = config.num_identities
        self.num_instances = config.num_instances
        self.seed = seed
        self.num_batches = self._count_batches()

    @property
    def batch_size(self) -> int:
        """P x L, images in a global batch."""
        return self.num_identities * self.num_instances

    def plan(self, epoch: int) -> Indices:
        """Plan an epoch, counted from 0: (num_batches, P x L) indices; the L images of an identity stand together."""
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, epoch)))
        queues = [_groups(members, self.num_instances, generator) for members in self._members]
        remaining = self._num_groups.copy()
        batches = np.empty((self.num_batches, self.batch_size), dtype=np.int64)
        for row in range(self.num_batches):
            chosen = self._choose(remaining, self.num_batches - row, generator)
            np.subtract.at(remaining, chosen, 1)
            batches[row] = np.concatenate([next(queues[identity]) for identity in chosen])
        return batches

    def shard(self, plan: Indices, rank: int, world_size: int) -> Indices:
        """Return the columns of a plan that belong to one process: whole identities, in the order of ranks."""
        if self.num_identities % world_size:
            raise ConfigError(
                f"sampler.num_identities={self.num_identities} is no multiple of the {world_size} processes; "
                f"set it to a multiple of {world_size}"
            )
        width = self.batch_size // world_size
        return plan[:, rank * width : (rank + 1) * width]

    def _choose(self, remaining: Indices, num_left: int, generator: np.random.Generator) -> Indices:
        """P identities for one batch, when ``num_left`` batches with this one are still to be filled."""
        num_all = len(remaining)
        if num_all < self.num_identities:
            rounds = [generator.permutation(num_all) for _ in range(-(-self.num_identities // num_all))]
            return np.concatenate(rounds)[: self.num_identities]
        urgent = generator.permutation(np.flatnonzero(remaining >= num_left))
        others = generator.permutation(np.flatnonzero((remaining > 0) & (remaining < num_left)))
        return np.concatenate([urgent, others])[: self.num_identities]

    def _count_batches(self) -> int:
        total = int(self._num_groups.sum())
        if len(self._num_groups) < self.num_identities:
            return max(1, total // self.num_identities)
        # An identity can stand in a batch once: n batches are possible if and only if the groups, at most n of each identity,
        # fill n * P places, which they do for n = 1.
        candidates = range(total // self.num_identities, 0, -1)
        return next(n for n in candidates if np.minimum(self._num_groups, n).sum() >= n * self.num_identities)


def _groups(members: Indices, size: int, generator: np.random.Generator) -> Iterator[Indices]:
    """Yield an identity's images in random order, so many at a time without repeats until they run out."""
    waiting = members[:0]
    num_rounds = -(-size // len(members))  # 1, but for an identity with fewer images than a group
    while True:
        if len(waiting) < size:
            # What is left over is not mixed in: a group holds no image twice, and of a short identity all that there are.
            waiting = np.concatenate([generator.permutation(members) for _ in range(num_rounds)])
        yield waiting[:size]
        waiting = waiting[size:]
