"""A simulated engine in the test's own loop."""

import pytest

from tests.servers.sim_engines import start_sim

__all__ = ["start_sim"]


@pytest.fixture
async def sim(start_sim):
    return await start_sim()
