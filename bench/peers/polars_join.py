"""The point-in-time join in Polars: `join_asof` by entity for each view, 2 threads, as its documentation says.

With known times, the rows that are true no earlier than all that were known before are kept by `cum_max`, and joined by known time; of rows that became
known together `join_asof` takes the last.
"""

import os
import time

os.environ["POLARS_MAX_THREADS"] = "2"

import polars as pl  # noqa: E402  the variable must be set first

from common import arguments, finish  # noqa: E402

args = arguments()
start = time.perf_counter()
by = "at" if args.values == "uniform" else "known"
spine = pl.scan_parquet(args.spine).sort("event_timestamp", maintain_order=True)
for view in range(args.views):
    rows = pl.scan_parquet(f"{args.folder}/view{view}.parquet")
    if by == "known":
        rows = rows.filter(pl.col("at") == pl.col("at").cum_max().over("entity")).drop("at")
    # The files are in arrival order, which is the order of these times.
    rows = rows.set_sorted(by)
    spine = spine.join_asof(rows, left_on="event_timestamp", right_on=by, by="entity", strategy="backward", coalesce=True)
    spine = spine.drop(by, strict=False)
table = spine.sort("row").collect().to_arrow()
finish(args, table, start)
