"""Seeds by name: every random draw of a cell comes from one integer and the name of what it is for."""

from __future__ import annotations

import hashlib

import numpy as np


def _word(name: str | int) -> int:
    """A 32-bit key of a name, the same on every machine and run."""
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:4], "little")


def sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """The child of ``SeedSequence(seed)`` with this path of names.

    Unlike ``SeedSequence.spawn`` it does not depend on the order of the calls, so adding a draw
    somewhere never changes the others, and a resumed run finds the same streams.

    Args:
        seed: the one seed of the cell, at least 0.
        names: the path, such as ``("batches", epoch)``.
    """
    return np.random.SeedSequence(seed, spawn_key=tuple(_word(name) for name in names))


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator on ``sequence(seed, *names)``."""
    return np.random.default_rng(sequence(seed, *names))


def integer(seed: int, *names: str | int) -> int:
    """A non-negative 31-bit seed on ``sequence(seed, *names)``, for libraries that take an integer."""
    return int(sequence(seed, *names).generate_state(1)[0] >> 1)
