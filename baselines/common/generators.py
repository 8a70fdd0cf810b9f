"""Libraries that draw from global generators, made to draw from seeds of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def torch_seed(seed: np.random.SeedSequence) -> Iterator[None]:
    """d3rlpy draws from torch's global generators; here they are seeded, and afterwards what they were."""
    with torch.random.fork_rng():
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        yield


@contextmanager
def global_seed(seed: np.random.SeedSequence) -> Iterator[None]:
    """The same for torch's and NumPy's; stable-baselines3 shuffles its minibatches by the latter."""
    before = np.random.get_state()  # noqa: NPY002 (the global one is what is meant)
    try:
        np.random.seed(seed.generate_state(4))  # noqa: NPY002
        with torch_seed(seed):
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
