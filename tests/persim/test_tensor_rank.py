"""Theorem 1 in numbers: tensors of a known rank are recovered exactly, and the errors are what they say."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from persim.envs import get
from persim.envs import mountaincar as mc
from persim.evaluation.tensor_rank import Sample, approximations, cover_error, sample
from persim.methods import Options, TrueEnv
from persim.methods.job import Job, tensors
from persim.methods.measure import compute
from persim.storage.cells import CellStore


def known(rng, rank, sizes=(12, 4, 30), noise=0.0):
    u, w, v = (rng.normal(size=(size, rank)) for size in sizes)
    tensor = np.einsum("nr,ar,kr->nak", u, w, v)
    return Sample(tensor + noise * rng.normal(size=tensor.shape), rng.uniform(size=(12, 2)), np.eye(4))


def of(env, states, rng, agents=30):
    spec = get(env)
    return sample(spec, spec.sample_agents(agents, rng), states, 0, rng)


def interior(rng, count=60):
    """States from which no step of MountainCar reaches a wall or the top speed."""
    return rng.uniform([-1.0, 0.9 * -mc.MAX_SPEED + 0.01], [0.4, 0.9 * mc.MAX_SPEED - 0.01], size=(count, 2))


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_a_random_tensor_is_recovered_at_its_rank_and_not_below(rank, rng):
    found = approximations(known(rng, rank), (1, 2, 3, 4, 5, 6), 4, rng)
    assert [each.rank for each in found] == list(range(1, rank + 1))  # it ends with the first that is exact
    assert found[-1].error < 1e-10
    assert found[-1].max_error < 1e-9
    assert all(each.error > 1e-3 for each in found[:-1])


def test_mountaincar_has_rank_three(rng):
    """Proposition 1."""
    found = approximations(of("mountaincar", interior(rng), rng), (1, 2, 3, 4), 8, rng)
    assert [each.rank for each in found] == [1, 2, 3]
    assert found[1].error > 0.05
    assert found[2].error < 1e-10


def test_the_top_speed_is_no_part_of_it(rng):
    """Only some agents and actions would be faster. (A wall stops all of them alike, which is one more constant.)"""
    states = np.concatenate([interior(rng), [[-0.9, mc.MAX_SPEED - 0.001]]])
    assert approximations(of("mountaincar", states, rng), (1, 2, 3), 8, rng)[-1].error > 1e-4


def test_cartpole_has_rank_five(rng):
    """Its fifth term is faint: without it a share of 1e-4 is missing, and a search that is not careful stops there."""
    states = rng.normal(size=(60, 4)) * [1, 1, 0.2, 2]
    found = approximations(of("cartpole", states, rng), (1, 2, 3, 4, 5, 6), 6, rng)
    assert [each.rank for each in found] == [1, 2, 3, 4, 5]
    assert 1e-6 < found[3].error < 1e-2
    assert found[4].error < 1e-10


def test_no_rank_is_better_than_the_unfoldings_allow_and_more_terms_are_no_worse(rng):
    """Eckart and Young: the singular values of any unfolding bound the error from below."""
    noisy = known(rng, 2, noise=0.3)
    errors = [each.error for each in approximations(noisy, (1, 2, 3, 4, 6), 4, rng)]
    for axis in range(3):
        values = np.linalg.svd(np.moveaxis(noisy.tensor, axis, 0).reshape(noisy.tensor.shape[axis], -1))[1]
        bound = [np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()) for rank in (1, 2, 3, 4, 6)]
        assert all(error >= least - 1e-12 for error, least in zip(errors, bound, strict=True))
    assert all(one > two for one, two in pairwise(errors))


def test_rank_one_of_a_matrix_is_its_singular_value(rng):
    """With one action the tensor is a matrix, whose best approximation is known."""
    matrix = rng.normal(size=(12, 30))
    found = approximations(Sample(matrix[:, None], rng.uniform(size=(12, 1)), np.eye(1)), (1, 2), 4, rng)
    values = np.linalg.svd(matrix)[1]
    for each in found:
        assert each.error == pytest.approx(np.sqrt((values[each.rank :] ** 2).sum() / (values**2).sum()), rel=1e-4)


def test_units_do_not_matter_and_every_dimension_counts(rng):
    states = rng.normal(size=(40, 4)) * [1, 1, 0.2, 2]
    found = of("cartpole", states, rng)
    assert found.tensor.shape == (30, 2, 160)
    np.testing.assert_allclose(np.square(found.tensor.reshape(-1, 40, 4)).mean((0, 1)), 1)
    spec = get("cartpole")
    scale = np.array([1.0, 1000.0, 1.0, 0.001])
    other = replace(spec, step=lambda s, a, c: spec.step(s / scale, a, c) * scale)
    same = sample(other, spec.sample_agents(30, np.random.default_rng(1)), states * scale, 0, rng)
    usual = sample(spec, spec.sample_agents(30, np.random.default_rng(1)), states, 0, rng)
    np.testing.assert_allclose(same.tensor, usual.tensor, atol=1e-9)


def test_the_agent_the_action_and_the_state_stand_in_their_places(rng):
    spec, states = get("halfcheetah"), rng.normal(scale=0.1, size=(3, 18))
    covariates = spec.sample_agents(6, rng)
    found = sample(spec, covariates, states, 4, rng)
    actions = spec.action_space.low + found.actions * 2
    after = spec.step(states[[2]], actions[[1]], covariates[[5]])[0] - states[2]
    ratio = found.tensor.reshape(6, 4, 3, 18)[5, 1, 2] / after
    np.testing.assert_allclose(ratio, found.tensor.reshape(6, 4, 3, 18)[0, 0, 0] / (
        spec.step(states[[0]], actions[[0]], covariates[[0]])[0] - states[0]), rtol=1e-5)  # fmt: skip


def test_a_state_that_leads_nowhere_is_left_out(rng):
    spec, states = get("halfcheetah"), rng.normal(scale=0.1, size=(3, 18))
    states[1, 4] = 1e12
    assert sample(spec, spec.sample_agents(6, rng), states, 4, rng).tensor.shape == (6, 4, 2 * 18)


def test_states_at_a_wall_or_at_the_top_speed_are_told_apart(rng):
    """Without them rank three is exact again."""
    states = np.concatenate([interior(rng, 40), [[-0.9, mc.MAX_SPEED - 0.001], [mc.MIN_POSITION + 0.001, -0.03]]])
    found = of("mountaincar", states, rng)
    assert found.clipped.tolist() == [False] * 40 + [True, True]
    assert found.inside().tensor.shape == (30, 3, 80)
    assert approximations(found.inside(), (1, 2, 3), 8, rng)[-1].error < 1e-10
    assert not of("cartpole", rng.normal(size=(10, 4)), rng).clipped.any()


def test_the_proofs_sum_is_constant_on_cells(rng):
    """Two kinds of agents and two of actions: four terms are exact, with two one of the kinds is lost."""
    kinds = rng.normal(size=(2, 2, 30))
    agents, actions = np.array([0, 0, 1, 0, 1]), np.array([0, 1, 1])
    found = Sample(kinds[agents][:, actions], agents[:, None] + 0.0, actions[:, None] + 0.0)
    assert cover_error(found, 4) == 0
    assert cover_error(found, 5) == 0
    whole = np.linalg.norm(found.tensor)
    by_agent = [found.tensor - found.tensor[:, [0 if who else 1]] for who in (0, 1)]
    assert 0 < cover_error(found, 2) <= max(np.linalg.norm(missing) for missing in by_agent) / whole
    assert cover_error(found, 1) >= cover_error(found, 2)


def test_a_cell_has_the_errors_of_all_ranks_and_repeats(tmp_path):
    method = TrueEnv.make(get("mountaincar"), Options())
    job = Job.of(method, "mountaincar", "random", 6, 0, tensors(30, None, (1, 2, 3), 4))
    assert (job.cell.regime, job.cell.agents, job.cell.settings) == ("random", 6, {})
    done, again = (compute(job, CellStore(tmp_path / name)) for name in ("one", "two"))
    assert done.rows == again.rows
    assert done.value("tensor_error_rank_3") < 1e-10 < done.value("tensor_error_rank_2")
    assert {row["metric"] for row in done.rows} == {"tensor_clipped"} | {
        f"tensor_{metric}_rank_{rank}" for metric in ("error", "max_error", "cover_error") for rank in (1, 2, 3)
    }
