"""Rows of the paper's Figures 1, 2, 4 and 5, computed from the trained models of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from baselines.registry import make_method
from persim import seeding
from persim.data import REGIMES
from persim.data.policies import load_test_policy
from persim.envs.registry import recorded
from persim.errors import InputError
from persim.evaluation.factors import covariate_r2, tsne
from persim.evaluation.prediction import HORIZON, WARM_UP, TrueRollouts, true_rollouts
from persim.learning.model import KIND as MODEL_KIND
from persim.methods import PRESETS, Fitted, HasFactors, Options, Predictor, Weights
from persim.methods.job import Job, predictions
from persim.storage import store
from sweeps.grid.suites import ENVS

MEMBER = 1  # the map is of the first member; those of others look different, as their factors are in other bases
AGENTS = {"mountaincar": (1, 4), "cartpole": (4, 2)}  # the agents of Figure 4, by the paper's numbers


@dataclass(frozen=True)
class StoredModel:
    """A trained model that a benchmark left in its store.

    Attributes:
        job: the prediction error that is measured with it.
        budget: name of the preset that it was trained with.
        path: its file.
    """

    job: Job
    budget: str
    path: Path

    def fitted(self) -> Fitted:
        """Read the method after training.

        Raises:
            InputError: the file is damaged.
        """
        weights = Weights(*store.read_arrays(self.path, MODEL_KIND))
        with store.contents_of(self.path):
            return self.job.method.restore(weights, self.job.spec, self.job.covariates)


def stored_models(roots: Sequence[Path], methods: Sequence[str], agents: int, seed: int) -> list[StoredModel]:
    """Find one model for each environment, regime and method, in the paper's order: the one of the fullest budget.

    Args:
        roots: the stores; of equal models that of the first counts.
        methods: keys of ``baselines.registry``, in the order that is wanted.
        agents: N.
        seed: of the training.
    """
    found = []
    for env, regime, name in product(ENVS, REGIMES, methods):
        spec = recorded(env)
        for preset, root in product(PRESETS, roots):
            job = Job.of(make_method(name, spec, Options(preset)), env, regime, agents, seed, predictions(spec))
            if (root / job.model_file).exists():
                found.append(StoredModel(job, preset, root / job.model_file))
                break
    return found


def factor_frame(models: Sequence[StoredModel]) -> pd.DataFrame:
    """Place every agent on a map of the learned factors (Figures 1 and 5): a row per model, agent and covariate.

    Columns: env, regime, agents (N), budget, member, agent (the paper's number, from 1), x and y (t-SNE of
    the factors of that member), covariate, unit, value, and r2: how well the factors give the covariate, the
    mean over all members.

    Raises:
        InputError: a model has no factors of agents.
    """
    return pd.concat([frame for model in models for frame in _maps(model)], ignore_index=True)


def _maps(model: StoredModel) -> Iterator[pd.DataFrame]:
    fitted = model.fitted()
    if not isinstance(fitted, HasFactors):
        raise InputError(f"method {model.job.cell.method!r} has no factors of agents; take persim")
    factors, covariates = fitted.agent_factors(), model.job.covariates
    x, y = tsne(factors[MEMBER - 1]).T
    place = {"member": MEMBER, "agent": np.arange(1, len(covariates) + 1), "x": x, "y": y}
    for c, values, r2 in zip(model.job.spec.covariates, covariates.T, covariate_r2(factors, covariates), strict=True):
        known = {"covariate": c.name, "unit": c.unit, "value": values, "r2": r2}
        yield pd.DataFrame({**_about(model), **place, **known})


def _about(model: StoredModel) -> dict[str, Any]:
    cell = model.job.cell
    return {"env": cell.env, "regime": cell.regime, "agents": cell.agents, "budget": model.budget}


def rollout_frame(models: Sequence[StoredModel]) -> pd.DataFrame:
    """Predict episodes from their actions (Figures 2 and 4): a row per model, agent, step and state dimension.

    The environments have to be in ``AGENTS``. The episodes are among those that the prediction error was measured on:
    for each agent the first that lasts to the end, so that there is something to see at every step.

    Columns: env, regime, agents (N), budget, method, agent (the paper's number), step (0 to 50 after the warm-up; at 0
    the prediction is given the true state), dimension, name (of the dimension), true, predicted.

    Raises:
        InputError: a model predicts no states.
    """
    keys = [(model.job.cell.env, model.job.cell.seed) for model in models]
    episodes = {key: _episodes(*key) for key in dict.fromkeys(keys)}
    frames = [_predicted(model, episodes[key]) for model, key in zip(models, keys, strict=True)]
    return pd.concat(frames, ignore_index=True)


def _episodes(env: str, seed: int) -> TrueRollouts:
    """Select for each of the environment's ``AGENTS`` the first of its longest episodes."""
    spec = recorded(env)
    policy = load_test_policy(spec.name, spec.action_space)
    every = true_rollouts(spec, policy, seeding.generator(seed, "prediction"))
    lengths = np.isfinite(every.states).all(2).sum(1)
    own = [np.flatnonzero(every.agents == number - 1) for number in AGENTS[spec.name]]
    chosen = [episodes[np.argmax(lengths[episodes])] for episodes in own]
    return TrueRollouts(every.agents[chosen], every.states[chosen], every.actions[chosen])


def _predicted(model: StoredModel, rollouts: TrueRollouts) -> pd.DataFrame:
    fitted, labels = model.fitted(), model.job.spec.state_labels
    if not isinstance(fitted, Predictor):
        raise InputError(f"method {model.job.cell.method!r} predicts no states; take persim, cadm or cadm-pets")
    predicted = fitted.predict(rollouts.agents, rollouts.start, rollouts.played, rollouts.history)
    agent, step, dimension = (index.ravel() for index in np.indices((len(rollouts.agents), HORIZON + 1, len(labels))))
    about = {**_about(model), "method": model.job.cell.method}
    place = {"agent": rollouts.agents[agent] + 1, "step": step, "dimension": dimension}
    states = {"true": rollouts.states[:, WARM_UP:].ravel(), "predicted": predicted.ravel().astype(np.float32)}
    return pd.DataFrame({**about, **place, "name": np.array(labels)[dimension], **states})
