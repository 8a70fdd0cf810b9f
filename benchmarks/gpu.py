"""Training and planning on one GPU, in HalfCheetah at the paper's settings; under eight minutes.

    python benchmarks/gpu.py [--quick] [--members 7]

It needs persim, PyTorch, Gymnasium and MuJoCo, nothing else. Without a GPU it says so and exits with status 2. Data and
weights are random: nothing here takes longer or shorter for what they are. Shown are medians:

    products   one layer of an encoder for all members: rows of 257 numbers, as weights are stored, and of 264, aligned
    training   an optimiser step by calls, replayed without branches, replayed, and in bfloat16; what an ensemble takes
    planning   a decision of the cross-entropy method for 1, 15 and 100 episodes, by layers, with the fused product,
               and as deviations from an imitated policy
    memory     the most that was allocated

TFLOP/s count the products of the networks alone, and the share is of the card's peak in the same precision, dense.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch

from persim import console, seeding
from persim.data import Trajectories
from persim.envs import get
from persim.learning import cuda_graph, gradients
from persim.learning.cuda_graph import Branch
from persim.learning.gradients import TrainingRows
from persim.learning.imitation import Imitation
from persim.learning.layers import uniform_layer
from persim.learning.model import LowRankDynamics
from persim.learning.presets import EPOCHS, MEMBERS, preset
from persim.learning.training import PRECISIONS, TrainSettings, _Run
from persim.planning.planner import Planner
from persim.planning.prepared import PreparedScorer
from persim.planning.registry import make_planner, planner_settings
from persim.planning.scoring import MEAN, Objective

AGENTS, STEPS = 500, 1000
SPEC, NETS = get("halfcheetah"), preset("halfcheetah")
# TFLOP/s of H100 and H200 (SXM) without sparsity; other cards show no share that means anything.
PEAK = dict(zip(PRECISIONS, (67.0, 990.0), strict=True))
EXACT, SHORT = PRECISIONS
EPISODES = (1, 15, 100)
FUSED, PRIOR = ", fused", ", deviations"


def random_data(agents: int) -> Trajectories:
    rng, count = np.random.default_rng(0), agents * STEPS
    states = rng.normal(size=(count, SPEC.state_dim)).astype(np.float32)
    off = np.zeros(count, dtype=bool)
    return Trajectories(
        env=SPEC.name, n_agents=agents, action_space=SPEC.action_space, agent=np.repeat(np.arange(agents), STEPS),
        step=np.tile(np.arange(STEPS), agents), observation=states,
        action=rng.uniform(-1, 1, (count, SPEC.action_dim)).astype(np.float32),
        next_observation=states + 0.1 * rng.normal(size=states.shape).astype(np.float32),
        reward=np.zeros(count, np.float32), terminated=off, truncated=off,
    )  # fmt: skip


def multiplications(model: LowRankDynamics, *, actions: bool, prior: bool = False) -> float:
    """Of one transition in all members, in TFLOP."""
    layers = [*model.state_layers, *(model.action_layers if actions else [])]
    layers += model.imitation.layers if prior and model.imitation else []
    return 2e-12 * sum(layer.numel() for layer in layers)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median of the time until the GPU has done it."""
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found)


def line(label: str, ms: float, tflop: float, precision: str) -> None:
    rate = tflop / ms * 1e3
    print(f"  {label:<44} {ms:10.3f} ms {rate:8.1f} TFLOP/s {rate / PEAK[precision]:6.1%}", flush=True)


def products(members: int) -> None:
    print(f"\nproducts: 256 units, batch {NETS.batch_size}, {members} members")
    for width in (257, 264):
        for precision in PEAK:
            kind = getattr(torch, precision)
            left = torch.ones(members, 256, width, device="cuda", dtype=kind)
            right = torch.ones(members, width, NETS.batch_size, device="cuda", dtype=kind)
            out = torch.empty(members, 256, NETS.batch_size, device="cuda", dtype=kind)

            def work(left: torch.Tensor = left, right: torch.Tensor = right, out: torch.Tensor = out) -> torch.Tensor:
                for _ in range(100):
                    torch.bmm(left, right, out=out)
                return out

            replayed = cuda_graph.Replayed(work, out.device)
            for _ in range(cuda_graph.WARM_UP + 1):
                replayed()
            ms = milliseconds(replayed, 10) / 100
            line(f"{precision}, rows of {width}", ms, 2e-12 * members * 256 * width * NETS.batch_size, precision)


def epoch_ms(data: Trajectories, members: int, precision: str, mode: str) -> tuple[float, float, float]:
    """Milliseconds of a step, of an epoch with the orders drawn, and the TFLOP of a step."""
    model = LowRankDynamics(NETS.shape(data, NETS.rank, members), [seeding.sequence(0, k) for k in range(members)])
    model = model.to("cuda")
    model.fit_scales(torch.from_numpy(data.observation), torch.from_numpy(data.delta))
    rows = TrainingRows(model, data, np.arange(len(data)))
    run, rng = _Run(model, TrainSettings(batch_size=NETS.batch_size, precision=precision)), np.random.default_rng(0)
    orders = [rng.permutation(len(data)) for _ in range(members)]
    still = patch.object(gradients, "Branch", lambda device: Branch(torch.device("cpu")))
    called = patch.object(cuda_graph.Replayed, "__call__", lambda self: self._function())
    with torch.no_grad():
        if mode != "branches":
            still.start()
        if mode == "calls":
            called.start()
        try:
            run.start_epoch(rows, orders)
            steps = len(run.start_epoch(rows, orders))
            ms = milliseconds(lambda: run.start_epoch(rows, orders), 3)
        finally:
            patch.stopall()

        def whole() -> None:
            squared = run.start_epoch(rows, orders)
            drawn = [rng.permutation(len(data)) for _ in range(members)]
            assert len(drawn) == members
            run.end_epoch(rows, squared)

        whole_ms = milliseconds(whole, 2) if mode == "branches" else float("nan")
    return ms / steps, whole_ms, 3 * NETS.batch_size * multiplications(model, actions=True)


def training(quick: bool, most: int) -> None:
    data = random_data(50 if quick else AGENTS)
    print(f"\ntraining: {len(data):,} rows, batch {NETS.batch_size}, rank {NETS.rank}")
    for members in (1, MEMBERS, most):
        for mode, precision in (("calls", EXACT), ("replays", EXACT), ("branches", EXACT), ("branches", SHORT)):
            ms, whole, tflop = epoch_ms(data, members, precision, mode)
            line(f"step, {members} members, {mode}, {precision}", ms, tflop, precision)
            if mode == "branches":
                seconds = EPOCHS * whole / 1e3 * AGENTS * STEPS / len(data)
                print(f"    {EPOCHS} epochs of {AGENTS * STEPS:,} rows: {seconds:.0f} s", flush=True)


def imitation(model: LowRankDynamics) -> Imitation:
    sizes, rng = [SPEC.state_dim + NETS.rank, *NETS.imitation, SPEC.action_dim], np.random.default_rng(0)
    layers = [uniform_layer((MEMBERS, out, into + 1), into, rng) for into, out in pairwise(sizes)]
    space = torch.stack([torch.zeros(SPEC.action_dim), torch.ones(SPEC.action_dim)])
    return Imitation(layers, torch.full((MEMBERS,), 0.5), space).to(model.device)


def planners(model: LowRankDynamics) -> list[tuple[str, str, Planner]]:
    goal, settings = Objective(SPEC, rollout=MEAN, penalty=10.0), planner_settings("cem", SPEC.name)
    found = []
    for precision, way in ((EXACT, ""), (SHORT, ""), (SHORT, FUSED), (SHORT, PRIOR)):
        scorer = PreparedScorer(model, goal, precision, prior=way == PRIOR)
        if way == FUSED:
            try:
                from fused import FusedProduct
            except ImportError as error:
                print(f"  the fused product is left out: {error}")
                continue
            scorer.product = FusedProduct(model)
        planner = make_planner("cem", scorer, SPEC.action_space, settings, deviates=scorer.deviates)
        found.append((f"{precision}{way}", precision, planner))
    return found


def planning(quick: bool) -> None:
    shape = NETS.shape(random_data(5), NETS.rank, MEMBERS)
    model = LowRankDynamics(shape, [seeding.sequence(0, k) for k in range(MEMBERS)]).to("cuda")
    model.fit_scales(torch.randn(999, SPEC.state_dim), 0.1 * torch.randn(999, SPEC.state_dim))
    model.imitation = imitation(model)
    settings = planner_settings("cem", SPEC.name)
    sizes = f"{settings.plans} plans, horizon {settings.horizon}, 6 rounds, {MEMBERS} members"
    print(f"\nplanning: a decision of cem, {sizes}")
    for label, precision, planner in planners(model):
        prior = label.endswith(PRIOR)
        tflop = multiplications(model, actions=prior, prior=prior) * 6 * settings.plans * settings.horizon
        for episodes in EPISODES:
            rng = np.random.default_rng(0)
            states, agents = rng.normal(size=(episodes, SPEC.state_dim)), np.arange(episodes) % shape.n_agents

            def decide(planner: Planner = planner, states: np.ndarray = states, agents: np.ndarray = agents) -> None:
                planner.search(states, agents, None, np.random.default_rng(1))

            try:
                decide()
                ms = milliseconds(decide, 3 if quick else 10)
            except Exception as error:  # of Triton, which has many kinds: the rest should still be measured
                print(f"  {label}, {episodes} episodes: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                break
            line(f"{label}, {episodes} episodes", ms, tflop * episodes, precision)


def main(argv: list[str] | None = None) -> int:
    p = console.Parser(prog="gpu.py", description=__doc__)
    p.add_argument("--quick", action="store_true", help="a tenth of the rows, fewer decisions")
    p.add_argument("--members", type=int, default=7, help="trained at once, beside 1 and 5 (7)")
    args = p.parse_args(argv)
    if not torch.cuda.is_available():
        print("no GPU")
        return 2
    started = time.perf_counter()
    card = torch.cuda.get_device_properties(0)
    print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, PyTorch {torch.__version__}")
    parts = {"products": lambda: products(args.members), "planning": lambda: planning(args.quick),
             "training": lambda: training(args.quick, args.members)}  # fmt: skip
    for name, part in parts.items():
        torch.cuda.reset_peak_memory_stats()
        part()
        print(f"  memory of {name}: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
