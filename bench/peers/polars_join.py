"""The point-in-time join in Polars: `join_asof` by entity for each view, 2 threads, as its documentation says."""

import os
import time

os.environ["POLARS_MAX_THREADS"] = "2"

import polars as pl  # noqa: E402  the variable must be set first

from common import arguments, finish  # noqa: E402

args = arguments()
start = time.perf_counter()
spine = pl.scan_parquet(f"{args.folder}/spine.parquet").sort("event_timestamp", maintain_order=True)
for view in range(args.views):
    # The files are in arrival order, which is the order of event times.
    rows = pl.scan_parquet(f"{args.folder}/view{view}.parquet").set_sorted("at")
    spine = spine.join_asof(rows, left_on="event_timestamp", right_on="at", by="entity", strategy="backward", coalesce=True)
    spine = spine.drop("at", strict=False)
table = spine.sort("row").collect().to_arrow()
finish(args, table, start)
