"""What the peers share: arguments, and the line that they print."""

import argparse
import json
import resource
import time

import pyarrow as pa


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--answer")
    parser.add_argument("--views", type=int, required=True)
    parser.add_argument("--features", type=int, required=True)
    return parser.parse_args()


def finish(args, table, start):
    """Prints wall time until the answer is in Arrow, and peak memory; writes the answer where asked."""
    wall = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if args.answer:
        names = ["row", "entity", "event_timestamp"] + [f"f{view}_{i}" for view in range(args.views) for i in range(args.features)]
        with pa.OSFile(args.answer, "wb") as file, pa.ipc.new_file(file, table.select(names).schema) as writer:
            writer.write_table(table.select(names).combine_chunks())
    print(json.dumps({"wall_s": wall, "peak_rss_mb": peak}))
