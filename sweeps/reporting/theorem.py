"""Theorem 1 in numbers: what a sum of r terms misses of the true dynamics, against r."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from persim.learning.presets import preset
from persim.methods.job import TENSOR
from persim.storage import store
from persim.storage.cells import FinishedCell
from sweeps.reporting.draw import drawn, tensor_figure
from sweeps.reporting.page import Entry, Figure, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, Results

SUITE = "theorem1"
EXACT = 1e-10  # an error below is rounding
_METRICS, _INSIDE = ("error", "max_error", "cover_error"), "inside_error"
Curves = dict[str, dict[int, float]]  # by metric the value of each rank
_MEANING = (
    "Theorem 1: a sum of r terms u(agent) v(state, dimension) w(action) comes close to the true dynamics. Here these "
    "are a tensor agent × action × (state, dimension) of true state differences, in states that random data "
    "visit, each dimension in units of its root mean square, and the sums are the best that alternating least squares "
    "finds from several starts. The error is the norm of what is missing as a share of the tensor's; the largest error "
    "of one entry is what the theorem bounds. The theorem's proof builds a sum, too: constant on the cells of a "
    "partition of agents and actions, knowing the covariates; its error with as many terms stands beside. Where steps "
    "from some of the states end at a bound of the state space (a wall, the top speed), the error without these states "
    "is shown, too: Proposition 1 knows no bounds."
)


def theorem(results: Results) -> list[Section]:
    """A figure, a table and what one sees in them."""
    found = curves(done for done in results.cells if done.labels.get(SUITE, "smoke") != "smoke")
    title = "Theorem 1: the true dynamics as sums of r terms"
    if not found:
        return [Section(title, SUITE, (_MEANING, "Nothing has measured it yet."))]
    panels = {ENV_TITLES.get(env, env): (own, preset(env).rank) for env, (_, own) in found.items()}
    caption = (
        "Error of the best sum of r terms that was found, its largest error of one entry, and the error of the sum "
        "that the theorem's proof builds, against r; the vertical line is the rank that the paper chose by "
        "cross-validation."
    )
    figure = Figure(SUITE, drawn(SUITE, lambda: tensor_figure(panels)), caption)
    seen = tuple(sentence(env, own) for env, (_, own) in found.items())
    return [Section(title, SUITE, (_MEANING, " ".join(seen)), (table(found),), (figure,))]


def curves(cells: Iterable[FinishedCell]) -> dict[str, tuple[int, Curves]]:
    """By environment the number of trials and the worst of them for each metric and rank.

    Of trials of different sizes those that were measured last are taken.
    """
    groups: dict[str, dict[str, list[FinishedCell]]] = {}
    for done in cells:
        if done.cell.what == TENSOR:
            size = store.canonical_json([done.cell.agents, done.cell.regime, done.cell.measure])
            groups.setdefault(done.cell.env, {}).setdefault(size, []).append(done)
    last = {env: max(sizes.values(), key=lambda own: max(one.ended for one in own)) for env, sizes in groups.items()}
    return {env: (len(last[env]), _worst(last[env])) for env in sorted(last, key=_place)}


def _place(env: str) -> tuple[int, str]:
    known = list(ENV_TITLES)
    return known.index(env) if env in known else len(known), env


def _worst(cells: Sequence[FinishedCell]) -> Curves:
    ranks = cells[0].cell.measure["ranks"]
    found = {
        metric: {
            rank: max(done.value(name) for done in measured)
            for rank in ranks
            if (name := f"tensor_{metric}_rank_{rank}") and (measured := [done for done in cells if done.has(name)])
        }
        for metric in (*_METRICS, _INSIDE)
    }
    return {**found, "clipped": {0: max(done.value("tensor_clipped") for done in cells)}}


def sentence(env: str, own: Curves) -> str:
    """What one sees in an environment."""
    title, errors, chosen = ENV_TITLES.get(env, env), own["error"], preset(env).rank
    inside = own[_INSIDE] or errors
    exact = next((rank for rank, error in inside.items() if error < EXACT), None)
    if exact is not None:
        fewer = [error for rank, error in inside.items() if rank < exact]
        told = [f"{title} is exact with {exact} terms (the paper's rank: {chosen})"]
        if own[_INSIDE]:
            told[0] += " in states from which no step ends at a bound of the state space"
        told += [f"one term fewer misses {fewer[-1]:.2g}"] if fewer else []
        if own[_INSIDE] and exact in errors:
            told.append(
                f"with the other {100 * own['clipped'][0]:.1f} % of states {exact} terms miss {errors[exact]:.2g}"
            )
        told.append(f"the proof's sum of {exact} terms misses {own['cover_error'][exact]:.2g}")
        return "; ".join(told) + "."
    last = max(errors)
    near = max((rank for rank in errors if rank <= chosen), default=last)
    entries = " and ".join(f"{own['max_error'][rank]:.2g}" for rank in (near, last))
    return (
        f"{title} is exact with none of these ranks: {near} terms (the paper's rank: {chosen}) miss {errors[near]:.2g} "
        f"of the norm and {last} terms {errors[last]:.2g}; the largest error of one entry is {entries} root mean "
        "squares of its dimension."
    )


def table(found: dict[str, tuple[int, Curves]]) -> Table:
    """The errors of all ranks and environments."""
    ranks = sorted({rank for _, own in found.values() for rank in own["error"]})
    rows = tuple((Entry((f"{rank}",)), *(_entry(own, rank) for _, own in found.values())) for rank in ranks)
    trials = [f"{ENV_TITLES.get(env, env)}\n{count} trial{'s' * (count > 1)}" for env, (count, _) in found.items()]
    caption = (
        "Error of the best sum of r terms, the largest of the trials [without states that a bound clips] (of one "
        "entry; of the proof's sum)"
    )
    note = f"A column ends with the first rank whose errors are rounding; exact: below {EXACT:g}."
    return Table(caption, ("rank r", *trials), rows, (note,))


def _entry(own: Curves, rank: int) -> Entry:
    if rank not in own["error"]:
        return text("–")
    error, entry, proof = (_number(own[metric][rank]) for metric in _METRICS)
    inside = f" [{_number(own[_INSIDE][rank])}]" if rank in own[_INSIDE] else ""
    return text(f"{error}{inside} ({entry}; {proof})")


def _number(value: float) -> str:
    return "exact" if value < EXACT else f"{value:.2g}"
