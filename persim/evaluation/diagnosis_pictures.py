"""Pictures of a diagnosis, and of the map of agents that their factors give (Figures 1 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persim.envs.spec import Array, Covariate
from persim.evaluation.diagnosis import NEGLIGIBLE, Diagnosis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d9601a", "#888888"


def draw_map(axes: Any, points: NDArray[np.float32], values: Array, label: str) -> None:
    """Agents ``[N, 2]`` coloured by a covariate ``[N]``, with a colour bar; the axes of a t-SNE mean nothing."""
    dots = axes.scatter(*points.T, c=values, cmap="viridis", s=9, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.figure.colorbar(dots, ax=axes, label=label)


def with_unit(covariate: Covariate) -> str:
    """Such as ``force (N)``."""
    return named(covariate.name, covariate.unit)


def named(name: str, unit: str) -> str:
    """A covariate's name with its unit, if it has one."""
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def diagnosis_figure(
    title: str, found: Diagnosis, points: NDArray[np.float32], maps: Sequence[tuple[str, Array]]
) -> Figure:
    """Energies of terms, what fewer directions lose, and the map of the agents in the colours of each covariate.

    Args:
        title: of the figure.
        found: the diagnosis.
        points: where each agent is on the map ``[N, 2]``; not looked at where there are no ``maps``.
        maps: label and values ``[N]`` of each covariate.
    """
    import matplotlib as mpl  # imported late: slow, and only this needs it
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4 * (2 + len(maps)), 3.6), layout="constrained")
        axes = figure.subplots(1, 2 + len(maps))
        _draw_terms(axes[0], found)
        _draw_lost(axes[1], found)
        for where, (label, values) in zip(axes[2:], maps, strict=True):
            draw_map(where, points, values, label)
            where.set_title("agents by their factors (t-SNE)")
        figure.suptitle(title)
    return figure


def _draw_terms(axes: Any, found: Diagnosis) -> None:
    members, rank = found.terms.shape
    ranks = np.arange(1, rank + 1)
    axes.bar(ranks, 100 * found.terms.mean(0), color=_BLUE, alpha=0.45)
    axes.scatter(np.tile(ranks, members), 100 * found.terms.ravel(), s=12, color=_BLUE)
    axes.set(title="energy of each term", xlabel="term, largest first", ylabel="% of the recorded differences")
    axes.set_xticks(ranks)


def _draw_lost(axes: Any, found: Diagnosis) -> None:
    """On a logarithmic scale, where the last point, 0, has no place: it is left out."""
    ranks, error = np.arange(1, found.terms.shape[1] + 1), 100 * found.error.mean()
    axes.plot(ranks[:-1], 100 * found.lost[:-1], "o-", color=_BLUE, label="beyond the best k directions")
    axes.axhline(error, color=_ORANGE, label="error of the model")
    axes.axhline(NEGLIGIBLE * error, color=_GREY, linestyle="--", linewidth=1, label="a tenth of it")
    axes.axvline(found.needed, color=_GREY, linestyle=":", label=f"needed: {found.needed}")
    axes.set(yscale="log", title="energy beyond k directions", xlabel="k", ylabel="% of the recorded differences")
    axes.set_xticks(ranks)
    axes.legend(framealpha=1, edgecolor="none", fontsize=8)
