"""Draw what a simulator predicts: each state with its band over time, and what was done below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from persim.tables.reading import Array
from persim.tables.schema import Schema, seconds

if TYPE_CHECKING:
    import pandas as pd

_BLUE, _ORANGE, _GREY, _DARK = "#1f6fb4", "#d9601a", "#888888", "#444444"
_UNITS = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


def path_figure(title: str, schema: Schema, frame: pd.DataFrame, history: Array) -> Any:
    """Draw a frame of ``Simulator.rollout`` or ``plan``, a panel for each state and a lower one for each input.

    Args:
        title: stands above.
        schema: of the simulator.
        frame: with a row for each of H steps.
        history: ``[X]``, from which the prediction starts: its present and earlier states are drawn as dots.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    states, inputs = schema.state, schema.inputs
    heights = [2.6] * len(states) + [1.0] * len(inputs)
    scale, label = _axis(schema, len(frame))
    time: Array = np.asarray(np.arange(len(frame) + 1) * scale)
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, sum(heights) + 1), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        earlier = history[: len(states) * schema.lags].reshape(schema.lags, len(states))
        for place, (axes, name) in enumerate(zip(panels, states, strict=False)):
            _draw_state(axes, name, frame, time, earlier[:, place], scale)
        for axes, name in zip(panels[len(states) :], inputs, strict=True):
            _draw_input(axes, name, schema, frame, time)
        panels[0].set_title(title, loc="left")
        panels[0].legend(frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        panels[-1].set_xlabel(label)
        figure.align_ylabels(panels)
    return figure


def _draw_state(axes: Any, name: str, frame: pd.DataFrame, time: Array, earlier: Array, scale: float) -> None:
    path = np.append(earlier[0], frame[name])
    if f"{name}_low" in frame:
        low, high = (np.append(earlier[0], frame[f"{name}_{end}"]) for end in ("low", "high"))
        axes.fill_between(time, low, high, color=_BLUE, alpha=0.18, linewidth=0, label="band")
    axes.plot(time, path, color=_BLUE, label="predicted")
    axes.plot(-np.arange(len(earlier)) * scale, earlier, "o", color=_DARK, markersize=4, label="recorded")
    axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_ylabel(name)


def _draw_input(axes: Any, name: str, schema: Schema, frame: pd.DataFrame, time: Array) -> None:
    """An input holds from one grid point to the next."""
    action = name in schema.action
    colour = _ORANGE if action else _GREY
    values = frame[name].to_numpy()
    if action and schema.discrete:
        values = np.array([schema.labels.index(str(one)) for one in values], dtype=float)
        axes.set_yticks(range(len(schema.labels)), schema.labels)
    axes.stairs(values, time, color=colour, fill=not (action and schema.discrete), alpha=0.5, baseline=0)
    axes.stairs(values, time, color=colour, baseline=None)
    axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_ylabel(name)


def _axis(schema: Schema, steps: int) -> tuple[float, str]:
    """The length of a step on the axis of time, and the label of that axis."""
    assert schema.every is not None  # reading finds it
    every = seconds(schema.every)
    if not isinstance(schema.every, str):
        return every, f"{schema.time} from the present"
    size, unit = next((one for one in _UNITS if every * steps >= 2 * one[0]), _UNITS[-1])
    return every / size, f"{unit} from the present"
