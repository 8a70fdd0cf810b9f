"""All methods by name, with the paper's titles. To add a method, write its file and add a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from baselines.cadm import CaDM, PerSimUnderCaDM
from baselines.model_free.augmented import Augmented
from baselines.model_free.method import ModelFree
from baselines.morel.method import Morel
from persim.envs.spec import EnvSpec
from persim.errors import check_choice
from persim.methods import Method, Options, PerSim, TrueEnv, UnseenAgents
from persim.planning.registry import PAPER

Maker = Callable[[EnvSpec, Options], Method]


@dataclass(frozen=True)
class Entry:
    """A method of the paper, under one planner.

    Attributes:
        title: the paper's name for it; under several planners the paper's numbers stand beside each.
        make: builds it for an environment from the options of a command.
        planner: whose planner it has, where there is more than one; empty if it plans in one way only, or not at all.
        learns: whether it looks at data; a method that does not gives the same under every regime.
        ranked: whether it has PerSim's settings, such as the rank.
        unseen: whether it can act for agents that are not in the data: it is told their covariates, infers who
            they are, or does not tell agents apart.
        p: of PerSim for unseen agents, the share of training agents whose covariates are used.
    """

    title: str
    make: Maker
    planner: str = ""
    learns: bool = True
    ranked: bool = False
    unseen: bool = False
    p: float | None = None

    @property
    def label(self) -> str:
        """Its name where planners matter: wherever rewards are shown."""
        return f"{self.title}, {self.planner}" if self.planner else self.title


def _under_paper(make: Maker) -> Maker:
    """The same method under the paper's planner, whatever the command names."""
    return lambda spec, options: make(spec, replace(options, planner=PAPER, planning=None))


def _unseen(p: float) -> Entry:
    def make(spec: EnvSpec, options: Options) -> Method:
        return UnseenAgents(PerSim.make(spec, options), p)

    return Entry(f"PerSim(p={p})", make, OURS, ranked=True, unseen=True, p=p)


OURS, PAPERS = "our planner", "the paper's planner"
METHODS: dict[str, Entry] = {
    "persim": Entry("PerSim", PerSim.make, OURS, ranked=True),
    "persim-paper": Entry("PerSim", _under_paper(PerSim.make), PAPERS, ranked=True),
    "persim-cadm": Entry("PerSim", PerSimUnderCaDM.make, "CaDM's planner", ranked=True),
    "true-env": Entry("True env+MPC", TrueEnv.make, OURS, learns=False, unseen=True),
    "true-env-paper": Entry("True env+MPC", _under_paper(TrueEnv.make), PAPERS, learns=False, unseen=True),
    "cadm": Entry("Vanilla CaDM", CaDM.maker(pets=False), unseen=True),
    "cadm-pets": Entry("PE-TS CaDM", CaDM.maker(pets=True), unseen=True),
    "bcq-p": Entry("BCQ-P", ModelFree.maker("bcq", pooled=True), unseen=True),
    "bcq-a": Entry("BCQ-A", ModelFree.maker("bcq", pooled=False)),
    "cql-p": Entry("CQL-P", ModelFree.maker("cql", pooled=True), unseen=True),
    "cql-a": Entry("CQL-A", ModelFree.maker("cql", pooled=False)),
    "morel-p": Entry("MOReL-P", Morel.maker(pooled=True), unseen=True),
    "morel-a": Entry("MOReL-A", Morel.maker(pooled=False)),
    "persim-bcq-5": Entry("PerSim-BCQ-5", Augmented.maker("bcq"), ranked=True),
    "persim-cql-5": Entry("PerSim-CQL-5", Augmented.maker("cql"), ranked=True),
    **{f"persim-p{round(100 * p)}": _unseen(p) for p in (1.0, 0.5, 0.25, 0.1)},
}


def make_method(name: str, spec: EnvSpec, options: Options | None = None) -> Method:
    """The method of that name, at the paper's budget unless the options say otherwise.

    Raises:
        InputError: it is unknown, or the options do not fit the environment.
    """
    method = METHODS[check_choice("method", name, METHODS)].make(spec, options or Options())
    method.name = name
    return method
