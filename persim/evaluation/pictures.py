"""Pictures: an episode as a GIF, and predicted over true states (Figures 2 and 4)."""

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
from persim.evaluation.prediction import HORIZON, WARM_UP, Dynamics, TrueRollouts, predicted_states
from persim.storage import store

Frame = NDArray[np.uint8]

FRAME_MS = 40
WIDTH = 400
MAX_FRAMES = 250  # of a GIF: long episodes show every few steps
HORIZONS = tuple(range(10, HORIZON + 1, 10))
TINT = np.array([31, 90, 220])  # of predictions: blue
OPACITY = 0.55


def episode_states(spec: EnvSpec, covariates: Array, policy: BatchPolicy, rng: np.random.Generator) -> Array:
    """States ``[T + 1, S]`` of one episode of an agent with these covariates ``[C]``."""
    data = collect(spec, covariates[None], policy, rng)
    return np.concatenate([data.observation, data.next_observation[-1:]]).astype(np.float64)


def thinned(states: Array) -> Array:
    """At most ``MAX_FRAMES`` states, evenly spaced, the last one included."""
    stride = -(-len(states) // MAX_FRAMES)
    return states[(len(states) - 1) % stride :: stride]


def save_gif(frames: Iterable[Frame], path: Path) -> int:
    """Writes an animation that repeats for ever; returns its number of frames."""
    images = [_small(Image.fromarray(frame)) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0)
    store.write_atomic(path, buffer.getvalue())
    return len(images)


def _small(image: Image.Image) -> Image.Image:
    height = round(image.height * WIDTH / image.width)
    return image.resize((WIDTH, height), Image.Resampling.LANCZOS).quantize(64)


def overlay(true: Frame, predicted: Frame) -> Frame:
    """The true picture, solid, under the predicted one, translucent and tinted; white is background."""
    ink = (predicted < 250).any(-1, keepdims=True) & (predicted != true).any(-1, keepdims=True)
    tinted = (predicted.astype(float) + 2 * TINT) / 3
    mixed = np.where(ink, OPACITY * tinted + (1 - OPACITY) * true, true)
    return np.asarray(mixed.round(), dtype=np.uint8)


def draw_pair(axes: Any, draw: FramesFn, pair: Array, covariates: Array) -> None:
    """The true state and the predicted one ``[2, S]`` of an agent ``[C]``, one over the other."""
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
    """Draws predictions over the truth, a row per episode and a column per horizon, as in Figures 2 and 4.

    Args:
        spec: the environment, with pictures.
        dynamics: the model.
        rollouts: B true episodes.
        covariates: ``[B, C]``.
        horizons: steps ahead, 1 to 50, counted from the end of the warm-up.
        path: a PNG file.
        titles: of the rows.

    Raises:
        InputError: the environment has no pictures.
    """
    from matplotlib.figure import Figure  # imported late: slow, and only this needs it

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
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    store.write_atomic(path, buffer.getvalue())
