"""What the agent factors of a trained simulator know of the agents' covariates (Figures 1 and 5).

A term ``u_l v_l w_l`` stays what it is when u_l is multiplied by a number and v_l divided by it, and the terms
have no order. So the factors of different members are not in one basis: they are never averaged or mixed here.

scikit-learn takes a second to load; it is imported only where it is used.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from persim.envs.spec import Array
from persim.errors import InputError
from persim.learning.model import LowRankDynamics

FOLDS, TREES, PERPLEXITY = 5, 50, 30.0


def agent_factors(model: LowRankDynamics) -> NDArray[np.float32]:
    """The u of all agents, each member in its own basis: ``[K, N, R]``."""
    ids = torch.arange(model.settings.n_agents, device=model.device)
    with torch.no_grad():
        factors = model.agent_factors(ids.expand(model.settings.members, -1))
    return np.asarray(factors.mT.cpu().numpy())


def covariate_r2(factors: NDArray[np.float32], covariates: Array) -> Array:
    """How well the agent factors give the covariates of agents that the regression has not seen.

    The regression is a forest of extremely randomised trees with no setting that was tuned. Trees do not mind
    how a factor is scaled, which is just what a factorisation leaves open, nor factors that carry nothing, as
    those of spare terms. Five folds in a fixed order; one R2 over all agents, each predicted from the other folds.

    Args:
        factors: ``[K, N, R]``.
        covariates: ``[N, C]``.

    Returns:
        R2 ``[C]``, the mean over the members, each with a regression of its own; NaN for a covariate that
        does not vary, and for fewer agents than folds.

    Raises:
        InputError: the covariates are not of these agents.
    """
    agents = factors.shape[1]
    if len(covariates) != agents:
        raise InputError(f"{len(covariates)} rows of covariates do not fit factors of {agents} agents; give one each")
    spread = covariates.std(0)
    if agents < FOLDS:
        return np.full(len(spread), np.nan)
    scaled = (covariates - covariates.mean(0)) / np.where(spread > 0, spread, 1)
    errors = np.mean([np.square(_unseen(member, scaled) - scaled).mean(0) for member in factors], axis=0)
    return np.where(spread > 0, 1 - errors, np.nan)


def _unseen(factors: NDArray[np.float32], covariates: Array) -> Array:
    """Covariates ``[N, C]`` of each agent from its factors ``[N, R]``, by a regression on the other folds."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    forest = ExtraTreesRegressor(TREES, random_state=0)
    target = covariates[:, 0] if covariates.shape[1] == 1 else covariates  # a single column warns
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    return np.asarray(cross_val_predict(forest, factors, target, cv=folds)).reshape(covariates.shape)


def tsne(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map of agents: t-SNE of one member's factors ``[N, R]``, each scaled to unit spread, to ``[N, 2]``.

    Started from the principal components, with a fixed seed: the same factors give the same map.
    """
    from sklearn.manifold import TSNE

    spread = factors.std(0)
    scaled = (factors - factors.mean(0)) / np.where(spread > 0, spread, 1)
    perplexity = min(PERPLEXITY, (len(factors) - 1) / 3)  # it has to be less than the number of agents
    mapped = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(scaled)
    return np.asarray(mapped, dtype=np.float32)
