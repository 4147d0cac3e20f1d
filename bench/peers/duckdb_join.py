"""The point-in-time join in DuckDB: an ASOF LEFT JOIN for each view, 2 threads, as its documentation says."""

import sys
import time

import duckdb

from common import arguments, finish

args = arguments()
start = time.perf_counter()
connection = duckdb.connect()
connection.execute("SET threads = 2")
columns = ", ".join(f"v{view}.f{view}_{i}" for view in range(args.views) for i in range(args.features))
joins = "\n".join(
    f"ASOF LEFT JOIN read_parquet('{args.folder}/view{view}.parquet') v{view} ON s.entity = v{view}.entity AND s.event_timestamp >= v{view}.at"
    for view in range(args.views)
)
query = f"SELECT s.row, s.entity, s.event_timestamp, {columns} FROM read_parquet('{args.folder}/spine.parquet') s {joins} ORDER BY s.row"
table = connection.execute(query).to_arrow_table()
finish(args, table, start)
sys.exit(0)
