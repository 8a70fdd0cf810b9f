"""Rows of Figures 2 and 4: true states of an episode, and what each model predicts of them, given only the actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from persim import seeding
from persim.data.policies import load_test_policy
from persim.envs.spec import EnvSpec
from persim.errors import InputError
from persim.evaluation.prediction import HORIZON, WARM_UP, TrueRollouts, true_rollouts
from persim.methods import Predictor
from sweeps.reporting.models import StoredModel

AGENTS = {"mountaincar": (1, 4), "cartpole": (4, 2)}  # those of Figure 4, by the paper's numbers


def rollout_frame(models: Sequence[StoredModel]) -> pd.DataFrame:
    """A row per model, agent, step and state dimension; of environments in ``AGENTS``.

    The episodes are among those that the prediction error was measured on: of each agent the first that
    lasts to the end, so that there is something to see at every step.

    Columns: env, regime, agents (N), budget, method, agent (the paper's number), step (0 to 50 after the warm-up; at 0
    the prediction is given the true state), dimension, name (of the dimension), true, predicted.
    """
    episodes = {(model.cell.env, model.seed): _episodes(model.spec, model.seed) for model in models}
    return pd.concat([_of_model(model, episodes[model.cell.env, model.seed]) for model in models], ignore_index=True)


def _episodes(spec: EnvSpec, seed: int) -> TrueRollouts:
    """One episode of each of the two agents."""
    policy = load_test_policy(spec.name, spec.action_space)
    every = true_rollouts(spec, policy, seeding.generator(seed, "prediction"))
    lengths = np.isfinite(every.states).all(2).sum(1)
    chosen = [_longest(np.flatnonzero(every.agents == number - 1), lengths) for number in AGENTS[spec.name]]
    return TrueRollouts(every.agents[chosen], every.states[chosen], every.actions[chosen])


def _longest(episodes: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
    """The first among the longest of these."""
    return int(episodes[np.argmax(lengths[episodes])])


def _of_model(model: StoredModel, rollouts: TrueRollouts) -> pd.DataFrame:
    fitted, labels = model.fitted(), model.spec.state_labels
    if not isinstance(fitted, Predictor):
        raise InputError(f"method {model.cell.method!r} predicts nothing; take persim, cadm or cadm-pets")
    predicted = fitted.predict(rollouts.agents, rollouts.start, rollouts.played, rollouts.history)
    true = rollouts.states[:, WARM_UP:]
    agent, step, dimension = (index.ravel() for index in np.indices((len(rollouts.agents), HORIZON + 1, len(labels))))
    return pd.DataFrame(
        {
            "env": model.cell.env,
            "regime": model.cell.regime,
            "agents": model.cell.agents,
            "budget": model.budget,
            "method": model.cell.method,
            "agent": rollouts.agents[agent] + 1,
            "step": step,
            "dimension": dimension,
            "name": np.array(labels)[dimension],
            "true": true.ravel(),
            "predicted": predicted.ravel().astype(np.float32),
        }
    )
