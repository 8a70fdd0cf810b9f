"""What the data of an agent tell of its weights, and tables of agents of whom only covariates are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from persim.tables.grid import Numbers
from persim.tables.reading import Array, load_frame, read_static
from persim.tables.schema import Schema
from persim.tables.simulator import Simulator
from persim.tables.steps import steps_of
from persim.tables.table import Table, read_table


def read_new(source: Any, schema: Schema) -> Table:
    """Read new agents: a table, or one with ids and covariates only, without the columns of times and states.

    Raises:
        InputError: the source is not usable.
    """
    frame, _ = load_frame(source, [])
    if {schema.time, *schema.state} & {*frame.columns, *frame.index.names}:
        return read_table(source, schema, new=True)
    names, static = read_static(source, schema)
    import pandas as pd

    empty: dict[str, Any] = dict.fromkeys(schema.columns, np.nan)
    empty |= {schema.agent: names, schema.time: "2000-01-01" if isinstance(schema.every, str) else 0.0}
    if schema.trajectory is not None:
        empty[schema.trajectory] = "none"
    return read_table(pd.DataFrame(empty | dict(zip(schema.static, static.T, strict=True))), schema, new=True)


def known_steps(simulator: Simulator, table: Table) -> Numbers:
    """Count the steps of each agent of a table that its weights are learnt from, ``[N]``."""
    inputs = simulator.dynamics.features.inputs_of(table)
    steps = steps_of(table, inputs, simulator.dynamics.units.for_agents(table, inputs.acts))
    return np.bincount(steps.agent, minlength=len(table.names))


def still_open(simulator: Simulator, names: Sequence[str]) -> Array:
    """How unsure the weights of agents still are ``[N]``: 1 says that their data told nothing, 0 that they told all.

    It is the deviation of the weights given the agent's data, beside that before them. Each weight counts as much as
    its term adds to predictions.
    """
    prior = simulator.prior
    before = prior.cov.diagonal(dim1=-2, dim2=-1).sum(-1)  # [K, S], of weights in units of their terms
    numbers = [simulator.number(name) for name in names]
    after = (simulator.unsure[:, numbers].double() / prior.unit[:, None]).square().sum(-1)  # [K, N, S]
    return np.asarray((after / before[:, None]).sqrt().mean((0, 2)).numpy())
