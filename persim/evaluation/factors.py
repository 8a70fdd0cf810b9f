"""Measure how much the agent factors of a trained simulator tell of the agents' covariates (Figures 1 and 5).

A term ``u_l v_l w_l`` does not change when u_l is multiplied by a number and v_l divided by it, and the terms have no
order. So every member has a basis of its own, and the factors of different members are never averaged or mixed.

scikit-learn takes a second to load, so it is imported only where it is used.
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
    """Compute the factors u ``[K, N, R]`` of all agents, each member in its own basis."""
    ids = torch.arange(model.settings.n_agents, device=model.device)
    with torch.no_grad():
        factors = model.agent_factors(ids.expand(model.settings.members, -1))
    return np.asarray(factors.mT.cpu().numpy())


def covariate_r2(factors: NDArray[np.float32], covariates: Array) -> Array:
    """Measure how well a regression on the factors ``[K, N, R]`` predicts the covariates ``[N, C]`` of held-out agents.

    The regression is a forest of extremely randomised trees with no tuned setting. Trees depend neither on the scale
    of a factor, which a factorisation leaves open, nor on factors that carry nothing, such as those of unneeded
    terms. There are five fixed folds and one R2 over all agents, each predicted from the other folds.

    Returns:
        R2 ``[C]``, the mean over the members, each with a regression of its own. It is NaN for a covariate that
        does not vary, and where there are fewer agents than folds.

    Raises:
        InputError: the numbers of agents differ.
    """
    agents = factors.shape[1]
    if len(covariates) != agents:
        raise InputError(f"{len(covariates)} rows of covariates do not fit factors of {agents} agents; give a row each")
    spread = covariates.std(0)
    if agents < FOLDS:
        return np.full(len(spread), np.nan)
    scaled = (covariates - covariates.mean(0)) / np.where(spread > 0, spread, 1)
    errors = np.mean([np.square(_unseen(member, scaled) - scaled).mean(0) for member in factors], axis=0)
    return np.where(spread > 0, 1 - errors, np.nan)


def _unseen(factors: NDArray[np.float32], covariates: Array) -> Array:
    """Predict the covariates ``[N, C]`` of each agent from its factors ``[N, R]`` by regression on the other folds."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    forest = ExtraTreesRegressor(TREES, random_state=0)
    target = covariates[:, 0] if covariates.shape[1] == 1 else covariates  # a single column warns
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    return np.asarray(cross_val_predict(forest, factors, target, cv=folds)).reshape(covariates.shape)


def tsne(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map the agents by t-SNE of one member's factors ``[N, R]``, each scaled to unit spread, to points ``[N, 2]``.

    It starts from the principal components with a fixed seed, so the same factors give the same map.
    """
    from sklearn.manifold import TSNE

    spread = factors.std(0)
    scaled = (factors - factors.mean(0)) / np.where(spread > 0, spread, 1)
    perplexity = min(PERPLEXITY, (len(factors) - 1) / 3)  # it has to be less than the number of agents
    mapped = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(scaled)
    return np.asarray(mapped, dtype=np.float32)
