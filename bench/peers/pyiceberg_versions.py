"""PyIceberg's SQL catalog on SQLite: appends of 100 rows to one table, each a commit."""

import json
import statistics
import time

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

from versions import arguments

args = arguments()
catalog = SqlCatalog("peer", uri=f"sqlite:///{args.folder}/catalog.db", warehouse=f"file://{args.folder}/warehouse")
catalog.create_namespace("bench")
schema = pa.schema([("entity", pa.int64()), ("x", pa.float64())])
table = catalog.create_table("bench.view", schema=schema)
took = []
for number in range(args.commits):
    rows = pa.table({"entity": list(range(100)), "x": [float(number)] * 100}, schema=schema)
    start = time.perf_counter()
    table.append(rows)
    took.append(time.perf_counter() - start)
figures = {
    "commits": args.commits,
    "append_p50_ms_first_20": statistics.median(took[:20]) * 1e3,
    "append_p50_ms_last_20": statistics.median(took[-20:]) * 1e3,
}
print(json.dumps(figures))
