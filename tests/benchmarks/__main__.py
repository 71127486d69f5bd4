"""Measures one workload: `python -m tests.benchmarks --workload seq5 --n 2000 --concurrency 50 --store sqlite`.

The last line is the measurement as JSON. Everything that is printed before it is for people.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys

from tests.benchmarks import (
    beside_limits,
    churn,
    idle,
    many_workers,
    populated,
    processes,
    recovering,
    second_process,
    starting,
    waiting,
)
from tests.benchmarks.measuring import Wanted, measure
from tests.benchmarks.stores import STORES
from tests.benchmarks.workloads import WORKLOADS

MEASURES = dict.fromkeys(WORKLOADS, measure) | {
    "recover": recovering.measure,
    "second_process": second_process.measure,
    "populated": populated.measure,
    "waiting": waiting.measure,
    "churn": churn.measure,
    "idle": idle.measure,
    "beside_limits": beside_limits.measure,
    **many_workers.MEASURES,
    "import": starting.measure_import,
    "first_result": starting.measure_first_result,
}


IN_PROCESSES = dict.fromkeys(("seq5", "seq1_latency", "starts"), processes.measure) | {
    "beside_limits": beside_limits.measure
}
"""What can be measured in several processes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--workload", required=True, choices=MEASURES)
    parser.add_argument("--n", type=int, default=100, help="instances, or activities of one (default: 100)")
    parser.add_argument("--concurrency", type=int, default=50, help="instances at a time (default: 50)")
    parser.add_argument("--store", default="sqlite", choices=STORES)
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the median counts (default: 3)")
    parser.add_argument("--processes", type=int, default=1, help="each with a worker and a client (default: 1)")
    given = parser.parse_args()
    is_shared = given.processes > 1
    if is_shared and given.workload not in IN_PROCESSES:
        parser.error(f"--processes is for {', '.join(IN_PROCESSES)}")
    logging.disable(logging.CRITICAL)
    wanted = Wanted(given.workload, given.n, given.concurrency, given.store, given.repeat, given.processes)
    measures = IN_PROCESSES if is_shared else MEASURES
    print(json.dumps(measures[given.workload](wanted)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
