"""What is measured: a cell with its method, and the names of the files that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from persim.data.collect import population
from persim.data.policies import test_policy_id
from persim.envs import EnvSpec, get
from persim.envs.spec import Array
from persim.errors import InputError
from persim.evaluation.prediction import EPISODES, HORIZON, WARM_UP
from persim.methods.protocol import Method
from persim.storage import store
from persim.storage.cells import Cell, file_name, plain

PREDICTION, REWARD, HOLDOUT, TENSOR = "prediction", "reward", "holdout", "tensor"
TRUE_ENV_REGIME = "true-env"  # the regime of a method that looks at no data


def predictions(spec: EnvSpec, unseen: ArrayLike = ()) -> dict[str, Any]:
    """The prediction test (Section 5.2) as a cell states it; ``unseen`` are covariates ``[M, C]`` or empty."""
    test = {"what": PREDICTION, "episodes": EPISODES, "warm_up": WARM_UP, "steps": HORIZON}
    return {**test, "policy": test_policy_id(spec.name), **_unseen(unseen)}


def rewards(episodes: int, *, agents: Sequence[int] | None = None, unseen: ArrayLike = ()) -> dict[str, Any]:
    """The average reward (Section 5.3) as a cell states it.

    Args:
        episodes: of each agent.
        agents: ids from 0; None for all test agents.
        unseen: covariates ``[M, C]`` of test agents that are not in the data.
    """
    chosen = {} if agents is None else {"agents": list(agents)}
    return {"what": REWARD, "episodes": episodes, **chosen, **_unseen(unseen)}


def tensors(states: int, actions: int | None, ranks: Sequence[int], starts: int) -> dict[str, Any]:
    """The approximation of the true dynamics (Theorem 1) as a cell states it.

    Args:
        states: how many recorded ones are drawn.
        actions: how many are drawn; None for all discrete ones.
        ranks: R to try, in increasing order.
        starts: of the search for the best approximation.
    """
    return {"what": TENSOR, "states": states, "actions": actions, "ranks": list(ranks), "starts": starts}


def _unseen(unseen: ArrayLike) -> dict[str, Any]:
    rows = np.asarray(unseen, dtype=np.float64)
    return {"unseen": rows.tolist()} if len(rows) else {}


@dataclass(frozen=True)
class Job:
    """A cell with the method that it measures.

    Attributes:
        cell: the measurement.
        method: has the cell's settings.
    """

    cell: Cell
    method: Method

    @classmethod
    def of(cls, method: Method, env: str, regime: str, agents: int, seed: int, measure: Mapping[str, Any]) -> Job:
        """The job of a method on data of this environment, regime, N and seed.

        A method that learns nothing is measured on the test agents alone, whatever the regime and N. (``TENSOR`` asks
        for its dynamics in recorded states, so there they matter.)
        """
        if measure["what"] in (PREDICTION, REWARD) and not (get(env).test_agents or "unseen" in measure):
            raise InputError(f"{env} has no test agents to measure; name some in the test_agents of its EnvSpec")
        if not method.parts and not method.learns_with() and measure["what"] != TENSOR:
            known, chosen = len(get(env).test_agents), measure.get("agents", [0])
            regime, agents = TRUE_ENV_REGIME, known if max(chosen) < known else agents
        plays = REWARD in (measure["what"], measure.get("then", {}).get("what"))
        settings = method.about() if plays else method.predicts_with()
        return cls(Cell(env, regime, agents, method.name, seed, plain(settings), plain(measure)), method)

    @property
    def spec(self) -> EnvSpec:
        """The environment; its test agents are those that the cell measures."""
        return spec_of(self.cell)

    @property
    def covariates(self) -> Array:
        """Covariates ``[N, C]`` of the agents that the method acts for, the test agents first."""
        if "unseen" in self.cell.measure:
            return self.spec.covariate_rows(self.spec.test_agents)
        seed = self.cell.seed if self.method.data_seed is None else self.method.data_seed
        return population(self.spec, self.cell.agents, seed)

    @property
    def weights_name(self) -> str:
        """Names the trained weights: cells that differ only in how a method plans or what is measured share them."""
        learner = self.method.learner or self.method.name
        about = {"data": self.data_key, "method": learner, "learns_with": plain(self.method.learns_with())}
        return f"{file_name(self.cell.env, learner)}-{store.settings_hash(about)}"

    @property
    def data_key(self) -> tuple[str, str, int, int]:
        """Environment, regime, N and seed: what names the dataset."""
        return self.cell.env, self.cell.regime, self.cell.agents, self.cell.seed

    @property
    def base(self) -> Job | None:
        """Names the weights that the method starts from; None if it starts from none."""
        return None if self.method.base is None else replace(self, method=self.method.base)

    @property
    def model_file(self) -> str:
        """Where the weights are kept, relative to the store."""
        return f"models/{self.weights_name}.safetensors"

    def part_file(self, number: int) -> str:
        """Where a part of the weights is kept until all are put together, relative to the store."""
        return f"parts/{self.weights_name}-{number}.safetensors"

    def piece_file(self, number: int) -> str:
        """Where a piece of the measurement is kept until the cell is finished, relative to the store."""
        return f"pieces/{self.cell.id}-{number}.json"

    @property
    def pieces(self) -> list[int | None]:
        """What workers can share: the reward of one agent each (ids from 0); or one piece for all, None."""
        if self.cell.what != REWARD:
            return [None]
        return list(self.cell.measure.get("agents", range(len(self.spec.test_agents))))


def spec_of(cell: Cell) -> EnvSpec:
    """The environment of a cell; its test agents are those that the cell measures."""
    spec, unseen = get(cell.env), cell.measure.get("unseen")
    return spec if unseen is None else replace(spec, test_agents=tuple(map(tuple, unseen)))
