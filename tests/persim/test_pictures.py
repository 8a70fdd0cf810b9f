"""Pictures: GIFs, overlays, figures, and gymnasium's render."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

import persim  # noqa: F401 (registers the environments)
from persim.data.policies import load_test_policy
from persim.envs import get
from persim.envs.spec import pictures
from persim.errors import InputError
from persim.evaluation.pictures import WIDTH, episode_states, overlay, prediction_figure, save_gif, thinned
from persim.evaluation.prediction import true_rollouts
from persim.planning.folded import TrueDynamics


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
def test_frames_show_the_state(env):
    spec = get(env)
    states = np.zeros((2, spec.state_dim))
    states[:, 0] = [-0.5, 0.2]
    first, second = pictures(spec)(states, spec.default_agent)
    assert first.shape == second.shape
    assert first.shape[2] == 3
    columns = [np.flatnonzero((frame < 60).all(-1).sum(0) > 8).mean() for frame in (first, second)]
    assert columns[0] < columns[1] - 20  # the cart, black, is further right


def test_the_pole_is_as_long_as_the_agents():
    spec = get("cartpole")
    frames = [next(iter(pictures(spec)(np.zeros((1, 4)), np.array([10.0, length])))) for length in (0.2, 0.8)]
    ink = [(frame[..., 2] < 150).sum() for frame in frames]
    assert ink[1] > 1.3 * ink[0]


def test_gymnasium_renders():
    env = gym.make("PerSim/CartPole-v0", render_mode="rgb_array", pole_length=0.8)
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    with pytest.raises(InputError, match="did you mean 'rgb_array'"):
        type(env.unwrapped)("cartpole", render_mode="rgb_aray")


def test_gif_of_an_episode(tmp_path):
    spec = get("cartpole")
    policy = load_test_policy("cartpole", spec.action_space)
    states = episode_states(spec, np.array(spec.test_agents[0]), policy, np.random.default_rng(0))
    assert states.shape[1] == 4
    assert bool(spec.terminated(torch.from_numpy(states[-1:]))[0]) or len(states) == 201
    states[3] = 1e9  # as of a prediction that diverged
    count = save_gif(pictures(spec)(states[:12], spec.default_agent), tmp_path / "a.gif")
    image = Image.open(tmp_path / "a.gif")
    assert count == 12
    assert image.size == (WIDTH, round(400 * WIDTH / 600))
    assert 2 <= image.n_frames <= 12  # Pillow merges equal frames
    assert image.info["loop"] == 0


@pytest.mark.parametrize("count", [1, 2, 250, 251, 999, 1001])
def test_long_episodes_are_thinned(count):
    kept = thinned(np.arange(count)[:, None])[:, 0]
    assert 1 <= len(kept) <= 250
    assert kept[-1] == count - 1
    assert len(set(np.diff(kept))) <= 1


def test_overlay_keeps_the_truth_solid():
    white = np.full((1, 4, 3), 255, np.uint8)
    true, guess = white.copy(), white.copy()
    true[0, 0] = true[0, 1] = 0
    guess[0, 1] = guess[0, 2] = 0
    mixed = overlay(true, guess)[0]
    assert mixed[0].tolist() == [0, 0, 0]  # only true
    assert mixed[1].tolist() == [0, 0, 0]  # both the same
    assert mixed[3].tolist() == [255, 255, 255]
    assert 0 < mixed[2][0] < mixed[2][2] < 255  # only predicted: pale blue


def test_prediction_figure(tmp_path):
    spec = get("cartpole")
    covariates = np.array(spec.test_agents)
    policy = load_test_policy("cartpole", spec.action_space)
    rollouts = true_rollouts(spec, policy, np.random.default_rng(0), [0, 1], episodes=1)
    path = tmp_path / "p.png"
    prediction_figure(spec, TrueDynamics(spec, covariates), rollouts, covariates[:2], (10, 50), path, ["a", "b"])
    image = np.asarray(Image.open(path).convert("RGB"))
    assert image.shape[1] > 400
    assert (image < 100).all(-1).sum() > 100  # carts were drawn
