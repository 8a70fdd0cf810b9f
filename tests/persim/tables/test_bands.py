import numpy as np
import pytest

import persim
from persim.errors import InputError
from persim.tables.bands import LEVELS, Bands
from persim.tables.windows import Windows
from tests.persim.tables.systems import SCHEMA, frame


def test_half_widths_are_quantiles_times_the_agents_scale():
    quantile = np.broadcast_to(np.linspace(0.1, 5, len(LEVELS)), (4, 1, len(LEVELS)))
    bands = Bands(quantile, np.array([[1.0], [3.0]]), np.ones(1))
    for level in (0.02, 0.5, 0.9, 0.98):
        place = np.flatnonzero(level == LEVELS)[0]
        half = bands.halves(np.array([0, 1]), 4, level)
        np.testing.assert_allclose(half[0], quantile[0, 0, place])
        np.testing.assert_allclose(half[1], 3 * half[0])
    below, between, above = (bands.halves(np.array([0]), 1, level)[0, 0, 0] for level in (0.9, 0.91, 0.92))
    np.testing.assert_allclose(between, (below + above) / 2)
    np.testing.assert_allclose(
        bands.halves(np.array([0]), 16, 0.9)[0, -1], 2 * bands.halves(np.array([0]), 4, 0.9)[0, -1]
    )
    for band in (0, 1, np.nan, 1.5):
        with pytest.raises(InputError, match="band is"):
            bands.halves(np.array([0]), 4, band)


def test_quantiles_are_those_of_split_conformal_inference():
    """Of 99 residuals 1, 2, ... 99 the band that covers 90 % of new ones is 90 wide to both sides."""
    table = persim.read_table(frame(1, 100), SCHEMA)
    row = np.arange(99)
    zeros = np.zeros((99, 1, 1))
    late = Windows(
        table, row, zeros[:, 0], zeros, (row + 1.0).reshape(-1, 1, 1) * np.where(row % 2, 1, -1)[:, None, None]
    )
    bands = Bands.of(late, zeros, late, zeros)
    for level, expected in ((0.9, 90), (0.5, 50), (0.02, 2), (0.98, 98)):
        np.testing.assert_allclose(bands.halves(np.array([0]), 1, level), expected)


@pytest.fixture(scope="module")
def noisy():
    """Half of the houses have five times the noise of the others."""
    noise = np.repeat([0.2, 1.0], 4)
    table = persim.read_table(frame(steps=400, noise=noise), SCHEMA)
    train, test = table.split_last(0.3)
    return persim.fit(train, terms="linear", steps=1, members=1, horizon=5), test


def test_bands_cover_held_out_time_and_are_each_agents_own(noisy):
    simulator, test = noisy
    half = simulator.bands.halves(np.arange(8), 5, 0.9)[:, 0, 0]
    assert (half[4:] > 3 * half[:4].max()).all()
    np.testing.assert_allclose(half[4:], 1.645, rtol=0.25)  # of the noise of one step
    shares, worst = simulator.evaluate(test, [1, 3, 5]).covered
    assert ((shares > 0.85) & (shares < 0.95)).all()
    assert worst > 0.75


def test_wider_bands_hold_narrower_ones_and_a_new_agent_has_the_typical_one(noisy):
    simulator, _ = noisy
    halves = [simulator.bands.halves(np.arange(8), 12, level) for level in (0.3, 0.5, 0.8, 0.9, 0.97)]
    assert (np.diff(halves, axis=0) >= 0).all()
    new = simulator.adapt(persim.read_table(frame(1, 50, prefix="new"), SCHEMA))
    np.testing.assert_array_equal(new.bands.scale[-1], simulator.bands.typical)
