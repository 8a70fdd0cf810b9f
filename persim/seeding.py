"""Named seeds: one integer and the name of its purpose determine every random draw of a cell."""

from __future__ import annotations

import hashlib

import numpy as np


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
