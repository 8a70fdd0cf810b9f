"""A personalised simulator of the agents of a table: it predicts, takes in new agents, and is kept in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.errors import InputError, check_at_least, check_choice
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.storage import store
from persim.tables.bands import Bands
from persim.tables.dynamics import Dynamics
from persim.tables.features import Features
from persim.tables.given import action_bounds, columns_of, last_histories
from persim.tables.personal import Prior, Sums
from persim.tables.reading import Array
from persim.tables.references import References
from persim.tables.rewards import Rewards, Row
from persim.tables.schema import Schema
from persim.tables.steps import steps_of
from persim.tables.table import Table, read_table
from persim.tables.terms import LINEAR, Terms
from persim.tables.units import Units
from persim.tables.usable import conform

if TYPE_CHECKING:
    import pandas as pd

    from persim.tables.comparison import Comparison
    from persim.tables.environment import SimulatedAgent

KIND = "simulator"


@dataclass(frozen=True, eq=False)
class Simulator:
    """K members that share their terms, and each agent's own weights of them.

    It is made by ``persim.fit`` and read by ``persim.load``. Axis letters: K members, N agents, S states, F terms,
    B windows, H steps; X columns of a history (``Features``).

    Attributes:
        schema: of the table that it was fitted to.
        names: the N agents' ids.
        dynamics: what predicts.
        unsure: the deviation of the agents' weights given their data ``[K, N, S, F]``.
        prior: where weights of new agents start from.
        last: each agent's last known history ``[N, X]``, from which a prediction starts by default.
        static: covariates ``[N, G]``.
        bands: half-widths of prediction bands, or None where the data were too few to calibrate them.
        references: what it is compared with.
        bounds: lowest and highest action that was recorded of each agent ``[2, N, A]``, which plans stay within.
        rewards: what was learnt of the recorded reward, or None.
        summary: of the table's columns, to tell a table in other units.
        about: how it was fitted: rank, steps, terms, errors on held-out time.
    """

    schema: Schema
    names: tuple[str, ...]
    dynamics: Dynamics
    unsure: Tensor
    prior: Prior
    last: Array
    static: Array
    bands: Bands | None
    references: References
    bounds: Array
    rewards: Rewards | None
    summary: Mapping[str, Mapping[str, float]]
    about: Mapping[str, Any]

    def number(self, agent: str) -> int:
        """Return the number of an agent.

        Raises:
            InputError: it is not in the simulator.
        """
        return self.names.index(check_choice("agent", str(agent), self.names))

    @property
    def linear(self) -> Terms:
        """The linear terms of one member, which ARX models are made of."""
        return Terms(self.dynamics.terms.model.select([0]).requires_grad_(False), LINEAR)

    def paths(self, agents: NDArray[np.int64], history: Array, acts: Array) -> Array:
        """See ``Dynamics.paths``."""
        return self.dynamics.paths(agents, history, acts)

    def start(self, agent: str, rows: Any = None) -> Array:
        """Return the history ``[X]`` from which a prediction starts: the end of an agent's data, or of other rows.

        Args:
            agent: its id.
            rows: a table, or a frame in the form of the training data that has the agent's latest rows.

        Raises:
            InputError: the rows do not fit, are not this agent's, or no row is known with its lags.
        """
        number, history = self.number(agent), None
        if rows is None:
            history = self.last[number]
        else:
            table = rows if isinstance(rows, Table) else read_table(rows, self.schema, new=True)
            check_choice("agent", str(agent), table.names)
            table = conform(table.of_agents([str(agent)]), self.schema, self.summary)
            history = last_histories(table, self.dynamics.features.inputs_of(table).history)[0]
        if not np.isfinite(history).all():
            rows_wanted = f"at least {self.schema.lags} rows in a row with known states"
            raise InputError(f"agent {agent!r} has no row from which a prediction could start; give {rows_wanted}")
        return np.asarray(history)

    def known_inputs(self, known: Any, steps: int) -> Array:
        """Return the known inputs ``[H, C]`` of the next H steps from a frame with a row for each.

        Raises:
            InputError: a column is missing, a value is, or there are fewer rows than steps.
        """
        names = self.schema.known
        if not names:
            return np.empty((steps, 0))
        if known is None:
            raise InputError(f"known inputs are needed for the next steps; give a frame with {', '.join(names)}")
        return columns_of(self.schema, known, names, steps)

    def rollout(
        self, agent: str, inputs: Any, *, start: Any = None, steps: int | None = None, band: float | None = None
    ) -> pd.DataFrame:
        """Predict the states that follow if these inputs are given.

        Args:
            agent: its id.
            inputs: a frame with the actions and known inputs of the next steps, the first row those of the present.
            start: the agent's latest rows, see ``start``; the end of its data by default.
            steps: H; all rows of ``inputs`` by default.
            band: share that a band around the predicted states shall cover, such as 0.9.

        Returns:
            A frame with a row for each step: its number, the inputs, and the states after it, with columns
            ``NAME_low`` and ``NAME_high`` where a band is asked for.

        Raises:
            InputError: something does not fit, or bands were not calibrated.
        """
        steps = len(inputs) if steps is None else check_at_least("steps", steps, 1)
        names = self.schema.inputs
        values = columns_of(self.schema, inputs, names, steps) if names else np.empty((steps, 0))
        split = len(self.schema.action)
        return self.frame(self.number(agent), self.start(agent, start), values[:, :split], values[:, split:], band)

    def frame(
        self, number: int, history: Array, action: Array, known: Array, band: float | None = None
    ) -> pd.DataFrame:
        """See ``rollout``: for arrays ``[X]``, ``[H, A]`` (codes if discrete), ``[H, C]``."""
        import pandas as pd

        acts = self.dynamics.features.acts(action, known)
        states = self.paths(np.array([number]), history[None], acts[None])[0]
        schema, found = self.schema, {"step": np.arange(1, len(states) + 1)}
        columns = np.array(schema.labels)[action.astype(np.int64)] if schema.discrete else action
        found |= dict(zip(schema.action, columns.T, strict=True)) | dict(zip(schema.known, known.T, strict=True))
        found |= dict(zip(schema.state, states.T, strict=True))
        if band is not None:
            if self.bands is None:
                raise InputError("no bands were calibrated, as too little time could be held out; leave band out")
            half = self.bands.halves(np.array([number]), len(states), band)[0]
            for place, name in enumerate(schema.state):
                found[f"{name}_low"] = states[:, place] - half[:, place]
                found[f"{name}_high"] = states[:, place] + half[:, place]
        return pd.DataFrame(found)

    def adapt(self, table: Table) -> Simulator:
        """Take in the agents of a table: all that is learnt of them is their own weights, in closed form.

        The weights start from what the population and the agent's covariates say and follow its steps as far as
        these tell; no step at all is enough. Agents that are already known get new weights, from these data alone.

        Raises:
            InputError: the table has other columns or another step, or a column has another unit.
        """
        table = conform(table, self.schema, self.summary)
        old = self.dynamics
        inputs = old.features.inputs_of(table)
        units = old.units.for_agents(table, inputs.acts)
        steps = steps_of(table, inputs, units)
        sums = Sums.of(old.terms, steps, len(table.names))
        theta, unsure = self.prior.weights(table.static, sums)
        kept = [number for number, name in enumerate(self.names) if name not in table.names]
        return replace(
            self,
            names=(*(self.names[number] for number in kept), *table.names),
            dynamics=replace(
                old, units=old.units.joined(kept, units), theta=torch.cat([old.theta[:, kept], theta], dim=1)
            ),
            unsure=torch.cat([self.unsure[:, kept], unsure], dim=1),
            last=np.concatenate([self.last[kept], last_histories(table, inputs.history)]),
            static=np.concatenate([self.static[kept], table.static]),
            bands=None if self.bands is None else self.bands.of_agents(kept, len(table.names)),
            references=self.references.joined(kept, Sums.of(self.linear, steps, len(table.names))),
            bounds=np.concatenate([self.bounds[:, kept], action_bounds(table, self.summary)], axis=1),
        )

    def evaluate(self, test: Table, horizons: Sequence[int] = (1, 10, 50)) -> Comparison:
        """See ``persim.tables.comparison.compare``."""
        from persim.tables.comparison import compare

        return compare(self, test, horizons)

    def plan(self, agent: str, steps: int, **options: Any) -> pd.DataFrame:
        """See ``persim.tables.planning.plan``."""
        from persim.tables.planning import plan

        return plan(self, agent, steps, **options)

    def score_policies(self, policies: Mapping[str, Callable[[Row], Any]], steps: int, **options: Any) -> pd.DataFrame:
        """See ``persim.tables.planning.score_policies``."""
        from persim.tables.planning import score_policies

        return score_policies(self, policies, steps, **options)

    def to_gymnasium(self, agent: str, steps: int, **options: Any) -> SimulatedAgent:
        """See ``persim.tables.environment.SimulatedAgent``."""
        from persim.tables.environment import SimulatedAgent

        return SimulatedAgent(self, agent, steps, **options)

    def factors(self) -> pd.DataFrame:
        """Return the agents' weights, a row for each agent and a column for each term and state, of the first member.

        Members differ by a change of basis, so their weights cannot be averaged.
        """
        import pandas as pd

        history, acts = self.dynamics.features.names(self.schema)
        terms = self.dynamics.terms
        rank = terms.model.settings.rank
        names = [f"u{number + 1}" for number in range(rank)] if terms.kind != "linear" else []
        names += [*history, *(acts or ["no input"]), "constant"] if terms.kind != "product" else []
        columns = [f"{state}: {name}" if len(self.schema.state) > 1 else name
                   for state in self.schema.state for name in names]  # fmt: skip
        return pd.DataFrame(self.dynamics.theta[0].flatten(1).numpy(), index=list(self.names), columns=columns)

    def save(self, path: str | Path) -> None:
        """Write all of it to one file (safetensors; no code is in it)."""
        of = self.dynamics
        about = {"schema": self.schema.to_mapping(), "names": list(self.names), "about": dict(self.about)}
        about |= {"features": asdict(of.features), "model": asdict(of.terms.model.settings), "terms": of.terms.kind}
        about |= {"summary": {name: dict(found) for name, found in self.summary.items()}}
        about |= {"net": self.references.about()}
        arrays = {f"model.{name}": array for name, array in of.terms.model.arrays().items()}
        arrays |= {"theta": of.theta.numpy(), "unsure": self.unsure.numpy(), "limits": of.limits}
        arrays |= {"bounds": self.bounds} | _split("last", self.last) | _split("static", self.static)
        arrays |= of.units.arrays() | self.prior.arrays() | self.references.arrays()
        arrays |= self.bands.arrays() if self.bands is not None else {}
        arrays |= self.rewards.arrays() if self.rewards is not None else {}
        store.write_arrays(Path(path), {name: np.ascontiguousarray(a) for name, a in arrays.items()}, KIND, about)


def load(path: str | Path) -> Simulator:
    """Read what ``Simulator.save`` wrote.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    arrays, saved = store.read_arrays(Path(path), KIND)
    try:
        weights = {name.removeprefix("model."): x for name, x in arrays.items() if name.startswith("model.")}
        model = LowRankDynamics.from_arrays(weights, ModelSettings(**saved["model"])).requires_grad_(False)
        layout: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in saved["features"].items()}
        features = Features(**layout)
        theta, unsure = (torch.from_numpy(arrays[name].copy()) for name in ("theta", "unsure"))
        units = Units.from_arrays(arrays, features)
        return Simulator(
            Schema.of_mapping(saved["schema"]),
            tuple(saved["names"]),
            Dynamics(features, Terms(model, saved["terms"]), units, theta, np.array(arrays["limits"])),
            unsure,
            Prior.from_arrays(arrays),
            **{name: np.where(arrays[f"{name}.known"], arrays[name], np.nan) for name in ("last", "static")},
            bounds=np.array(arrays["bounds"]),
            bands=Bands.from_arrays(arrays),
            references=References.from_arrays(arrays, saved["net"]),
            rewards=Rewards.from_arrays(arrays),
            summary=saved["summary"],
            about=saved["about"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} lacks what a simulator needs ({error}); fit it again") from error


def _split(name: str, values: Array) -> store.Arrays:
    """Files hold finite values only: these, and which of them are known."""
    return {name: np.nan_to_num(values), f"{name}.known": np.isfinite(values)}
