"""Time of the polish at the end of training, one thread: ours against plain least squares on all products.

    python benchmarks/polish.py [--regime pure]

Prints seconds of a round for one member: ours; the Gram matrix alone of the plain form, whose inputs are the R F
products of the factors u w and the F hidden units of every transition; and the floor, the Gram matrices of the hidden
units of each agent and action. Ratios count, not seconds: the versions are timed in turn, and the medians of three
rounds are shown.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from persim import console, seeding
from persim.data import collect_regime
from persim.envs import get
from persim.learning.model import LowRankDynamics
from persim.learning.polish import BLOCK, PolishSettings, _chunks, _Rows, _Weights, polish
from persim.learning.presets import preset

ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.no_grad()
def versions(env: str, regime: str) -> tuple[int, list[Callable[[], object]]]:
    spec = get(env)
    data = collect_regime(spec, regime, 500, seed=0)
    model = LowRankDynamics(preset(env).shape(data, preset(env).rank, 1), [seeding.sequence(0)])
    rows, weights = _Rows(model, data, np.arange(len(data))), _Weights(model)
    blocks = torch.split(torch.arange(len(rows)), BLOCK)
    chunks = torch.split(_chunks(rows, discrete=True), BLOCK // 64)

    def ours() -> None:
        polish(model, data, PolishSettings(1), np.random.default_rng(0))

    @torch.no_grad()
    def plain() -> None:
        for index in blocks:
            units, _, w, _ = weights.errors(rows, index)
            uw = weights.agent[:, :, rows.agents[index]] * w
            inputs = (uw.unsqueeze(2) * units.unsqueeze(1)).flatten(1, 2)[0]
            inputs @ inputs.T

    @torch.no_grad()
    def floor() -> None:
        for block in chunks:
            units = weights.units(rows.states[:, block.clamp(min=0).flatten()])[0]
            own = units.view(len(units), *block.shape).transpose(0, 1)
            torch.bmm(own, own.mT)

    return len(data), [ours, plain, floor]


def main() -> None:
    p = console.Parser(prog="polish.py", description=__doc__)
    p.add_argument("--regime", default="pure", help="how the data were recorded (pure)")
    args = p.parse_args()
    torch.set_num_threads(1)
    print("seconds a round for one member, one thread, median of three interleaved rounds")
    print(f"{'environment':<12} {'transitions':>12} {'ours':>8} {'plain Gram':>11} {'ratio':>8} {'floor':>8}")
    for env in ("mountaincar", "cartpole"):
        count, works = versions(env, args.regime)
        rounds = [[seconds(work) for work in works] for _ in range(ROUNDS)]
        mine, plain, least = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{env:<12} {count:>12} {mine:8.2f} {plain:11.2f} {plain / mine:7.1f}x {least:8.2f}")


if __name__ == "__main__":
    main()
