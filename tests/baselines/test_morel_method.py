"""MOReL as a method: known best policies, repeating, resuming, divergence."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.common import chunks
from baselines.morel.method import Morel, Stages
from baselines.morel.policy import StochasticActor
from baselines.morel.settings import DynamicsSettings, MorelSettings, PessimismSettings, PPOSettings
from persim.errors import InputError
from persim.learning.training import KIND as CHECKPOINT
from persim.learning.training import DivergenceError
from persim.methods import Part
from persim.storage import store
from tests.baselines.toy import GLIDE, WALK, recorded, share_of_the_way

LEARNING = MorelSettings(
    DynamicsSettings(32, min_updates=600, learning_rate=3e-3),
    PessimismSettings(penalty=-50.0, horizon=20),
    PPOSettings(8_000, 512, 64, gamma=0.5, learning_rate=1e-2, widths=(32, 32), clip_value=20.0),
)
SHORT = MorelSettings(
    DynamicsSettings(8, min_updates=30),
    PessimismSettings(penalty=-50.0, horizon=20),
    PPOSettings(12 * 128, update_steps=128, episodes=16, widths=(8, 8)),
)
SPECS = pytest.mark.parametrize("spec", [WALK, GLIDE], ids=["discrete", "box"])


@pytest.mark.parametrize("pooled", [True, False], ids=["P", "A"])
@SPECS
def test_it_learns_the_best_policy_of_a_toy_from_random_data(spec, pooled):
    data = recorded(spec, horizon=200)
    fitted = Morel(LEARNING, spec, pooled=pooled).fit(data, spec, seed=0)
    assert (share_of_the_way(spec, data, fitted) > 0.65).all()


@SPECS
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generators_alone(spec):
    data, method = recorded(spec), Morel(SHORT, spec, pooled=True)
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002 (the global generator is what is tested)
    expected = (torch.rand(1), np.random.rand())  # noqa: NPY002
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    first = method.fit_part(Part(0, data, spec, seed=3))
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002
    second, other = (method.fit_part(Part(0, data, spec, seed=seed)) for seed in (3, 4))
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)
    assert (other.arrays["0.weight"] != first.arrays["0.weight"]).any()
    assert first.settings["about"]["curves"] == second.settings["about"]["curves"]


@SPECS
@pytest.mark.parametrize("share", [0.3, 0.8], ids=["dynamics", "policy"])
def test_a_training_that_is_killed_and_resumed_is_the_same_to_the_last_bit(spec, share, tmp_path, monkeypatch):
    method, data = Morel(SHORT, spec, pooled=True), recorded(spec)
    expected = method.fit_part(Part(0, data, spec, seed=3))
    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "checkpoint.safetensors"

    def kill(done):
        if done > share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit_part(Part(0, data, spec, seed=3, checkpoint=path, report=kill))
    arrays, progress = store.read_arrays(path, CHECKPOINT)
    assert any(name.startswith("policy/") for name in arrays) == (share > 0.7)
    assert progress["chunks"] in (10, 26)
    with pytest.raises(InputError, match="belongs to another run"):
        method.fit_part(Part(0, data, spec, seed=4, checkpoint=path))
    resumed = method.fit_part(Part(0, data, spec, seed=3, checkpoint=path))
    assert resumed.settings["about"]["curves"] == expected.settings["about"]["curves"]
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array)


@SPECS
def test_the_actor_is_the_policy_that_stable_baselines_trained(spec):
    data = recorded(spec)
    part = Part(0, data, spec, 0)
    stages = Stages(SHORT, data, part)
    chunks.train(stages, part, {})
    actor = StochasticActor(stages.policy.actor(), spec.action_space)
    with torch.no_grad():
        theirs = stages.policy._ppo.policy.get_distribution(torch.from_numpy(np.array(data.observation))).distribution
    head = actor.head(data.observation)
    if spec.discrete:
        log_probabilities = head - np.log(np.exp(head).sum(1, keepdims=True))
        np.testing.assert_allclose(log_probabilities, theirs.logits, atol=1e-5)
    else:
        np.testing.assert_allclose(head, theirs.mean, atol=1e-5)
        np.testing.assert_allclose(actor._spread * np.ones_like(head), theirs.stddev, atol=1e-5)


def test_curves_say_what_happened_in_both_stages():
    data = recorded(WALK)
    heard = []
    about = Morel(SHORT, WALK, pooled=True).fit_part(Part(0, data, WALK, 0, report=heard.append)).settings["about"]
    curves = about["curves"]
    assert curves["dynamics_mse"][-1][0] == 30
    assert curves["dynamics_mse"][-1][1] < curves["dynamics_mse"][0][1]
    for name in ("policy_length", "policy_return", "policy_halt_share"):
        assert [x for x, _ in curves[name]] == [128 * (update + 1) for update in range(12)]
    assert all(0 <= share <= 1 for _, share in curves["policy_halt_share"])
    assert about["seconds"] > 0
    assert heard == sorted(heard)
    assert heard[-1] == 1


def test_the_defects_of_the_public_code_change_what_is_learnt():
    data = recorded(GLIDE)
    right = Morel(SHORT, GLIDE, pooled=True).fit_part(Part(0, data, GLIDE, 0)).arrays["0.weight"]
    for settings in (
        replace(SHORT, ppo=replace(SHORT.ppo, ignores_ends=True)),
        replace(SHORT, pessimism=replace(SHORT.pessimism, normalises_starts_twice=True)),
    ):
        assert (Morel(settings, GLIDE, pooled=True).fit_part(Part(0, data, GLIDE, 0)).arrays["0.weight"] != right).any()


def test_data_of_constant_reward_are_learnt_from_and_mixed_lengths_assembled():
    data = recorded(WALK)
    short = (data.agent > 0) | (data.step < 3)
    columns = ("agent", "step", "observation", "action", "next_observation", "reward", "terminated", "truncated")
    data = replace(data, **{name: getattr(data, name)[short] for name in columns})
    data = replace(data, reward=np.full_like(data.reward, -1))
    settings = replace(SHORT, dynamics=replace(SHORT.dynamics, min_updates=1, batch_size=4))
    weights = Morel(settings, WALK, pooled=False).train(data, WALK, 0)
    assert all(np.isfinite(array).all() for array in weights.arrays.values())
    assert np.isfinite(weights.settings["about"]["curves"]["policy_return"]).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_diverged_policy_stops_with_its_step():
    data = recorded(WALK)
    data = replace(data, reward=np.full(len(data), 3e38, np.float32))
    with pytest.raises(DivergenceError, match="policy's loss became non-finite by step 128 of PPO; lower"):
        Morel(SHORT, WALK, pooled=True).fit_part(Part(0, data, WALK, seed=0))


def test_bad_data_are_refused_in_one_line():
    data = recorded(GLIDE)
    with pytest.raises(InputError, match="actions of the data are Box"):
        Morel(SHORT, WALK, pooled=False).fit_part(Part(0, data, WALK, seed=0))


def test_the_list_of_methods_waits_for_neither_library():
    code = "import sys, baselines.registry; print([m for m in ('d3rlpy', 'stable_baselines3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
