"""The right scorer for a model and a device."""

from __future__ import annotations

import torch

from persim.envs.spec import Array
from persim.model import LowRankDynamics
from persim.planning.folded import FoldedEnsemble, TrueDynamics
from persim.planning.scoring import Objective, PlainScorer, Scorer
from persim.planning.tree import TreeScorer


def model_scorer(model: LowRankDynamics, objective: Objective) -> Scorer:
    """Scores plans on an ensemble: by the tree where that is faster (discrete actions, CPU)."""
    if model.settings.discrete and model.device.type == "cpu":
        return TreeScorer(FoldedEnsemble(model), objective)
    return PlainScorer(model, objective, device=model.device, known=model.settings.n_agents)


def true_scorer(objective: Objective, covariates: Array) -> Scorer:
    """Scores plans on the true dynamics of agents with these covariates ``[N, C]``: ``True env + MPC``."""
    dynamics = TrueDynamics(objective.spec, covariates)
    if objective.spec.discrete:
        return TreeScorer(dynamics, objective)
    return PlainScorer(dynamics, objective, dtype=torch.float64, known=len(covariates))
