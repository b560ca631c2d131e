"""How many values of a column differ, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST = 2**20  # values up to which the count is exact


class Distinct:
    """Counts by hash; beyond MOST values, only those whose hash is small (Gibbons' distinct sampling, VLDB 2001).

    The answer does not depend on how the values come in batches.
    """

    def __init__(self) -> None:
        self._hashes = np.empty(0, dtype=np.uint64)
        self._times = np.empty(0, dtype=np.int64)
        self._halved = 0

    def see(self, hashes: npt.NDArray[np.uint64]) -> None:
        """The next values, by hashes of which every bit is as good as random."""
        hashes, times = np.unique(self._small(hashes), return_counts=True)
        known = np.isin(hashes, self._hashes, assume_unique=True)
        self._times[np.searchsorted(self._hashes, hashes[known])] += times[known]
        merged = np.concatenate([self._hashes, hashes[~known]])
        order = np.argsort(merged, kind="stable")
        self._hashes, self._times = merged[order], np.concatenate([self._times, times[~known]])[order]
        while len(self._hashes) > MOST:
            self._halved += 1
            few = len(self._small(self._hashes))  # they are sorted
            self._hashes, self._times = self._hashes[:few], self._times[:few]

    @property
    def count(self) -> int:
        """Values that differ; an estimate beyond MOST, within a thousandth or so."""
        return len(self._hashes) << self._halved

    @property
    def kept(self) -> int:
        """The number of hashes in memory, at most MOST."""
        return len(self._hashes)

    @property
    def repeats(self) -> bool:
        """Whether a value came more than once, among those that were counted."""
        return bool((self._times > 1).any())

    def _small(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return hashes[hashes < np.uint64(2 ** (64 - self._halved))] if self._halved else hashes
