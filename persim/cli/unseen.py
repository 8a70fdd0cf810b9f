"""What the commands share about agents that were never observed: their options, and the model of them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

from persim import console
from persim.data.collect import population
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.learning.model import LowRankDynamics
from persim.learning.unseen import fit_map, known_agents, unseen_model


def add_unseen_options(p: console.Parser) -> None:
    """Whom to place by their covariates, and from how many."""
    p.add_argument("--covariates", nargs="+", metavar="ROW", help="test agents that were never observed instead, each\n"
                   "by its covariates, such as 0.002, or 2,0.5 if there are two")  # fmt: skip
    p.add_argument("--p", type=float, help="share of the training agents that --covariates learns from (1)")


@dataclass(frozen=True)
class Unseen:
    """Agents that were never observed.

    Attributes:
        covariates: ``[M, C]``, a row for each.
        p: share of the training agents whose covariates are used.
    """

    covariates: tuple[tuple[float, ...], ...]
    p: float

    @classmethod
    def of(cls, args: argparse.Namespace, spec: EnvSpec, n_agents: int) -> Unseen | None:
        """From the options; None if no such agents are asked for. ``n_agents`` are those of the training.

        Raises:
            InputError: a row is not numbers or does not fit, ``p`` is out of range, or stands alone.
        """
        if args.covariates is None:
            if args.p is not None:
                raise InputError("--p is of use with --covariates only; give those, too, or leave it out")
            return None
        rows = spec.covariate_rows([_row(text, spec) for text in args.covariates])
        p = 1.0 if args.p is None else args.p
        known_agents(n_agents, p, 0)
        return cls(tuple(map(tuple, rows.tolist())), p)

    def spec(self, spec: EnvSpec) -> EnvSpec:
        """The environment, with these as its test agents."""
        return replace(spec, test_agents=self.covariates)

    def table(self, spec: EnvSpec) -> Array:
        """Covariates ``[M, C]``."""
        return spec.covariate_rows(self.covariates)

    def model(self, model: LowRankDynamics, spec: EnvSpec, about: dict[str, Any]) -> LowRankDynamics:
        """The ensemble for these agents; ``about`` says on which agents it was trained."""
        known = population(spec, int(about["agents"]), int(about["seed"]))
        factor_map, _ = fit_map(model, spec, (range(len(known)), known), self.p, int(about["seed"]))
        return unseen_model(model, factor_map, self.table(spec))


def _row(text: str, spec: EnvSpec) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(spec.covariates):
        example = ",".join(f"{covariate.default:g}" for covariate in spec.covariates)
        raise InputError(
            f"covariates {text!r} are not {', '.join(spec.covariate_names)} of {spec.name}; give such as {example}"
        )
    return values
