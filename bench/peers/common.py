"""What the peers share: arguments, and the line that they print."""

import argparse
import json
import time

import pyarrow as pa


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--spine", required=True)
    parser.add_argument("--answer")
    parser.add_argument("--values", choices=["uniform", "realistic"], required=True)
    parser.add_argument("--views", type=int, required=True)
    parser.add_argument("--features", type=int, required=True)
    args = parser.parse_args()
    args.names = [[f"f{view}_{i}" for i in range(args.features)] for view in range(args.views)]
    return args


def finish(args, table, start):
    """Prints wall time until the answer is in Arrow, peak memory and what came from storage; writes the answer where asked."""
    wall = time.perf_counter() - start
    # Not `getrusage`: what it tells includes the process that started this one, as large as that was.
    peak = field("/proc/self/status", "VmHWM:") / 1024
    storage = field("/proc/self/io", "read_bytes:") / (1 << 20)
    if args.answer:
        table = table.select(["row", "entity", "event_timestamp", *(name for names in args.names for name in names)])
        with pa.OSFile(args.answer, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table.combine_chunks())
    print(json.dumps({"wall_s": wall, "peak_rss_mb": peak, "storage_mb": storage}))


def field(file, name):
    with open(file) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))
