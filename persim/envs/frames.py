"""Pictures of states by gymnasium's own environments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim.envs.spec import Array


def gymnasium_frames(env_id: str, states: Array, **attributes: float) -> Iterator[NDArray[np.uint8]]:
    """Draws each state ``[T, S]`` as gymnasium does; ``attributes`` are set on its environment before."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures only: no window, no complaint without a screen
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    picture: Any = gym.make(env_id, render_mode="rgb_array").unwrapped
    for name, value in attributes.items():
        setattr(picture, name, value)
    try:
        for state in states:
            picture.state = np.array(state)
            yield np.asarray(picture.render())
    finally:
        picture.close()
