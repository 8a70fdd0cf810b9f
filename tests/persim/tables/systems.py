"""Linear systems of several agents, whose dynamics are known."""

import numpy as np
import pandas as pd

from persim import Schema

SCHEMA = Schema(agent="house", time="hour", state=["x"], action=["u"], known=["k"], static=["size"], every=1)


def weights(size):
    """What ``x``, ``u`` and ``k`` weigh in the next state of houses of these sizes."""
    return 0.9 - 0.1 * size, 0.5 * size, 0.3 + 0 * size


def frame(agents=8, steps=120, seed=0, noise=0.0, prefix="h"):
    """Houses ``h0``, ``h1``, ... whose next state is linear; ``noise`` is one deviation, or one of each.

    Their sizes do not depend on the seed.
    """
    rng = np.random.default_rng(seed)
    size = np.round(np.random.default_rng(0).uniform(1, 3, agents), 2)
    a, b, c = weights(size)
    u, k = rng.normal(size=(2, agents, steps))
    x = np.zeros((agents, steps))
    x[:, 0] = rng.normal(size=agents)
    for t in range(steps - 1):
        x[:, t + 1] = a * x[:, t] + b * u[:, t] + c * k[:, t] + 1 + noise * rng.normal(size=agents)
    house = np.repeat([f"{prefix}{number}" for number in range(agents)], steps)
    columns = {"x": x.ravel(), "u": u.ravel(), "k": k.ravel(), "size": np.repeat(size, steps)}
    return pd.DataFrame({"house": house, "hour": np.tile(np.arange(steps), agents), **columns})
