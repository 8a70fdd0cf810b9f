"""stable-baselines3 without the banner of the old gym, which it imports if it is installed."""

import gym_notices.notices

gym_notices.notices.notices.clear()  # printed, so no warnings filter could catch it

from stable_baselines3 import PPO  # noqa: E402 (all of these: see above)
from stable_baselines3.common.logger import Logger  # noqa: E402
from stable_baselines3.common.vec_env import VecEnv  # noqa: E402

__all__ = ["PPO", "Logger", "VecEnv"]
