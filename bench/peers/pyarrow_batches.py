"""A training loop over Parquet with pyarrow, 2 threads: scanning in the order of the files, or shuffled with all rows in memory."""

import argparse
import json
import statistics
import time

import numpy
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from common import field

parser = argparse.ArgumentParser()
parser.add_argument("files", nargs="+")
parser.add_argument("--mode", choices=["scan", "in_memory"], required=True)
parser.add_argument("--batch-size", type=int, required=True)
parser.add_argument("--step-ms", type=int, required=True)
parser.add_argument("--repeats", type=int, required=True)
parser.add_argument("--sum", type=int, required=True)
args = parser.parse_args()
pa.set_cpu_count(2)
files = ds.dataset(args.files, format="parquet")


def scan():
    yield from files.to_batches(batch_size=args.batch_size, use_threads=True)


def in_memory():
    rows = files.to_table(use_threads=True).combine_chunks()
    order = numpy.random.default_rng(42).permutation(len(rows))
    for first in range(0, len(rows), args.batch_size):
        yield rows.take(pa.array(order[first : first + args.batch_size]))


def epoch(step):
    """How long an epoch took, how long the loop waited, and how many bytes it had."""
    start, waited, total, size = time.perf_counter(), 0.0, 0, 0
    batches = iter({"scan": scan, "in_memory": in_memory}[args.mode]())
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        total += pc.sum(batch.column("entity")).as_py()
        size += batch.nbytes
        if step:
            step()
    assert total == args.sum, "the batches have other rows"
    return time.perf_counter() - start, waited, size


def busy():
    end = time.perf_counter() + args.step_ms / 1000
    while time.perf_counter() < end:
        pass


epoch(None)
runs = [epoch(None) for _ in range(args.repeats)]
figures = {"bytes_per_s": runs[0][2] / statistics.median(took for took, _, _ in runs)}
for name, step in (("wait_share", lambda: time.sleep(args.step_ms / 1000)), ("wait_share_busy", busy)):
    figures[name] = statistics.median(waited / took for took, waited, _ in (epoch(step) for _ in range(args.repeats)))
figures["peak_rss_mb"] = field("/proc/self/status", "VmHWM:") / 1024
print(json.dumps(figures))
