"""The worker: owns partitions, runs turns, commits them in groups, lets their effects out, and runs activities."""

from durable.worker.health import WorkerHealth
from durable.worker.worker import Worker

__all__ = ["Worker", "WorkerHealth"]
