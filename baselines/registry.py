"""All methods by name, with the paper's titles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from baselines.cadm import ActingSettings, CaDM, CaDMSettings
from baselines.cadm.settings import PAPER_CADM
from baselines.model_free.augmented import Augmented
from baselines.model_free.method import ModelFree
from baselines.model_free.settings import NORMALISED, PAPER_UPDATES, OfflineSettings, offline_settings
from baselines.morel.method import Morel
from baselines.morel.settings import PAPER_MOREL, MorelSettings
from persim.envs.spec import EnvSpec
from persim.errors import check_at_least, check_choice
from persim.methods import Method, PerSim, PerSimSettings, TrueEnv
from persim.methods.persim import PlanningSettings
from persim.methods.unseen import UnseenAgents


@dataclass(frozen=True)
class Budget:
    """How much a method may spend; part of every row, so that no table mixes budgets unseen.

    Attributes:
        name: of the preset.
        epochs: of training.
        average_last: final epochs whose weights are averaged.
        members: of the ensemble.
        spare: candidates trained beyond them.
        episodes: per test agent of a method that plans.
        updates: gradient steps of BCQ and CQL, by algorithm.
        cadm: of CaDM: iterations, epochs of each, updates in all (0: as many as that takes), particles of
            PE-TS, and plans of a decision where ``planning`` does not say.
        normalised: whether BCQ and CQL see z-scored states; None for MountainCar only.
        morel: passes of MOReL over the data, fewest updates of its dynamics, and steps of its policy.
        policy_episodes: per test agent of a method that learns a policy, which acts at once.
        planner: None for the default of the environment.
        planning: options of the planner that differ from its own.

    Raises:
        InputError: a number out of range.
    """

    name: str
    epochs: int
    average_last: int
    members: int
    spare: int
    episodes: int
    updates: dict[str, int] = field(default_factory=lambda: dict(PAPER_UPDATES))
    cadm: dict[str, int] = field(default_factory=lambda: dict(PAPER_CADM))
    normalised: bool | None = None
    morel: dict[str, int] = field(default_factory=lambda: dict(PAPER_MOREL))
    policy_episodes: int = 100
    planner: str | None = None
    planning: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "members", "episodes", "policy_episodes"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("average_last", "spare"):
            check_at_least(name, getattr(self, name), 0)
        for algorithm, updates in self.updates.items():
            check_choice("updates: algorithm", algorithm, PAPER_UPDATES)
            check_at_least(f"updates of {algorithm}", updates, 1)
        for name, number in self.cadm.items():
            check_choice("cadm", name, PAPER_CADM)
            check_at_least(f"cadm: {name}", number, 0 if name == "updates" else 1)
        for name, amount in self.morel.items():
            check_choice("morel: budget", name, PAPER_MOREL)
            check_at_least(f"{name} of morel", amount, 1)

    def how_to_plan(self, spec: EnvSpec, *, whole: bool = False) -> PlanningSettings:
        """The planner with its settings in an environment; ``whole``: of plans that are played to their end."""
        return PlanningSettings.of(spec, self.planner, whole=whole, **self.planning)


# Minutes of a core (docs/baselines.md); the paper's takes days of one, or a GPU.
_LITTLE_CADM = {"iterations": 5, "epochs": 200, "updates": 20_000, "particles": 5, "plans": 200}
_FEW_UPDATES = {"discrete_bcq": 55_000, "bcq": 11_000, "discrete_cql": 10_000, "cql": 5_000}
# The paper trains exactly the members that it keeps; two more cost 40 % and spare us the poor minima.
_PAPER = Budget("paper", epochs=300, average_last=50, members=5, spare=2, episodes=20)
PRESETS = {
    "paper": _PAPER,
    "laptop": replace(_PAPER, name="laptop", updates=_FEW_UPDATES, cadm=_LITTLE_CADM),
    "quick": Budget(
        "quick",
        epochs=30,
        average_last=10,
        members=3,
        spare=0,
        episodes=5,
        updates=_FEW_UPDATES,
        cadm={**_LITTLE_CADM, "updates": 3000},
        morel={"epochs": 1, "min_updates": 2_000, "ppo_steps": 100_000},
    ),
    "smoke": Budget(
        "smoke",
        epochs=2,
        average_last=1,
        members=2,
        spare=0,
        episodes=1,
        updates=dict.fromkeys(PAPER_UPDATES, 10),
        cadm={"iterations": 2, "epochs": 2, "updates": 10, "particles": 5, "plans": 20},
        morel={"epochs": 1, "min_updates": 10, "ppo_steps": 1},
        policy_episodes=2,
        planning={"plans": 20, "horizon": 8},
    ),
}

Maker = Callable[[EnvSpec, Budget, int | None], Method]


@dataclass(frozen=True)
class Entry:
    """A method of the paper.

    Attributes:
        title: the paper's name for it.
        make: builds it from environment, budget and rank.
        learns: whether it looks at data; the others do the same under every regime.
        ranked: whether a rank has a meaning for it.
        plans: whether it plans at every step, which takes long; the others act by a policy.
        base: name of the method whose weights it starts from (``Method.base``).
        unseen: whether it can act for agents that are not in the data: it is told their covariates, infers who
            they are, or does not tell agents apart.
        p: of PerSim for unseen agents, the share of training agents whose covariates are used.
    """

    title: str
    make: Maker
    learns: bool = True
    ranked: bool = False
    plans: bool = True
    base: str | None = None
    unseen: bool = False
    p: float | None = None


def _persim(spec: EnvSpec, budget: Budget, rank: int | None, *, whole: bool = False) -> PerSim:
    settings = PerSimSettings.of(
        spec,
        budget.how_to_plan(spec, whole=whole),
        rank=rank,
        members=budget.members,
        spare=budget.spare,
        epochs=budget.epochs,
        average_last=budget.average_last,
    )
    return PerSim(settings)


def _true_env(spec: EnvSpec, budget: Budget, rank: int | None) -> Method:
    return TrueEnv(budget.how_to_plan(spec))


def _offline(algorithm: str, spec: EnvSpec, budget: Budget) -> OfflineSettings:
    name = f"discrete_{algorithm}" if spec.discrete else algorithm
    normalised = spec.name in NORMALISED if budget.normalised is None else budget.normalised
    return offline_settings(name, budget.updates[name], normalised=normalised)


def _model_free(algorithm: str, *, pooled: bool) -> Maker:
    def make(spec: EnvSpec, budget: Budget, rank: int | None) -> Method:
        return ModelFree(_offline(algorithm, spec, budget), spec, pooled=pooled)

    return make


def _augmented(algorithm: str) -> Maker:
    def make(spec: EnvSpec, budget: Budget, rank: int | None) -> Method:
        return Augmented(_offline(algorithm, spec, budget), spec, _persim(spec, budget, rank, whole=True))

    return make


def _morel(*, pooled: bool) -> Maker:
    def make(spec: EnvSpec, budget: Budget, rank: int | None) -> Method:
        return Morel(MorelSettings.of(spec, **budget.morel), spec, pooled=pooled)

    return make


def _cadm_planning(spec: EnvSpec, budget: Budget) -> PlanningSettings:
    """The planner of CaDM's code: random shooting, or the cross-entropy method where actions are continuous.

    Its settings are those of ``persim.planning`` nearest to CaDM's; what still differs is in docs/baselines.md.
    """
    if budget.planner is not None:
        return budget.how_to_plan(spec)
    if spec.discrete:
        return PlanningSettings.of(spec, "random_shooting", **{"plans": budget.cadm["plans"], **budget.planning})
    options = {"plans": 200, "horizon": 30, "iterations": 4, "smoothing": 0.1, "spread": (0.5, 0.5), **budget.planning}
    return PlanningSettings.of(spec, "cem", **{"elites": max(1, options["plans"] // 4), **options})


def _cadm(make: Callable[..., CaDMSettings], *, pets: bool) -> Maker:
    def build(spec: EnvSpec, budget: Budget, rank: int | None) -> Method:
        little = budget.cadm
        settings = make(iterations=little["iterations"], epochs=little["epochs"], updates=little["updates"] or None)
        planning = _cadm_planning(spec, budget)
        warm = planning.planner != "random_shooting"
        acting = ActingSettings(planning, little["particles"] if pets else 1, warm_start=warm)
        return CaDM(settings, acting, spec)

    return build


def _unseen(p: float) -> Entry:
    def make(spec: EnvSpec, budget: Budget, rank: int | None) -> Method:
        return UnseenAgents(_persim(spec, budget, rank), p)

    return Entry(f"PerSim(p={p})", make, ranked=True, base="persim", unseen=True, p=p)


METHODS: dict[str, Entry] = {
    "persim": Entry("PerSim", _persim, ranked=True),
    "true-env": Entry("True env+MPC", _true_env, learns=False, unseen=True),
    "cadm": Entry("Vanilla CaDM", _cadm(CaDMSettings.vanilla, pets=False), unseen=True),
    "cadm-pets": Entry("PE-TS CaDM", _cadm(CaDMSettings.pets, pets=True), unseen=True),
    "bcq-p": Entry("BCQ-P", _model_free("bcq", pooled=True), plans=False, unseen=True),
    "bcq-a": Entry("BCQ-A", _model_free("bcq", pooled=False), plans=False),
    "cql-p": Entry("CQL-P", _model_free("cql", pooled=True), plans=False, unseen=True),
    "cql-a": Entry("CQL-A", _model_free("cql", pooled=False), plans=False),
    "morel-p": Entry("MOReL-P", _morel(pooled=True), plans=False, unseen=True),
    "morel-a": Entry("MOReL-A", _morel(pooled=False), plans=False),
    "persim-bcq-5": Entry("PerSim-BCQ-5", _augmented("bcq"), ranked=True, plans=False, base="persim"),
    "persim-cql-5": Entry("PerSim-CQL-5", _augmented("cql"), ranked=True, plans=False, base="persim"),
    **{f"persim-p{round(100 * p)}": _unseen(p) for p in (1.0, 0.5, 0.25, 0.1)},
}


def make_method(name: str, spec: EnvSpec, budget: Budget, rank: int | None = None) -> Method:
    """The method of that name.

    Raises:
        InputError: it is unknown, or the budget does not fit the environment.
    """
    entry = METHODS[check_choice("method", name, METHODS)]
    return entry.make(spec, budget, rank if entry.ranked else None)
