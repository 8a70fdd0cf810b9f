"""A trained simulator in the place of the true environment, to judge policies without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, Covariate, EnvSpec
from persim.methods.protocol import Predictor
from persim.methods.synthetic import spread_starts


def simulated(spec: EnvSpec, predictor: Predictor, data: Trajectories) -> EnvSpec:
    """The environment as the predictor knows it; its one covariate is the number of the agent.

    Episodes start at initial states of ``data``, far from each other; reward and ends are the environment's own.
    """

    def reset(rng: np.random.Generator, covariates: Array) -> Array:
        starts = spread_starts(data.observation[data.step == 0], 1, len(covariates), rng)
        return np.asarray(starts[0], dtype=np.float64)

    def step(states: Array, actions: NDArray[Any], covariates: Array) -> Array:
        path = predictor.predict(covariates[:, 0].astype(np.int64), states.astype(np.float32), actions[:, None])
        return np.asarray(path[:, 1])

    agent = Covariate("agent", "", 0, data.n_agents - 1, 0)
    return replace(spec, covariates=(agent,), reset=reset, step=step)
