"""Train a simulator of every agent, see how well it predicts, and plan with it.

Called as ``persim COMMAND``, or ``python -m persim COMMAND``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from persim import __version__, console
from persim.cli import (
    adapt,
    check,
    collect,
    compare,
    diagnose,
    evaluate,
    fit,
    plan,
    policies,
    predict,
    render,
    rollout,
    synthesise,
)
from persim.learning.training import DivergenceError


def parser() -> console.Parser:
    """The command line."""
    p = console.Parser(prog="persim", description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--version", action="version", version=f"persim {__version__}")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (collect, predict, diagnose, evaluate, synthesise, render, policies):
        command.add(commands)
    for command in (check, fit, compare, adapt, rollout, plan):  # on tables of your own
        command.add(commands)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = parser().parse_args(argv)
    torch.set_num_threads(1)  # these networks are too small for two; see docs/performance.md
    try:
        return int(args.run(args))
    except DivergenceError as error:
        print(f"error: {error}; try a lower learning rate or other data", file=sys.stderr)
        return 1


def script() -> int:
    """Run ``main`` with one-line errors; the console script ``persim`` calls this."""
    return console.run(main)
