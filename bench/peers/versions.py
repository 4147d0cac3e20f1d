"""What the peers of the scenario `versioning` share: arguments, keys, values."""

import argparse
import random
import statistics
import time
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    for name in ("keys", "value-bytes", "seed", "files", "commits"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


def key(number):
    return f"trajectories/{number:012}.parquet"


def values(args):
    rng = random.Random(args.seed)
    while True:
        yield rng.randbytes(args.value_bytes)


def median_ms(calls):
    """The median time of some calls, in milliseconds."""
    took = []
    for call in calls:
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e3


def tree_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
