"""A simulator of linear systems without noise, which it recovers exactly, and one that has all kinds of terms."""

import pytest

import persim
from tests.persim.tables.systems import SCHEMA, frame


@pytest.fixture(scope="session")
def linear():
    return persim.fit(persim.read_table(frame(), SCHEMA), terms="linear", steps=1, members=2, horizon=5)


@pytest.fixture(scope="session")
def remembering():
    """It has lags, memories and both kinds of terms."""
    schema = persim.Schema(**(SCHEMA.to_mapping() | {"lags": 3, "memory": {"u": [2, 5], "x": [4]}}))
    return persim.fit(persim.read_table(frame(noise=0.3), schema), terms="both", steps=20, members=2, horizon=5)
