"""Named seeds: one integer and the name of its purpose determine every random draw of a cell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Returns the child of ``SeedSequence(seed)`` with this path of names, the same on every machine.

    Unlike ``SeedSequence.spawn`` it does not depend on the order of the calls, so adding a draw
    somewhere never changes the others, and a resumed run gets the same streams.

    Args:
        seed: the seed of the cell, at least 0.
        names: the path, such as ``("batches", epoch)``.
    """
    digests = (hashlib.sha256(str(name).encode()).digest() for name in names)
    return np.random.SeedSequence(seed, spawn_key=tuple(int.from_bytes(digest[:4], "little") for digest in digests))


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Returns a NumPy generator seeded by ``sequence(seed, *names)``."""
    return np.random.default_rng(sequence(seed, *names))


def integer(seed: int, *names: str | int) -> int:
    """Returns a non-negative 31-bit seed from ``sequence(seed, *names)``, for libraries that take an integer."""
    return int(sequence(seed, *names).generate_state(1)[0] >> 1)


class Streams(np.random.Generator):
    """Generators of several groups of rows: with ``drawn`` a batch draws what each group would draw alone.

    Args:
        generators: one for each group.
        counts: rows of each group, which follow each other in the batch.
    """

    def __init__(self, generators: Sequence[np.random.Generator], counts: Sequence[int]) -> None:
        super().__init__(generators[0].bit_generator)
        self.generators, self._group = list(generators), np.repeat(np.arange(len(counts)), counts)

    @property
    def counts(self) -> list[int]:
        """Rows of each group that are left."""
        found: list[int] = np.bincount(self._group, minlength=len(self.generators)).tolist()
        return found

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Drop the rows whose entry in ``running`` ``[B]`` is false."""
        self._group = self._group[running]

    def _refuse(self, *args: Any, **options: Any) -> Any:
        raise TypeError("several streams draw by persim.seeding.drawn only, which says where the rows are")

    random = integers = uniform = normal = standard_normal = permutation = _refuse


def drawn(
    rng: np.random.Generator, rows: int, draw: Callable[[np.random.Generator, int], NDArray[Any]], axis: int = 0
) -> NDArray[Any]:
    """Draw ``[..., B, ...]`` for a batch: at once from a generator, or group by group from ``Streams``.

    Args:
        rng: the source of randomness.
        rows: B, the rows of the batch.
        draw: draws for a number of rows from one generator; they lie along ``axis``.
        axis: of the rows.
    """
    if not isinstance(rng, Streams):
        return draw(rng, rows)
    groups = zip(rng.generators, rng.counts, strict=True)
    return np.concatenate([draw(generator, count) for generator, count in groups if count], axis=axis)
