"""Options of agents that were never observed, shared by several commands, and the method that acts for them."""

from __future__ import annotations

import argparse

import numpy as np

from persim import console
from persim.cli.training import GivenModel, read_model
from persim.data.collect import population
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.learning.unseen import fit_map, known_agents, unseen_model
from persim.methods import Method, PerSim, UnseenAgents


def add_unseen_options(p: console.Parser) -> None:
    """Add the options that say which agents to place by their covariates, and from how many."""
    p.add_argument("--covariates", nargs="+", metavar="ROW", help="test agents that were never observed instead, each\n"
                   "by its covariates, such as 0.002, or 2,0.5 if there are two")  # fmt: skip
    p.add_argument("--p", type=float, help="share of the training agents that --covariates learns from (1)")


def asked_method(args: argparse.Namespace, spec: EnvSpec, ours: PerSim, device: str) -> tuple[Method, int, Array]:
    """The method that the options ask for.

    Args:
        args: the options.
        spec: the environment.
        ours: PerSim with the settings of the command line.
        device: where a model is read to.

    Returns:
        The method, N, and the covariates ``[M, C]`` of agents that are not in the data; M is 0 if none are asked for.

    Raises:
        InputError: a model cannot be read, or covariates or ``--p`` do not fit.
    """
    model, about = (None, {}) if args.model is None else read_model(args.model, spec, args.regime, device)
    n_agents = args.agents if model is None else int(about["agents"])
    unseen, p = np.empty((0, len(spec.covariates))), 1.0 if args.p is None else args.p
    if args.covariates is not None:
        unseen = spec.covariate_rows([_row(text, spec) for text in args.covariates])
        known_agents(n_agents, p, 0)  # refuses a share that leaves too few
    elif args.p is not None:
        raise InputError("--p is of use with --covariates only; give those, too, or leave it out")
    if model is None:
        return UnseenAgents(ours, p) if len(unseen) else ours, n_agents, unseen
    if len(unseen):
        seed = int(about["seed"])
        factor_map, _ = fit_map(model, spec, (range(n_agents), population(spec, n_agents, seed)), p, seed)
        model = unseen_model(model, factor_map, unseen)
    return GivenModel(model, about, ours.settings), n_agents, unseen


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
