"""Updates a second of BCQ and CQL: ours, which feed d3rlpy's algorithms, beside d3rlpy's own ``fit``.

    python benchmarks/model_free.py

Settings and batches of the paper (Appendix D.2), one thread, random data; the two take turns, so that the
ratio holds on a busy machine. Theirs are the stock algorithms, which differ in what our
baselines/model_free/algorithms.py mends.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import structlog
import torch

from baselines.model_free.learner import Learner, Transitions
from baselines.model_free.quiet import d3rlpy
from baselines.model_free.settings import PAPER_UPDATES, offline_settings
from persim.data import Trajectories, collect_regime
from persim.data.collect import collect, population
from persim.data.policies import UniformPolicy
from persim.envs import get

TURNS = 5


def recorded(env: str) -> Trajectories:
    spec = get(env)
    if spec.discrete:
        return collect_regime(spec, "random", 100, 0)
    rng = np.random.default_rng(0)
    return collect(spec, population(spec, 10, 0), UniformPolicy(spec.action_space), rng, horizon=200)


def ours(algorithm: str, data: Trajectories) -> Callable[[int], None]:
    settings, rows = offline_settings(algorithm, PAPER_UPDATES[algorithm]), Transitions([data], "cpu")
    learner = Learner(settings, data.state_dim, data.action_space, np.random.SeedSequence(0), "cpu")
    rng = np.random.default_rng(0)

    def run(updates: int) -> None:
        for step in range(1, updates + 1):
            learner.update(rows.batch(torch.from_numpy(rng.integers(len(rows), size=settings.batch_size))), step)

    return run


def theirs(algorithm: str, data: Trajectories) -> Callable[[int], None]:
    configs: dict[str, Any] = {
        "discrete_bcq": d3rlpy.algos.DiscreteBCQConfig(batch_size=64, learning_rate=3e-4, share_encoder=False),
        "bcq": d3rlpy.algos.BCQConfig(
            actor_encoder_factory=d3rlpy.models.VectorEncoderFactory([400, 300]),
            critic_encoder_factory=d3rlpy.models.VectorEncoderFactory([400, 300]),
            imitator_encoder_factory=d3rlpy.models.VectorEncoderFactory([750, 750]),
            n_action_samples=10,
        ),
        "discrete_cql": d3rlpy.algos.DiscreteCQLConfig(n_critics=3, batch_size=512, learning_rate=1e-4),
        "cql": d3rlpy.algos.CQLConfig(actor_learning_rate=3e-5, critic_learning_rate=3e-4),
    }
    space = d3rlpy.ActionSpace.DISCRETE if data.discrete else d3rlpy.ActionSpace.CONTINUOUS
    dataset = d3rlpy.dataset.MDPDataset(
        data.observation,
        data.action.reshape(len(data), -1),
        data.reward,
        data.terminated.astype(np.float32),
        timeouts=(data.truncated | (np.append(data.step[1:] == 0, True) & ~data.terminated)).astype(np.float32),
        action_space=space,
        action_size=data.action_dim,
    )
    learner = configs[algorithm].create(device="cpu")

    def run(updates: int) -> None:
        learner.fit(
            dataset,
            n_steps=updates,
            n_steps_per_epoch=updates,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )

    return run


def milliseconds(run: Callable[[int], None], updates: int) -> float:
    started = time.perf_counter()
    run(updates)
    return (time.perf_counter() - started) / updates * 1e3


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # fit warns at every call
    print(f"{'algorithm':<14}{'ours, ms':>10}{'a second':>10}{'d3rlpy fit, ms':>16}{'ratio':>8}{'paper budget':>14}")
    for algorithm, updates in {"discrete_bcq": 200, "discrete_cql": 60, "bcq": 20, "cql": 12}.items():
        data = recorded("cartpole" if algorithm.startswith("discrete") else "halfcheetah")
        pair = ours(algorithm, data), theirs(algorithm, data)
        for run in pair:
            run(3)  # warm
        turns = [[milliseconds(run, updates) for run in pair] for _ in range(TURNS)]
        own, other = (median(column) for column in zip(*turns, strict=True))
        ratio = median(b / a for a, b in turns)
        hours = own * PAPER_UPDATES[algorithm] / 3.6e6
        print(f"{algorithm:<14}{own:>10.2f}{1e3 / own:>10.0f}{other:>16.2f}{ratio:>8.2f}{hours:>12.1f} h", flush=True)


if __name__ == "__main__":
    main()
