"""Seeds for libraries that draw from global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def torch_seed(seed: np.random.SeedSequence) -> Iterator[None]:
    """Seeds torch's global generators, which d3rlpy draws from, and restores their state afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        yield


@contextmanager
def global_seed(seed: np.random.SeedSequence) -> Iterator[None]:
    """Seeds NumPy's global generator, too, with which stable-baselines3 shuffles its minibatches."""
    before = np.random.get_state()  # noqa: NPY002 (the global one is what is meant)
    try:
        np.random.seed(seed.generate_state(4))  # noqa: NPY002
        with torch_seed(seed):
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
