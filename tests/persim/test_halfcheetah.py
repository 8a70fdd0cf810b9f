"""HalfCheetah: MuJoCo's physics in batches, with mass and damping as covariates."""

import importlib.util
import os
import subprocess
import sys
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import persim  # noqa: F401 (registers the environments)
from persim.data import collect
from persim.data.policies import UniformPolicy
from persim.envs import get, halfcheetah
from persim.errors import InputError

SPEC = get("halfcheetah")


def batch(rng, size=12):
    covariates = SPEC.sample_agents(max(size, 5), rng)[-size:]
    states = SPEC.reset(rng, covariates)
    for _ in range(20):
        states = SPEC.step(states, rng.uniform(-1, 1, (size, 6)), covariates)
    return states, rng.uniform(-1, 1, (size, 6)).astype(np.float32), covariates


def test_a_step_is_five_frames_of_mujoco(rng):
    """The plain loop over mj_step, one agent at a time, from a solver that starts cold."""
    import mujoco

    states, actions, covariates = batch(rng)
    ours = SPEC.step(states, actions, covariates)
    for state, action, row, after in zip(states, actions, covariates, ours, strict=True):
        model = halfcheetah.agent_model(*row)
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = [0, *state[1:9]], state[9:]
        for _ in range(5):
            data.ctrl[:] = action
            mujoco.mj_step(model, data)
        assert data.time == pytest.approx(halfcheetah.STEP_S)
        np.testing.assert_array_equal(after, [data.qpos[0] / halfcheetah.STEP_S, *data.qpos[1:], *data.qvel])


def test_a_step_is_that_of_gymnasium(rng, monkeypatch):
    """From the same state with the same masses and dampings.

    Not to the last bit: gymnasium's solver starts from the last step's solution, ours cold, and gymnasium's root
    is not at x = 0. Both iterate until the solver has converged; the largest difference seen is 1e-12.
    """
    if importlib.util.find_spec("imageio") is None:  # gymnasium imports it here, and uses it to save pictures only
        monkeypatch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))
    with halfcheetah._quiet:
        reference = gym.make("HalfCheetah-v5").unwrapped
    mass, damping = 0.3, 1.7
    reference.model.body_mass[:] *= mass
    reference.model.dof_damping[:] *= damping
    row = np.array([[mass, damping]])
    for episode in range(3):
        reference.reset(seed=episode)
        for _ in range(60):
            state = np.concatenate([[0], reference.data.qpos[1:], reference.data.qvel])[None]
            x, action = reference.data.qpos[0], rng.uniform(-1, 1, (1, 6)).astype(np.float32)
            after = SPEC.step(state, action, row)[0]
            observation, reward, *_ = reference.step(action[0])
            np.testing.assert_allclose(after[1:], observation, rtol=0, atol=1e-9)
            assert after[0] == pytest.approx((reference.data.qpos[0] - x) / 0.05, abs=1e-9)
            ours = SPEC.reward(*(torch.from_numpy(a) for a in (state, action, after[None])))
            assert float(ours[0]) == pytest.approx(reward, abs=1e-6)  # the actions are float32


def test_a_batch_steps_bit_for_bit_as_its_rows_do(rng):
    states, actions, covariates = batch(rng, 40)
    together = SPEC.step(states, actions, covariates)
    singly = [SPEC.step(states[[i]], actions[[i]], covariates[[i]])[0] for i in range(40)]
    np.testing.assert_array_equal(together, np.stack(singly))
    order = rng.permutation(40)
    np.testing.assert_array_equal(SPEC.step(states[order], actions[order], covariates[order]), together[order])


def test_mass_and_damping_scale_and_inertia_does_not():
    plain, scaled = halfcheetah.agent_model(1.0, 1.0), halfcheetah.agent_model(0.3, 1.7)
    np.testing.assert_allclose(scaled.body_mass, 0.3 * plain.body_mass)
    np.testing.assert_allclose(scaled.dof_damping, 1.7 * plain.dof_damping)
    np.testing.assert_array_equal(scaled.body_inertia, plain.body_inertia)
    assert plain.body_mass.sum() == pytest.approx(14)  # gymnasium's file: settotalmass


def test_agents_differ(rng):
    states, actions, _ = batch(rng, 5)
    same = np.tile(states[:1], (5, 1))
    after = SPEC.step(same, np.tile(actions[:1], (5, 1)), np.array(SPEC.test_agents))
    assert len(np.unique(after[:, 0])) == 5


def test_reward_is_speed_less_control(rng):
    states, actions, covariates = batch(rng, 3)
    after = SPEC.step(states, actions, covariates)
    cost = np.square(actions).sum(1)
    tensors = [torch.from_numpy(x) for x in (states, actions, after)]
    np.testing.assert_allclose(SPEC.reward(*tensors), after[:, 0] - 0.1 * cost, rtol=1e-6)
    cheaper = halfcheetah.SPEC_COST_005
    np.testing.assert_allclose(cheaper.reward(*tensors), after[:, 0] - 0.05 * cost, rtol=1e-6)
    assert not SPEC.terminated(tensors[2]).any()
    assert get("persim.envs.halfcheetah:SPEC_COST_005") is cheaper


def test_reset_is_at_rest_but_for_a_little_noise(rng):
    states = SPEC.reset(rng, SPEC.sample_agents(2000, rng))
    assert (states[:, 0] == 0).all()
    assert states[:, 1:].std() == pytest.approx(0.001, rel=0.05)


def test_a_state_out_of_bounds_comes_back_as_nan(rng):
    states, actions, covariates = batch(rng, 4)
    wanted = SPEC.step(states, actions, covariates)
    states[1, 9:] = 1e12
    states[2, 3] = np.nan
    after = SPEC.step(states, actions, covariates)
    np.testing.assert_array_equal(after[0], wanted[0])
    assert np.isnan(after[1:3]).all()
    np.testing.assert_array_equal(after[3], wanted[3])


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6, 1e8, 9e9])
def test_a_state_that_blows_up_does_not_touch_the_others(rng, size):
    states, actions, covariates = batch(rng, 12)
    wanted = SPEC.step(states, actions, covariates)
    wild = np.array([1, 5, 6])
    states[wild] = rng.normal(scale=size, size=(3, 18))
    after = SPEC.step(states, actions, covariates)
    others = np.setdiff1d(np.arange(12), wild)
    np.testing.assert_array_equal(after[others], wanted[others])
    np.testing.assert_array_equal(after[wild], SPEC.step(states[wild], actions[wild], covariates[wild]))
    assert np.isnan(after[wild]).all() or size < 1e8


def test_a_state_faster_than_any_cheetah_is_unstable(rng):
    """What a planner on the true dynamics would exploit: MuJoCo goes on, at speeds that mean nothing."""
    states, actions, covariates = batch(rng, 3)
    states[0, 9] = 50.0  # m/s of the root: fast, but a state
    states[1, 9] = 500.0
    states[2, 9] = -500.0
    assert np.isnan(SPEC.step(states, actions, covariates)).all(1).tolist() == [False, True, True]


def test_an_action_that_is_not_a_number_gives_nan(rng):
    states, actions, covariates = batch(rng, 3)
    actions[1, 4] = np.nan
    assert np.isnan(SPEC.step(states, actions, covariates)).all(1).tolist() == [False, True, False]


def test_threads_may_step_at_the_same_time(rng):
    from concurrent.futures import ThreadPoolExecutor

    states, actions, covariates = batch(rng, 60)
    wanted = SPEC.step(states, actions, covariates)
    with ThreadPoolExecutor(4) as callers:
        for after in callers.map(lambda _: SPEC.step(states, actions, covariates), range(40)):
            np.testing.assert_array_equal(after, wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_steps_and_ends():
    code = (
        "import os, numpy as np; from persim.envs import get; s = get('halfcheetah'); "
        "a = [np.zeros((40, 18)), np.zeros((40, 6)), np.ones((40, 2))]; wanted = s.step(*a); child = os.fork(); "
        "np.testing.assert_array_equal(s.step(*a), wanted); "
        "assert not child or os.waitpid(child, 0)[1] == 0"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_warnings_of_others_are_left_alone(rng):
    import mujoco

    before, heard = mujoco.get_mju_user_warning(), []
    try:
        mujoco.set_mju_user_warning(heard.append)
        states, actions, covariates = batch(rng, 3)
        states[:] = 9e9
        SPEC.step(states, actions, covariates)
        assert heard == []
        data = mujoco.MjData(halfcheetah.agent_model(1.0, 1.0))
        data.qvel[:] = np.inf
        mujoco.mj_step(halfcheetah.agent_model(1.0, 1.0), data)
        assert "QVEL" in heard[0]
    finally:
        mujoco.set_mju_user_warning(before)


def test_copies_of_the_model_are_small():
    import mujoco

    assert mujoco.mj_sizeModel(halfcheetah.agent_model(0.5, 0.5)) < 30_000  # 500 kB with textures, 500 agents


def test_each_control_cost_has_its_name():
    assert halfcheetah.with_control_cost(0.1).name == SPEC.name
    assert halfcheetah.SPEC_COST_005.name == halfcheetah.with_control_cost(0.05).name == "halfcheetah-cost-0.05"
    for cost in (-0.1, float("nan")):
        with pytest.raises(InputError, match=r"control cost is .* at least 0"):
            halfcheetah.with_control_cost(cost)


def test_pictures_show_the_state():
    states = np.zeros((3, 18))
    states[1:, 0] = 10.0  # half a metre further
    states[2, 2] = 1.0  # upright
    try:
        pictures = list(SPEC.frames(states, SPEC.default_agent))
    except InputError as error:
        pytest.skip(str(error))
    assert [picture.shape for picture in pictures] == [(320, 480, 3)] * 3
    assert len({picture.tobytes() for picture in pictures}) == 3
    np.testing.assert_array_equal(next(iter(SPEC.frames(states, SPEC.default_agent))), pictures[0])


def test_an_episode_that_breaks_is_recorded_up_to_there_and_reported(rng, caplog):
    import dataclasses

    steps = []

    def breaking(states, actions, covariates):
        steps.append(len(states))
        after = SPEC.step(states, actions, covariates)
        after[covariates[:, 0] == 0.3, 0] = np.nan if len(steps) == 4 else after[covariates[:, 0] == 0.3, 0]
        return after

    spec = dataclasses.replace(SPEC, step=breaking)
    data = collect(spec, np.array(SPEC.test_agents), UniformPolicy(SPEC.action_space), rng, horizon=8)
    assert np.bincount(data.agent).tolist() == [3, 8, 3, 8, 8]
    assert np.isfinite(data.next_observation).all()
    assert data.truncated.sum() == 5
    assert not data.terminated.any()
    assert "2 of 5 episodes of halfcheetah" in caplog.text


@pytest.mark.filterwarnings("ignore:.*Box observation space:UserWarning")
@pytest.mark.filterwarnings("ignore:.*not within the observation space:UserWarning")
def test_as_a_gymnasium_environment():
    env = gym.make("PerSim/HalfCheetah-v0", mass=0.5, damping=1.5)
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    for _ in range(999):
        *_, truncated, _ = env.step(env.action_space.sample())
        assert not truncated
    assert env.step(env.action_space.sample())[3]


def test_nothing_is_printed_or_left_behind(tmp_path):
    code = (
        "import numpy as np; from persim.envs import get; s = get('halfcheetah'); "
        "s.step(np.full((2, 18), 1e12), np.zeros((2, 6)), np.ones((2, 2))); "
        "s.step(np.full((2, 18), 9e9), np.zeros((2, 6)), np.ones((2, 2)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_loads_no_mujoco():
    code = "import sys, persim; print('mujoco' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
