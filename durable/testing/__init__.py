"""For tests: of orchestrations, in simulated time (`Environment`), under faults (`simulate`), and by what they have recorded
(`replay`); of storage engines, see `durable.testing.conformance`.
"""

from durable.replaying import replay, replay_prefixes
from durable.testing.environment import Environment
from durable.testing.simulating import Simulation, SimulationFailedError, simulate
from durable.testing.simulation.loop import NothingLeftToDoError

__all__ = [
    "Environment",
    "NothingLeftToDoError",
    "Simulation",
    "SimulationFailedError",
    "replay",
    "replay_prefixes",
    "simulate",
]
