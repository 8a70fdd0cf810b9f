"""Time of a training step, one thread: ours against the plain version on autograd.

    python benchmarks/training.py [--members 1,5] [--steps 300]

Prints milliseconds per step and member, and the share of the floor: the time of the matrix products
alone (forward and backward of the state encoder, the same sizes). Ratios count, not milliseconds: the
versions are timed in turn, and the medians of five rounds are shown.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice

import numpy as np
import torch

from persim import console, seeding
from persim.data import collect_regime
from persim.envs import get
from persim.learning.gradients import FlatParameters, Minibatch, TrainingRows
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.presets import preset
from persim.learning.training import TrainSettings, _Run

ROUNDS = 5


def build(env: str, members: int) -> tuple[LowRankDynamics, TrainingRows]:
    spec = get(env)
    data = collect_regime(spec, "random", 500, seed=0)
    shape = ModelSettings(500, spec.state_dim, spec.action_dim, spec.discrete, preset(env).rank, members)
    model = LowRankDynamics(shape, [seeding.sequence(0, k) for k in range(members)])
    return model, TrainingRows(model, data, np.arange(len(data)))


def batches(rows: TrainingRows, size: int, members: int) -> Iterator[Minibatch]:
    """Minibatches without end, shuffled anew each epoch; their making is part of the time."""
    for epoch in range(10**9):
        rng = np.random.default_rng(epoch)
        for batch in rows.batches(size, [rng.permutation(len(rows)) for _ in range(members)]):
            if batch.targets.shape[-1] == size:
                yield batch


def ours(env: str, members: int) -> Callable[[int], None]:
    model, rows = build(env, members)
    size = preset(env).batch_size
    run = _Run(model, TrainSettings(batch_size=size))
    source = batches(rows, size, members)

    @torch.no_grad()
    def steps(count: int) -> None:
        for batch in islice(source, count):
            run.step(batch, 1e-3)

    return steps


def plain(env: str, members: int) -> Callable[[int], None]:
    model, rows = build(env, members)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    source = batches(rows, preset(env).batch_size, members)

    def steps(count: int) -> None:
        for batch in islice(source, count):
            delta = model.delta(batch.agents[:, 0], batch.states[:, :-1], batch.actions[:, :-1])
            loss = (delta - batch.targets).square().mean((1, 2)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return steps


def floor(env: str, members: int) -> Callable[[int], None]:
    """Only the matrix products of the state encoder: two forward, three backward."""
    model, rows = build(env, members)
    size = preset(env).batch_size
    FlatParameters(model)
    first, second = (layer.data for layer in model.state_layers)
    states = next(batches(rows, size, members)).states
    hidden = torch.ones(members, second.shape[2], size)
    out = torch.empty(members, second.shape[1], size)
    products = [
        (first, states, hidden[:, :-1]),
        (second, hidden, out),
        (out, hidden.mT, torch.empty_like(second)),
        (second[:, :, :-1].mT, out, torch.empty_like(hidden[:, :-1])),
        (torch.empty_like(hidden[:, :-1]), states.mT, torch.empty_like(first)),
    ]

    @torch.no_grad()
    def steps(count: int) -> None:
        for left, right, into in islice(cycle(products), count * len(products)):
            torch.bmm(left, right, out=into)

    return steps


def milliseconds(steps: Callable[[int], None], count: int, members: int) -> float:
    start = time.perf_counter()
    steps(count)
    return (time.perf_counter() - start) / count / members * 1e3


def main() -> None:
    p = console.Parser(prog="training.py", description=__doc__)
    p.add_argument("--members", type=console.numbers, default=(1, 5), help="members trained at once (1,5)")
    p.add_argument("--steps", type=int, default=300, help="steps per round (300)")
    args = p.parse_args()
    torch.set_num_threads(1)
    print("ms per step and member, one thread, median of five interleaved rounds")
    names = ("batch", "members", "ours", "autograd", "ratio", "floor", "reached")
    print(f"{'environment':<12} {names[0]:>5} " + " ".join(f"{name:>8}" for name in names[1:]))
    for env in ("mountaincar", "cartpole"):
        for members in args.members:
            versions = [make(env, members) for make in (ours, plain, floor)]
            for version in versions:
                version(20)
            rounds = [[milliseconds(version, args.steps, members) for version in versions] for _ in range(ROUNDS)]
            mine, autograd, least = (statistics.median(column) for column in zip(*rounds, strict=True))
            sizes = f"{env:<12} {preset(env).batch_size:>5} {members:>8}"
            print(f"{sizes} {mine:8.3f} {autograd:8.3f} {autograd / mine:7.1f}x {least:8.3f} {least / mine:8.0%}")


if __name__ == "__main__":
    main()
