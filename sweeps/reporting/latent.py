"""Rows of Figures 1 and 5: where each agent is on a map of the learned factors, and its covariates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from persim.errors import InputError
from persim.evaluation.factors import covariate_r2, tsne
from persim.methods import HasFactors
from sweeps.reporting.models import StoredModel

MEMBER = 1  # the map is of the first member; those of others look different, as their factors are in other bases


def factor_frame(models: Sequence[StoredModel]) -> pd.DataFrame:
    """A row per model, agent and covariate.

    Columns: env, regime, agents (N), budget, member, agent (the paper's number, from 1), x and y (t-SNE of
    the factors of that member), covariate, unit, value, and r2: how well the factors give the covariate, the
    mean over all members.
    """
    return pd.concat([_of_model(model) for model in models], ignore_index=True)


def _of_model(model: StoredModel) -> pd.DataFrame:
    fitted = model.fitted()
    if not isinstance(fitted, HasFactors):
        raise InputError(f"method {model.cell.method!r} has no factors of agents; take persim")
    factors, covariates = fitted.agent_factors(), model.covariates
    x, y = tsne(factors[MEMBER - 1]).T
    columns = zip(model.spec.covariates, covariates.T, covariate_r2(factors, covariates), strict=True)
    numbers = np.arange(1, len(covariates) + 1)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "env": model.cell.env,
                    "regime": model.cell.regime,
                    "agents": model.cell.agents,
                    "budget": model.budget,
                    "member": MEMBER,
                    "agent": numbers,
                    "x": x,
                    "y": y,
                    "covariate": covariate.name,
                    "unit": covariate.unit,
                    "value": values,
                    "r2": r2,
                }
            )
            for covariate, values, r2 in columns
        ]
    )
