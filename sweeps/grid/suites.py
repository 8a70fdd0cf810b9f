"""The paper's grid as declarations: suites, and the cells that a command asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from baselines.registry import METHODS, make_method
from persim.data import REGIMES
from persim.envs import get
from persim.envs.spec import MOST_AGENTS
from persim.errors import LARGEST_SEED, InputError, check_at_least, check_choice, check_seed
from persim.evaluation.reward import EPISODES
from persim.learning.presets import MEMBERS
from persim.learning.unseen import known_agents
from persim.methods import Method, Options
from persim.methods.job import PREDICTION, TENSOR, TRUE_ENV_REGIME, Job, predictions, rewards, tensors
from persim.storage.cells import Cell

ENVS = ("mountaincar", "cartpole", "halfcheetah")
UNSEEN_METHODS = tuple(name for name, entry in METHODS.items() if entry.p is not None)
_OTHER_SUITES = ("persim-cadm", "persim-bcq-5", "persim-cql-5", *UNSEEN_METHODS)
ALL_METHODS = tuple(name for name in METHODS if name not in _OTHER_SUITES)
# Episodes of each test agent, by preset: of a method that plans, and of one that acts by a policy.
_EPISODES = {"paper": (EPISODES, 100), "quick": (5, 100), "smoke": (1, 2)}
# Of the true dynamics' approximation: states, actions where they are continuous, ranks, starts of the search.
_TENSOR_RANKS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)
_TENSOR = {True: (300, None, _TENSOR_RANKS, 8), False: (120, 32, _TENSOR_RANKS, 2)}
_SMALL_TENSOR = {True: (30, None, (1, 2, 3), 4), False: (4, 4, (1, 2), 2)}
DataKey = tuple[str, str, int]  # environment, regime, N
Variants = Mapping[str, Mapping[str, Any]]


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
        measures: what is measured: ``prediction``, ``reward``, ``tensor``.
        preset: of the budget, if the command line does not say.
        unseen: by environment, covariates ``[M, C]`` of the test agents where they are not those of the data.
        episodes: of each agent and method that plans, if the command line does not say; None for the preset's.
        seed: of the first trial, if the command line does not say; smaller ones are refused.
        acting: ids of the agents that act where they are not the test agents.
        plannings: by environment the fields of ``Options`` of each way to plan; every method is measured under all.
        variants: by name what replaces settings of PerSim (``Options.tuned``); each is measured on all data.
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
    episodes: int | None = None
    seed: int = 0
    acting: tuple[int, ...] | None = None
    plannings: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    variants: Variants = field(default_factory=lambda: {"": {}})

    def check(self, seed: int, agents: Sequence[int], options: Options) -> None:
        """Check the first seed, the values of N and the options against what the suite keeps to itself.

        Raises:
            InputError: a seed of published trials, an N that lacks the agents that act, or a planner.
        """
        if self.seed:
            check_at_least(
                "seed", seed, self.seed, f"suite {self.name} keeps off the seeds of published trials", most=LARGEST_SEED
            )
        if self.acting is not None:
            check_at_least("agents", min(agents), max(self.acting) + 1, f"suite {self.name} acts for agents of these")
        if self.plannings and options.planner is not None:
            raise InputError(f"suite {self.name} has planners of its own, not {options.planner!r}; leave --planner out")


def _plannings(env: str, horizons: Sequence[int]) -> tuple[Mapping[str, Any], ...]:
    """Both planners of discrete actions at these horizons, with and without shaping where there is any."""
    shaping = ({},) if get(env).planning.safety is None else ({"safety": True}, {"safety": False})
    planners = ("random_shooting", "persistent_shooting")
    return tuple(
        {"planner": name, "planning": {"horizon": horizon, **safety}}
        for name, horizon, safety in product(planners, horizons, shaping)
    )


_EVERYTHING = tuple(product(ENVS, REGIMES))
_SMALL = tuple(product(("mountaincar", "cartpole"), ("random", "pure")))
_ALONE, _FIVE = {"members": 1, "candidates": 1}, {"members": MEMBERS, "candidates": MEMBERS}
_ABLATIONS: Variants = {
    "as it is": {},
    "next states as targets": {"nets": {"residual": False}},
    "five members, no spare ones": {"size": _FIVE},
    "one member": {"size": _ALONE},
    "no averaging of weights": {"train": {"average_last": 0}},
    "no alternating least squares": {"polish": {"rounds": 0}},
    "the paper's training: none of the last three": {
        "size": _FIVE,
        "train": {"average_last": 0},
        "polish": {"rounds": 0},
    },
}

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
        Suite("same-planner", "PerSim and CaDM under CaDM's planner, with equal plans and episodes", _SMALL,
              ("persim-cadm", "cadm", "cadm-pets"), trials=1, preset="laptop", episodes=4),
        # Nothing of it is published otherwise: neither the agents nor the seeds, of which trials have 0 to 4.
        Suite("planners", "planner, horizon and shaping, on agents and seeds of their own: chooses ours", _SMALL,
              ("persim", "true-env"), trials=2, episodes=5, seed=101, acting=tuple(range(5, 15)),
              plannings={"mountaincar": _plannings("mountaincar", (50, 100, 150, 200)),
                         "cartpole": _plannings("cartpole", (8, 10, 15, 30, 50))}),
        Suite("ablations", "PerSim without one part of its training each",
              tuple(product(("mountaincar", "cartpole"), ("random", "pure"))), ("persim",), trials=3,
              measures=("prediction",), variants=_ABLATIONS),
        Suite("theorem1", "the true dynamics as sums of r terms (Theorem 1)",
              tuple((env, "random") for env in ENVS), ("true-env",), agents=(40,), trials=3, measures=(TENSOR,)),
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
        options: of every method; the preset among them.
        seed: trial t uses seed + t.
        episodes: of each test agent and method that plans; None for the preset's.
        special: other options for some data, such as their own rank.

    Raises:
        InputError: something in it is unknown, out of range, or not in the suite.
    """

    suite: Suite
    data: tuple[tuple[str, str], ...]
    methods: tuple[str, ...]
    agents: tuple[int, ...]
    trials: int
    options: Options
    seed: int = 0
    episodes: int | None = None
    special: Mapping[DataKey, Options] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_at_least("trials", self.trials, 1, most=1000)
        check_seed(self.seed + self.trials)
        self.suite.check(self.seed, self.agents, self.options)
        if self.episodes is not None:
            check_at_least("episodes", self.episodes, 1, most=10**5)
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
                check_at_least("agents", count, len(known), f"{env} has that many test agents", most=MOST_AGENTS)
                for p in (METHODS[method].p for method in self.methods):
                    if p is not None:
                        known_agents(count, p, self.seed)

    @property
    def keys(self) -> list[DataKey]:
        """Environment, regime and N of all data."""
        return [(env, regime, count) for env, regime in self.data for count in self.agents]

    def jobs(self) -> list[Job]:
        """All cells with their methods; trial by trial, so that an interrupted run has seen everything once."""
        found = {job.cell.id: job for trial in range(self.trials) for job in self._trial(trial)}
        return list(found.values())

    def _trial(self, trial: int) -> Iterator[Job]:
        for key, name, variant in product(self.keys, self.methods, self.suite.variants.values()):
            options = self.special.get(key, self.options)
            options = replace(options, tuned={**(options.tuned or {}), **variant} or None)
            for planning in self.suite.plannings.get(key[0], ({},)):
                yield from self._measured(key, make_method(name, get(key[0]), replace(options, **planning)), trial)

    def _measured(self, key: DataKey, method: Method, trial: int) -> Iterator[Job]:
        """The cells of one method on these data, under one way to plan."""
        env, regime, count = key
        spec, unseen = get(env), self.suite.unseen.get(env, ())
        for measure in self.suite.measures:
            if measure == TENSOR:
                sizes = _SMALL_TENSOR if self.options.preset == "smoke" else _TENSOR
                how = tensors(*sizes[spec.discrete])
            elif measure != PREDICTION:
                how = rewards(self._episodes(plans=method.plans), agents=self.suite.acting, unseen=unseen)
            elif method.predicts:
                how = predictions(spec, unseen)
            else:
                continue
            yield Job.of(method, env, regime, count, self.seed + trial, how)

    def _episodes(self, *, plans: bool) -> int:
        if plans and self.episodes is not None:
            return self.episodes
        return paper_episodes(plans=plans, preset=self.options.preset)


def paper_episodes(*, plans: bool, preset: str = "paper") -> int:
    """Episodes of each test agent under a preset, of a method that plans or of one that acts by a policy."""
    return _EPISODES.get(preset, _EPISODES["paper"])[not plans]


def belongs(cell: Cell, env: str, regime: str, count: int, method: str) -> bool:
    """Whether a cell is one of a method on these data; the cells of a method that looks at no data always are."""
    if (cell.env, cell.method) != (env, method):
        return False
    return cell.regime == TRUE_ENV_REGIME or (cell.regime, cell.agents) == (regime, count)


def chosen(what: str, asked: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Choose the names asked for (all if None), in the order of the suite.

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
