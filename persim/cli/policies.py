"""The command ``persim train-policies``: train the policies that the package ships."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from persim.cli.training import Commands
from persim.data.policies import WEIGHTS_FOLDER, weights_path
from persim.envs import get
from persim.errors import InputError, check_at_least, check_choice, check_seed
from persim.storage import store


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "train-policies",
        help="train the policies that record data and that the prediction test plays (needs stable-baselines3)",
        description="Train policies by DQN (MountainCar, CartPole) or TD3 (HalfCheetah): a behaviour policy on each\n"
        "policy-training agent of Table 4, to record the data of the regimes pure*, until its training\n"
        "episodes earn about as much as the paper says (Section 5.1); and the test policy on the default\n"
        "agent, whose actions the prediction test plays (Section 5.2). The package ships these policies, so\n"
        "you need this command only to change them. Each policy is trained in its own process.",
    )
    p.add_argument("--env", required=True, help="mountaincar, cartpole or halfcheetah")
    p.add_argument("--policies", metavar="LIST", help="test and numbers of training agents, such as test,1,2 (all)")
    p.add_argument("--jobs", type=int, default=1, help="policies trained at the same time (1)")
    p.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    p.add_argument("--out", type=Path, default=WEIGHTS_FOLDER, metavar="FOLDER",
                   help="where to write weights and manifest.json (the package's own folder)")  # fmt: skip
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and save policies; one that does not reach its reward does not stop the others."""
    from persim.data.train_policies import RECIPES, policy_names, write_manifest

    check_choice("environment", args.env, RECIPES)
    check_seed(args.seed)
    check_at_least("jobs", args.jobs, 1, most=1000)
    allowed = policy_names(get(args.env))
    chosen = args.policies.split(",") if args.policies else list(allowed)
    for which in chosen:
        check_choice("policy", which, allowed)
    store.prepare_files("--out", *(args.out / weights_path(args.env, which).name for which in chosen))
    failures = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        jobs = [
            pool.submit(train_one, args.env, which, args.seed, args.out, place % args.jobs)
            for place, which in enumerate(chosen)
        ]
        for job in as_completed(jobs):
            try:
                tqdm.write(job.result())
            except InputError as error:
                failures += 1
                tqdm.write(f"error: {error}", file=sys.stderr)
            write_manifest(args.out)
    return 1 if failures else 0


def train_one(env: str, which: str, seed: int, folder: Path, line: int) -> str:
    """Train one policy with a progress bar on this line of the terminal; return a summary."""
    import torch

    from persim.data.train_policies import policy_target, train_policy

    torch.set_num_threads(1)
    spec = get(env)
    with tqdm(desc=f"{env}, policy {which}", unit="step", dynamic_ncols=True, position=line, leave=False) as bar:

        def show(step: int, steps: int, reward: float) -> None:
            bar.total = steps
            bar.set_postfix_str(f"reward {reward:.0f} of {policy_target(spec, which):.0f}", refresh=False)
            bar.update(step - bar.n)

        policy, made = train_policy(spec, which, seed, show)
    path = folder / weights_path(env, which).name
    policy.save(path, made)
    return f"policy {which}: mean reward {made['mean_reward']:.1f} after {made['steps']} steps; saved to {path}"
