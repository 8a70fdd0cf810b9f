"""Draw pictures of states with gymnasium's own environments and with MuJoCo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim.envs.spec import Array
from persim.errors import InputError

WIDTH, HEIGHT = 480, 320
FARTHEST = 100.0  # drawn coordinate; what a diverged prediction puts farther is off the picture, and overflows pygame


def gymnasium_frames(env_id: str, states: Array, **attributes: float) -> Iterator[NDArray[np.uint8]]:
    """Yield gymnasium's picture ``[height, width, 3]`` of each state ``[T, S]``, after setting its ``attributes``."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draws without a window or a screen
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    picture: Any = gym.make(env_id, render_mode="rgb_array").unwrapped
    for name, value in attributes.items():
        setattr(picture, name, value)
    with closing(picture):
        for state in states:
            picture.state = np.clip(state, -FARTHEST, FARTHEST)
            yield np.asarray(picture.render())


def mujoco_frames(model: Any, positions: Array, camera_name: str) -> Iterator[NDArray[np.uint8]]:
    """Yield a picture ``[HEIGHT, WIDTH, 3]`` of each row of joint positions ``[T, nq]`` of a MuJoCo model.

    It draws without a screen, by EGL. EGL is created directly, because MUJOCO_GL has to be set before mujoco is
    first imported, and stepping has imported it already.

    Raises:
        InputError: this machine has no EGL.
    """
    import mujoco

    try:
        from mujoco.egl import GLContext

        screen = GLContext(WIDTH, HEIGHT)
    except Exception as error:  # ImportError, AttributeError or RuntimeError, depending on what is missing
        raise InputError(f"pictures of MuJoCo need EGL ({error}); install libegl1, or use another machine") from error
    with ExitStack() as stack:
        stack.callback(screen.free)
        screen.make_current()
        model.vis.global_.offwidth, model.vis.global_.offheight = WIDTH, HEIGHT
        data, scene = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=1000)
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        stack.callback(context.free)
        window = mujoco.MjrRect(0, 0, WIDTH, HEIGHT)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        camera, options = mujoco.MjvCamera(), mujoco.MjvOption()
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(camera_name).id
        for row in positions:
            data.qpos[:] = row
            mujoco.mj_forward(model, data)
            mujoco.mjv_updateScene(model, data, options, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
            mujoco.mjr_render(window, scene, context)
            picture = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
            mujoco.mjr_readPixels(picture, None, window, context)
            yield picture[::-1].copy()  # OpenGL counts rows from the bottom
