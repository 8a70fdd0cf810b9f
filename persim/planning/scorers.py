"""The fastest scorer for a model and its device."""

from __future__ import annotations

import torch

from persim.envs.spec import Array
from persim.errors import InputError
from persim.learning.model import LowRankDynamics
from persim.planning.folded import FoldedEnsemble, TrueDynamics
from persim.planning.prepared import PreparedScorer
from persim.planning.scoring import OFF, ON, Objective, PlainScorer, Scorer
from persim.planning.tree import TreeScorer


def model_scorer(model: LowRankDynamics, objective: Objective, precision: str = "float32", prior: str = OFF) -> Scorer:
    """Builds a scorer on an ensemble: a ``TreeScorer`` for discrete actions on the CPU, else a ``PreparedScorer``.

    The precision is ``float32``, or ``bfloat16``, which halves the time of wide nets. The prior is one of ``PRIORS``:
    whether plans are deviations from the policy that the model imitates.

    Raises:
        InputError: the precision is unknown, or not float32 for a ``TreeScorer``; or the prior is ``on``, but there is
            nothing to imitate.
    """
    imitation = model.imitation if prior != OFF else None
    if prior == ON and (imitation is None or not imitation.useful):
        found = "this model has learnt no imitation of the recorded actions"
        if imitation is not None:
            share = float(imitation.explained.mean())
            found = f"the states explain {share:.0%} of the recorded actions, so there is nothing to imitate"
        raise InputError(f"prior 'on' was asked for, but {found}; use prior 'auto' or 'off'")
    if model.settings.discrete and model.device.type == "cpu":
        if precision != "float32":
            raise InputError(f"precision {precision!r} is for continuous actions or a GPU; use float32 here")
        return TreeScorer(FoldedEnsemble(model), objective)
    return PreparedScorer(model, objective, precision, prior=imitation is not None and imitation.useful)


def true_scorer(objective: Objective, covariates: Array) -> Scorer:
    """Builds a scorer on the true dynamics of agents with covariates ``[N, C]``, for ``True env + MPC``."""
    dynamics = TrueDynamics(objective.spec, covariates)
    if objective.spec.discrete:
        return TreeScorer(dynamics, objective)
    return PlainScorer(dynamics, objective, dtype=torch.float64, known=len(covariates), unit=dynamics.unit)
