"""The right scorer for a model and a device."""

from __future__ import annotations

import torch

from persim.envs.spec import Array
from persim.errors import InputError
from persim.learning.model import LowRankDynamics
from persim.planning.folded import FoldedEnsemble, TrueDynamics
from persim.planning.scoring import Objective, PlainScorer, Scorer
from persim.planning.tree import TreeScorer


def model_scorer(model: LowRankDynamics, objective: Objective, precision: str = "float32") -> Scorer:
    """Scores plans on an ensemble: by the tree where that is faster (discrete actions, CPU).

    Args:
        model: the ensemble.
        objective: what a step is worth.
        precision: ``bfloat16`` halves the time of wide nets; the tree knows float32 only.

    Raises:
        InputError: an unknown precision, or one that the tree does not have.
    """
    if model.settings.discrete and model.device.type == "cpu":
        if precision != "float32":
            raise InputError(f"precision {precision!r} is for continuous actions or a GPU; leave it out here")
        return TreeScorer(FoldedEnsemble(model), objective)
    return PlainScorer(model, objective, device=model.device, known=model.settings.n_agents, precision=precision)


def true_scorer(objective: Objective, covariates: Array) -> Scorer:
    """Scores plans on the true dynamics of agents with these covariates ``[N, C]``: ``True env + MPC``."""
    dynamics = TrueDynamics(objective.spec, covariates)
    if objective.spec.discrete:
        return TreeScorer(dynamics, objective)
    return PlainScorer(dynamics, objective, dtype=torch.float64, known=len(covariates))
