"""The fused product against the layers one by one: on a GPU, or with TRITON_INTERPRET=1 where Triton is installed."""

import os

import numpy as np
import pytest
import torch

from persim import seeding
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.planning.prepared import PreparedScorer
from persim.planning.scoring import Objective
from tests.persim.planning.test_prepared import AGENTS, CHEETAH, problem


def built(widths, device, rank=4):
    shape = ModelSettings(AGENTS, 18, 6, False, rank, 3, widths, (8,), True)
    return LowRankDynamics(shape, [seeding.sequence(3, k) for k in range(3)]).to(device)


def pairs(widths, device, dtype, precision):
    """What both say of the same states and factors, from states of each member and from shared ones."""
    from benchmarks.fused import FusedProduct

    model = built(widths, device)
    product, layers = FusedProduct(model, dtype), PreparedScorer(model, Objective(CHEETAH), precision)
    rng = torch.Generator().manual_seed(0)
    for own in (1, 3):
        states, weights = (torch.randn(size, generator=rng).to(device) for size in ((own, 201, 18), (3, 2, 201, 4)))
        states[0, 7, 3] = torch.nan
        found, wanted = (f(states, weights.to(layers._dtype)[:, 1]) for f in (product, layers.product))
        assert (found.shape, found.dtype) == ((3, 201, 18), torch.float32)
        yield found, wanted


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET is not 1")
@pytest.mark.parametrize("widths", [(32,), (32,) * 3])
@torch.no_grad()
def test_interpreted_it_agrees_with_the_layers(widths):
    pytest.importorskip("triton")
    for found, wanted in pairs(widths, "cpu", torch.float32, "float32"):  # the interpreter has no bfloat16
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.parametrize("widths", [(32,), (256,) * 4])
@torch.no_grad()
def test_on_a_gpu_it_agrees_with_the_layers(widths):
    for found, wanted in pairs(widths, "cuda", torch.bfloat16, "bfloat16"):
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05, equal_nan=True)


@pytest.mark.gpu
def test_a_fused_scorer_gives_the_scores_of_the_cpu(rng):
    from benchmarks.fused import FusedProduct

    goal, model = Objective(CHEETAH, rollout="mean", penalty=3.0), built((256,) * 4, "cuda")
    there, here = PreparedScorer(model, goal, "bfloat16"), PreparedScorer(built((256,) * 4, "cpu"), goal)
    there.product = FusedProduct(model)
    for _ in range(4):
        states, agents, plans = problem(rng, 3, plans=50, horizon=10)
        np.testing.assert_allclose(there(states, agents, plans), here(states, agents, plans), atol=0.3)
    assert all(graph.replayed.captured for graph in there._graphs.values())


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET is not 1")
def test_it_knows_which_nets_fit():
    pytest.importorskip("triton")
    from benchmarks.fused import FusedProduct

    assert all(FusedProduct.fits(built(widths, "cpu")) for widths in ((16,), (256,) * 4))
    assert not any(FusedProduct.fits(built(widths, "cpu")) for widths in ((32, 16), (512,) * 4, (24,)))
