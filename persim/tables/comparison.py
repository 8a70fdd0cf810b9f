"""Compare a simulator on held-out time with what anybody would try first, and say plainly when it does not win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from persim.errors import InputError
from persim.tables.reading import Array
from persim.tables.simulator import Simulator
from persim.tables.table import Table
from persim.tables.terms import LINEAR
from persim.tables.usable import conform
from persim.tables.windows import Windows, typical_length

if TYPE_CHECKING:
    import pandas as pd

OURS, LAST = "PerSim", "last value"
BAND = 0.9
HORIZONS = (1, 10, 50)


@dataclass(frozen=True)
class Comparison:
    """Errors of several methods on the same windows of held-out time.

    Attributes:
        horizons: in steps; an error is the RMSE over all steps up to a horizon.
        states: names of the state columns.
        agents: ids of the agents that have windows.
        errors: of each method, ``[horizons, agents, S]``, in the units of the states; NaN where it has no model.
        windows: their number.
        every: the step of the grid, as text.
        covered: share of true values inside the simulator's 90 % band at each horizon, ``[horizons]``, and the lowest
            share of an agent; None without bands.
        linear: whether the simulator uses linear terms only.
    """

    horizons: tuple[int, ...]
    states: tuple[str, ...]
    agents: tuple[str, ...]
    errors: dict[str, Array]
    windows: int
    every: str
    covered: tuple[Array, float] | None
    linear: bool

    def frame(self) -> pd.DataFrame:
        """Return one row for each method, horizon, agent and state, with its ``rmse``."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [list(self.errors), self.horizons, self.agents, self.states], names=["method", "horizon", "agent", "state"]
        )
        values = np.stack(list(self.errors.values())).reshape(-1)
        return pd.DataFrame({"rmse": values}, index=index).reset_index()

    def wins(self, other: str) -> Array:
        """Count the agents for whom the simulator is better than another method, ``[horizons, S]``."""
        return np.asarray((self.errors[OURS] < self.errors[other]).sum(1))

    def __str__(self) -> str:
        head = f"RMSE up to each horizon over {self.windows:,} windows of {len(self.agents)} agents: mean, spread over "
        lines = [head + "agents, worst agent; and for how many agents PerSim is better"]
        for place, state in enumerate(self.states):
            lines.append("")
            heads = [_steps(horizon) for horizon in self.horizons]
            lines.append(f"{state:<22}" + "".join(f"{head:>34}" for head in heads))
            for name, errors in self.errors.items():
                cells = []
                for row, error in enumerate(errors[:, :, place]):
                    better = "" if name == OURS else f"{int(self.wins(name)[row, place])} of {len(self.agents)}"
                    cells.append(_cell(error, better))
                shown = f"{name} (linear)" if name == OURS and self.linear else name
                lines.append(f"{shown:<22}" + "".join(cells))
        return "\n".join([*lines, "", *self._coverage(), self.verdict()])

    def _coverage(self) -> list[str]:
        if self.covered is None:
            return ["no bands: too little time was held out to calibrate them"]
        shares, worst = self.covered
        found = ", ".join(
            f"{share:.0%} at {_steps(horizon)}" for share, horizon in zip(shares, self.horizons, strict=True)
        )
        return [f"the {BAND:.0%} band covers {found}; {worst:.0%} for the agent that it covers least"]

    def verdict(self) -> str:
        """Say in one line whether the simulator pays, and if not what to try."""
        scale = _mean(self.errors[LAST])
        scale = np.where(scale > 0, scale, 1.0)
        means = {name: (_mean(errors) / scale).mean(1) for name, errors in self.errors.items()}
        ahead = [(name, horizon) for row, horizon in enumerate(self.horizons)
                 for name in sorted(means, key=lambda one: means[one][row])[:1] if name != OURS]  # fmt: skip
        if not ahead:
            return "PerSim has the lowest mean error at every horizon."
        said = "; ".join(f"{name} is better at {_steps(horizon)}" for name, horizon in ahead)
        advice = 'try more data for each agent, lags and memory in the schema, rank="cv", or covariates'
        if any(name == LAST for name, _ in ahead):
            advice = "these data may hold nothing that predicts the next steps; " + advice
        return f"PerSim does not win everywhere: {said}. Use that, or {advice}."


def _mean(errors: Array) -> Array:
    """The mean over agents ``[horizons, S]`` of ``[horizons, agents, S]``; infinite where no agent has a model."""
    known = np.isfinite(errors)
    total, count = np.where(known, errors, 0).sum(1), known.sum(1)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.inf), where=count > 0))


def _steps(number: int) -> str:
    return f"{number} step{'s' * (number > 1)}"


def _cell(errors: Array, better: str) -> str:
    known = errors[np.isfinite(errors)]
    if not len(known):
        return f"{'-':>34}"
    return f"{known.mean():>9.4g} ±{known.std():<7.2g} {known.max():>7.4g} {better:>8}"


def compare(simulator: Simulator, test: Table, horizons: Sequence[int] = HORIZONS) -> Comparison:
    """Compare on a table of held-out time.

    Raises:
        InputError: the table does not fit the simulator, an agent is unknown, or a horizon is below 1 or longer than
            the test.
    """
    test = conform(test, simulator.schema, simulator.summary)
    horizons = check_horizons(test, horizons)
    windows = _windows(simulator, test, horizons)
    numbers = np.array([simulator.number(name) for name in test.names])[windows.agent]
    found = {OURS: simulator.paths(numbers, windows.history, windows.acts)}
    states = len(simulator.schema.state)
    found[LAST] = np.repeat(windows.history[:, None, :states], horizons[-1], axis=1)
    for name, (terms, theta) in simulator.references.models(
        simulator.dynamics.terms.model, len(simulator.names)
    ).items():
        other = replace(simulator.dynamics, terms=terms, theta=theta)
        found[name] = other.paths(numbers, windows.history, windows.acts)
        unknown = ~theta[0].abs().sum((1, 2)).bool().numpy()
        found[name][unknown[numbers]] = np.nan
    seen = np.unique(windows.agent)
    errors = {name: np.stack([_until(windows, horizon).errors(predicted[:, :horizon])[seen] for horizon in horizons])
              for name, predicted in found.items()}  # fmt: skip
    return Comparison(
        horizons, simulator.schema.state, tuple(test.names[agent] for agent in seen), errors, len(windows),
        str(simulator.schema.every), _covered(simulator, windows, numbers, found[OURS], horizons),
        simulator.dynamics.terms.kind == LINEAR,
    )  # fmt: skip


def fitting_horizons(test: Table) -> tuple[int, ...]:
    """Horizons that fit into half of the typical trajectory of a test."""
    return tuple(one for one in HORIZONS if one == 1 or one <= typical_length(test) // 2)


def check_horizons(test: Table, horizons: Sequence[int]) -> tuple[int, ...]:
    """Return horizons in order, each once.

    Raises:
        InputError: there is none, or one is below 1 or longer than the test.
    """
    horizons = tuple(sorted(dict.fromkeys(int(one) for one in horizons)))
    if not horizons or horizons[0] < 1:
        raise InputError(f"horizons are {list(horizons)}; give numbers of steps from 1")
    longest = int((np.bincount(test.block) - test.start).max())
    if horizons[-1] > longest:
        raise InputError(
            f"horizon {horizons[-1]} is longer than the test, whose longest trajectory has {longest} rows; give "
            f"horizons up to {longest}"
        )
    return horizons


def _windows(simulator: Simulator, test: Table, horizons: tuple[int, ...]) -> Windows:
    """The windows of the longest horizon.

    Raises:
        InputError: there is none.
    """
    windows = Windows.of(test, simulator.dynamics.features.inputs_of(test), horizons[-1])
    if not len(windows):
        raise InputError(
            f"the test has no window of {horizons[-1]} steps in which all inputs and the first history are known; "
            "give shorter horizons, or look at the table with persim check"
        )
    return windows


def _until(windows: Windows, horizon: int) -> Windows:
    return replace(windows, acts=windows.acts[:, :horizon], true=windows.true[:, :horizon])


def _covered(
    simulator: Simulator, windows: Windows, numbers: Array, predicted: Array, horizons: tuple[int, ...]
) -> tuple[Array, float] | None:
    """Share of true values inside the band at each horizon, and the lowest of an agent over all steps."""
    if simulator.bands is None:
        return None
    half = simulator.bands.halves(numbers, horizons[-1], BAND)
    known = np.isfinite(windows.true)
    inside = (np.abs(predicted - windows.true) <= half) & known
    at = [place - 1 for place in horizons]
    shares = inside[:, at].sum((0, 2)) / np.maximum(known[:, at].sum((0, 2)), 1)
    each = [inside[windows.agent == one].sum() / max(known[windows.agent == one].sum(), 1)
            for one in np.unique(windows.agent)]  # fmt: skip
    return shares, float(min(each))
