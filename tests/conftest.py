"""Fixtures shared by all tests; one thread per process, set before torch is imported."""

import os
import secrets

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (the 15 that Ray takes starves its workers on a busy machine)
# Ray reads these when it is imported, which some test does first: all later Rays have to agree.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
for _name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(_name, None)

import numpy as np
import pytest
import torch

from persim.data import Trajectories, collect_regime
from persim.envs import get

torch.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def cartpole_data() -> Trajectories:
    return collect_regime(get("cartpole"), "random", 12, seed=0)
