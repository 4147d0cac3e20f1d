"""The point-in-time join in Polars: `join_asof` by entity for each view, 2 threads, as its documentation says.

With known times, `cum_max` keeps the rows that are true no earlier than all that were known before; of those that became known together `join_asof` takes
the last. Only keys and times go through it; the values are fetched by row number afterwards, which was faster than taking them along.
"""

import os
import time

os.environ["POLARS_MAX_THREADS"] = "2"

import polars as pl  # noqa: E402  the variable must be set first

from common import arguments, finish  # noqa: E402

args = arguments()
start = time.perf_counter()
spine = pl.scan_parquet(args.spine).sort("event_timestamp", maintain_order=True)
for view in range(args.views):
    # The files are in arrival order, which is the order of event times, or of known times where there are such.
    rows = pl.scan_parquet(f"{args.folder}/view{view}.parquet")
    if args.values == "uniform":
        rows = rows.set_sorted("at")
        spine = spine.join_asof(rows, left_on="event_timestamp", right_on="at", by="entity", strategy="backward", coalesce=True)
        spine = spine.drop("at", strict=False)
    else:
        place = f"place{view}"
        visible = rows.select("entity", "at", "known").with_row_index(place)
        visible = visible.filter(pl.col("at") == pl.col("at").cum_max().over("entity")).drop("at").set_sorted("known")
        spine = spine.join_asof(visible, left_on="event_timestamp", right_on="known", by="entity", strategy="backward", coalesce=True)
        spine = spine.drop("known", strict=False)
        spine = spine.join(rows.drop("entity", "at", "known").with_row_index(place), on=place, how="left", maintain_order="left").drop(place)
table = spine.sort("row").collect().to_arrow()
finish(args, table, start)
