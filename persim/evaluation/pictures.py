"""Draw episodes as GIFs, predicted over true states (Figures 2 and 4), diagnoses and maps of agents (Figures 1 and 5).

matplotlib is slow to load, so it is imported only where it is used.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persim.data.collect import collect
from persim.data.policies import BatchPolicy
from persim.envs.spec import Array, EnvSpec, FramesFn, pictures
from persim.evaluation.diagnosis import NEGLIGIBLE, Diagnosis
from persim.evaluation.prediction import HORIZON, WARM_UP, TrueRollouts, predicted_states
from persim.planning.scoring import Dynamics
from persim.storage import store

Frame = NDArray[np.uint8]

FRAME_MS = 40
WIDTH = 400
MAX_FRAMES = 250  # of a GIF; longer episodes are thinned
HORIZONS = tuple(range(10, HORIZON + 1, 10))
TINT = np.array([31, 90, 220])  # blue, for predictions
OPACITY = 0.55
_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d9601a", "#888888"


def episode_states(spec: EnvSpec, covariates: Array, policy: BatchPolicy, rng: np.random.Generator) -> Array:
    """Record the states ``[T + 1, S]`` of one episode of an agent with covariates ``[C]``."""
    data = collect(spec, covariates[None], policy, rng)
    return np.concatenate([data.observation, data.next_observation[-1:]]).astype(np.float64)


def thinned(states: Array) -> Array:
    """Select at most ``MAX_FRAMES`` evenly spaced states of ``[T, S]``, the last one included."""
    stride = -(-len(states) // MAX_FRAMES)
    return states[(len(states) - 1) % stride :: stride]


def save_gif(frames: Iterable[Frame], path: Path) -> int:
    """Write an endless animation of frames ``[height, width, 3]``; return the number of frames."""
    images = []
    for frame in frames:
        size = (WIDTH, round(frame.shape[0] * WIDTH / frame.shape[1]))
        images.append(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS).quantize(64))
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0)
    store.write_atomic(path, buffer.getvalue())
    return len(images)


def overlay(true: Frame, predicted: Frame) -> Frame:
    """Lay the predicted picture, tinted and translucent, over the true one, both ``[height, width, 3]`` on white."""
    ink = (predicted < 250).any(-1, keepdims=True) & (predicted != true).any(-1, keepdims=True)
    tinted = (predicted.astype(float) + 2 * TINT) / 3
    mixed = np.where(ink, OPACITY * tinted + (1 - OPACITY) * true, true)
    return np.asarray(mixed.round(), dtype=np.uint8)


def draw_pair(axes: Any, draw: FramesFn, pair: Array, covariates: Array) -> None:
    """Draw the predicted over the true state, ``[2, S]`` with the true one first, of an agent ``[C]``."""
    axes.set(xticks=[], yticks=[], box_aspect=2 / 3)
    if np.isfinite(pair).all():
        axes.imshow(overlay(*draw(pair, covariates)))
    else:
        what = "prediction not finite" if np.isfinite(pair[0]).all() else "episode over"
        axes.text(0.5, 0.5, what, ha="center", transform=axes.transAxes, fontsize=9)


def prediction_figure(
    spec: EnvSpec,
    dynamics: Dynamics,
    rollouts: TrueRollouts,
    covariates: Array,
    horizons: Sequence[int],
    path: Path,
    titles: Sequence[str],
) -> None:
    """Write a PNG file with predicted over true states, a row per episode and a column per horizon (Figures 2 and 4).

    The B true episodes are of agents with covariates ``[B, C]`` and have B titles; the horizons are steps ahead, 1 to
    50, counted from the end of the warm-up.

    Raises:
        InputError: the environment has no pictures.
    """
    from matplotlib.figure import Figure

    draw, predicted = pictures(spec), predicted_states(dynamics, rollouts)
    rows, columns = len(rollouts.agents), len(horizons)
    figure = Figure(figsize=(2.4 * columns, 1.75 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, axes in enumerate(grid):
        for axis, steps in zip(axes, horizons, strict=True):
            pair = np.stack([rollouts.states[row, WARM_UP + steps], predicted[row, steps - 1]]).astype(np.float64)
            axis.set_title(f"{steps} steps ahead" if row == 0 else "", fontsize=9)
            draw_pair(axis, draw, pair, covariates[row])
        axes[0].set_ylabel(titles[row], fontsize=8)
    figure.suptitle(f"{spec.title}: true states solid, predicted states blue", fontsize=11)
    save_png(figure, path)


def save_png(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as a PNG file, without the name of the software that drew it."""
    store.write_atomic(path, drawn(figure, dpi=110, format="png", metadata={"Software": None}))


def drawn(figure: Any, **how: Any) -> bytes:
    """Draw a matplotlib figure; names in it with a ``$`` that begins no formula are drawn as they are."""
    from matplotlib.text import Text

    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, **how)
    except ValueError:
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, **how)
    return buffer.getvalue()


def draw_map(axes: Any, points: NDArray[np.float32], values: Array, label: str) -> None:
    """Draw agents at ``[N, 2]``, coloured by a covariate ``[N]``, with a colour bar; t-SNE axes have no meaning."""
    dots = axes.scatter(*points.T, c=values, cmap="viridis", s=9, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.figure.colorbar(dots, ax=axes, label=label)


def named(name: str, unit: str) -> str:
    """Write the name of a covariate with its unit, if it has one, such as ``force (N)``."""
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def diagnosis_figure(
    title: str, found: Diagnosis, points: NDArray[np.float32], maps: Sequence[tuple[str, Array]]
) -> Any:
    """Draw the energies of the terms, the energy beyond k directions, and a map of the agents per covariate.

    The maps show the agents at ``points`` ``[N, 2]``, coloured by values ``[N]`` that come with their label.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4 * (2 + len(maps)), 3.6), layout="constrained")
        axes = figure.subplots(1, 2 + len(maps))
        _draw_energies(axes[0], axes[1], found)
        for where, (label, values) in zip(axes[2:], maps, strict=True):
            draw_map(where, points, values, label)
            where.set_title("agents by their factors (t-SNE)")
        figure.suptitle(title)
    return figure


def _draw_energies(terms: Any, lost: Any, found: Diagnosis) -> None:
    """Draw the terms' energies, and on a logarithmic scale that beyond k directions, without the last point (0)."""
    members, rank = found.terms.shape
    ranks, unit, error = np.arange(1, rank + 1), "% of the recorded differences", 100 * found.error.mean()
    terms.bar(ranks, 100 * found.terms.mean(0), color=_BLUE, alpha=0.45)
    terms.scatter(np.tile(ranks, members), 100 * found.terms.ravel(), s=12, color=_BLUE)
    terms.set(title="energy of each term", xlabel="term, largest first", ylabel=unit, xticks=ranks)
    lost.plot(ranks[:-1], 100 * found.lost[:-1], "o-", color=_BLUE, label="beyond the best k directions")
    lost.axhline(error, color=_ORANGE, label="error of the model")
    lost.axhline(NEGLIGIBLE * error, color=_GREY, linestyle="--", linewidth=1, label="a tenth of it")
    lost.axvline(found.needed, color=_GREY, linestyle=":", label=f"needed: {found.needed}")
    lost.set(yscale="log", title="energy beyond k directions", xlabel="k", ylabel=unit, xticks=ranks)
    lost.legend(framealpha=1, edgecolor="none", fontsize=8)
