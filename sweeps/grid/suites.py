"""The paper's grid as declarations: suites, and the cells that a command asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product

from baselines.registry import METHODS, Budget, make_method
from persim.data import REGIMES
from persim.data.collect import population
from persim.envs import EnvSpec, get
from persim.envs.spec import Array
from persim.errors import InputError, check_at_least, check_choice
from persim.learning.unseen import known_agents
from persim.methods import Method
from persim.storage import store
from persim.storage.cells import Cell

ENVS = ("mountaincar", "cartpole", "halfcheetah")
UNSEEN_METHODS = tuple(name for name, entry in METHODS.items() if entry.p is not None)
ALL_METHODS = tuple(name for name in METHODS if name not in ("persim-bcq-5", "persim-cql-5", *UNSEEN_METHODS))
TRUE_ENV_REGIME = "true-env"  # the regime of a method that looks at no data


@dataclass(frozen=True)
class Suite:
    """A part of the paper's grid.

    Attributes:
        name: as on the command line; also the MLflow experiment.
        about: one line for ``--help``.
        data: pairs of environment and regime.
        methods: names of ``baselines.registry``.
        agents: values of N.
        trials: repetitions.
        measures: what is measured: ``prediction``, ``reward``.
        preset: of the budget, if the command line does not say.
        unseen: by environment, covariates of the test agents where they are not those of the data.
    """

    name: str
    about: str
    data: tuple[tuple[str, str], ...]
    methods: tuple[str, ...]
    agents: tuple[int, ...] = (500,)
    trials: int = 5
    measures: tuple[str, ...] = ("reward",)
    preset: str = "paper"
    unseen: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)


_EVERYTHING = tuple(product(ENVS, REGIMES))

SUITES = {
    suite.name: suite
    for suite in (
        Suite("prediction", "prediction error (Tables 1, 6-8)", _EVERYTHING, ("persim", "cadm", "cadm-pets"),
              measures=("prediction",)),
        Suite("reward", "average reward (Tables 2, 9-11)", _EVERYTHING, ALL_METHODS),
        Suite("augmentation", "synthetic trajectories for BCQ and CQL (Table 3)",
              tuple((env, "random") for env in ENVS),
              ("bcq-p", "bcq-a", "cql-p", "cql-a", "persim-bcq-5", "persim-cql-5")),
        Suite("unseen", "agents that were never observed (Tables 12, 13)",
              (("mountaincar", "random"), ("mountaincar", "pure")),
              (*UNSEEN_METHODS, "cadm", "cadm-pets", "bcq-p"), measures=("prediction", "reward"),
              unseen={"mountaincar": ((0.00005,), (0.00008,), (0.002,), (0.0037,), (0.004,))}),
        Suite("scarcity", "fewer agents (Tables 14-16)",
              (("mountaincar", "random"), ("cartpole", "pure"), ("halfcheetah", "random")),
              ("persim", "cadm", "cadm-pets", "bcq-p"), agents=(25, 50, 100, 250, 500)),
        Suite("smoke", "everything once, tiny, in seconds; its numbers mean nothing",
              (("cartpole", "random"), ("mountaincar", "pure")),
              ("persim", "true-env", "bcq-p", "cql-a", "morel-a", "persim-cql-5"),
              agents=(6,), trials=2, measures=("prediction", "reward"), preset="smoke"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """What a command asks for.

    Attributes:
        suite: its declaration.
        data: pairs of environment and regime.
        methods: names.
        agents: values of N.
        trials: repetitions, from 0.
        budget: of every method.
        seed: trial t uses seed + t.
        ranks: R by (environment, regime, N), where it is not the paper's.

    Raises:
        InputError: something in it is unknown, out of range, or not in the suite.
    """

    suite: Suite
    data: tuple[tuple[str, str], ...]
    methods: tuple[str, ...]
    agents: tuple[int, ...]
    trials: int
    budget: Budget
    seed: int = 0
    ranks: tuple[tuple[tuple[str, str, int], int], ...] = ()

    def __post_init__(self) -> None:
        check_at_least("trials", self.trials, 1)
        check_at_least("seed", self.seed, 0)
        for method in self.methods:
            check_choice("method", method, METHODS)
            if self.suite.unseen and not METHODS[method].unseen:
                able = ", ".join(name for name, entry in METHODS.items() if entry.unseen)
                raise InputError(
                    f"method {method!r} knows only agents of the data, but suite {self.suite.name} asks for others; "
                    f"use some of: {able}"
                )
        for env, regime in self.data:
            check_choice("regime", regime, REGIMES)
            known = get(env).test_agents
            for count in self.agents:
                check_at_least("agents", count, len(known), f"{env} has that many test agents")
                for p in (METHODS[method].p for method in self.methods):
                    if p is not None:
                        known_agents(count, p, self.seed)

    def cells(self) -> list[Cell]:
        """All cells; trial by trial, so that an interrupted run has seen everything once."""
        found = {cell.id: cell for trial in range(self.trials) for cell in self._trial(trial)}
        return list(found.values())

    def _trial(self, trial: int) -> Iterator[Cell]:
        for (env, regime), count, method in product(self.data, self.agents, self.methods):
            if METHODS[method].learns:
                yield self._cell(env, regime, count, method, trial)
            else:  # looks at no data: the same whatever the regime and N
                yield self._cell(env, TRUE_ENV_REGIME, len(get(env).test_agents), method, trial)

    def _cell(self, env: str, regime: str, count: int, method: str, trial: int) -> Cell:
        spec = get(env)
        rank = dict(self.ranks).get((env, regime, count))
        built = make_method(method, spec, self.budget, rank)
        settings = {
            "seed": self.seed + trial,
            "measures": [name for name in self.suite.measures if name != "prediction" or built.predicts],
            "budget": asdict(self.budget),
            "rank": rank,
            "method": built.about(),
        }
        if env in self.suite.unseen:  # other cells keep the ids from before there were unseen agents
            settings["unseen"] = [list(row) for row in self.suite.unseen[env]]
        return Cell(self.suite.name, env, regime, count, method, trial, settings)


def chosen(what: str, asked: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Those asked for (all if None), in the order of the suite.

    Raises:
        InputError: one is not in the suite, or is named twice.
    """
    if asked is None:
        return tuple(dict.fromkeys(known))
    for name in asked:
        check_choice(what, name, dict.fromkeys(known))
    if len(set(asked)) < len(asked):
        raise InputError(f"{what} {','.join(asked)} names one twice; give each once")
    return tuple(name for name in dict.fromkeys(known) if name in asked)


def method_of(cell: Cell) -> Method:
    """The method of a cell, with the cell's settings."""
    budget = Budget(**cell.settings["budget"])
    return make_method(cell.method, get(cell.env), budget, cell.settings["rank"])


def spec_of(cell: Cell) -> EnvSpec:
    """The environment of a cell; its test agents are those that the cell measures."""
    spec, unseen = get(cell.env), cell.settings.get("unseen")
    return spec if unseen is None else replace(spec, test_agents=tuple(map(tuple, unseen)))


def covariates_of(cell: Cell) -> Array:
    """Covariates ``[N, C]`` of the agents that the method of a cell acts for, the test agents first."""
    spec = spec_of(cell)
    if "unseen" in cell.settings:
        return spec.covariate_rows(spec.test_agents)
    return population(spec, cell.agents, int(cell.settings["seed"]))


def dataset_key(cell: Cell) -> str:
    """Names the dataset of a cell."""
    about = {"env": cell.env, "regime": cell.regime, "agents": cell.agents, "seed": cell.settings["seed"]}
    return f"{cell.env.replace(':', '.')}-{cell.regime}-{cell.agents}-{store.settings_hash(about)}"


def weights_key(cell: Cell) -> str:
    """Names the trained weights of a cell: cells that differ only in what is measured share them."""
    about = {"data": dataset_key(cell), "method": cell.method, "learns_with": method_of(cell).learns_with()}
    return f"{cell.env.replace(':', '.')}-{cell.method}-{store.settings_hash(about)}"
