"""``python -m persim train-policies``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from persim import store
from persim.cli.training import Commands
from persim.data.policies import weights_path
from persim.envs import get
from persim.errors import check_at_least, check_choice


def add(commands: Commands) -> None:
    """Adds the command."""
    p = commands.add_parser(
        "train-policies",
        help="train the policy whose actions the prediction test plays (needs stable-baselines3)",
        description="Trains the test policy of an environment by DQN on the default agent, until its mean reward is\n"
        "about what the paper names (Section 5.2). The package ships the result; you need this only to\n"
        "change it.",
    )
    p.add_argument("--env", required=True, help="mountaincar or cartpole")
    p.add_argument("--seed", type=int, default=0, help="everything random follows from it (0)")
    p.add_argument("--out", type=Path, metavar="PATH", help="where to write the weights (the package's own file)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains and saves the test policy."""
    from persim.data.train_policies import TEST_RECIPES, train_test_policy

    check_choice("environment", args.env, TEST_RECIPES)
    check_at_least("seed", args.seed, 0)
    spec, path = get(args.env), args.out or weights_path(args.env)
    store.prepare_folder(path.resolve().parent, "folder of --out")
    with tqdm(total=TEST_RECIPES[args.env].steps, desc=f"DQN, {args.env}", unit="step", dynamic_ncols=True) as bar:

        def show(step: int, _: int, reward: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix_str(f"mean reward {reward:.0f} of {TEST_RECIPES[args.env].target:.0f}")

        policy, made = train_test_policy(spec, args.seed, show)
    policy.save(path, made)
    print(f"mean reward {made['mean_reward']:.1f} over 100 episodes after {made['steps']} steps; saved to {path}")
    return 0
