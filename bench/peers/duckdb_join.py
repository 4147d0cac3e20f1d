"""The point-in-time join in DuckDB: an ASOF LEFT JOIN for each view, 2 threads, as its documentation says.

With known times, a window keeps the rows that are true no earlier than all that were known before, and the last of those that became known together,
because an ASOF join does not promise which it takes. Only keys and times go through the window and the join; the values are fetched by row number
afterwards, which took two thirds of the time of taking them along.
"""

import time

import duckdb

from common import arguments, finish

# The rows of a file are in the order of their known times.
VISIBLE = """(
    SELECT entity, known, max(file_row_number) AS place
    FROM (
        SELECT entity, known, file_row_number, "at",
            max("at") OVER (PARTITION BY entity ORDER BY file_row_number ROWS UNBOUNDED PRECEDING) AS latest
        FROM read_parquet('{file}', file_row_number = true)
    )
    WHERE "at" = latest
    GROUP BY entity, known
)"""

args = arguments()
start = time.perf_counter()
connection = duckdb.connect()
connection.execute("SET threads = 2")
files = [f"{args.folder}/view{view}.parquet" for view in range(args.views)]
columns = ", ".join(f"v{view}.{name}" for view, names in enumerate(args.names) for name in names)
spine = f"SELECT s.row, s.entity, s.event_timestamp, {{}} FROM read_parquet('{args.spine}') s"
if args.values == "uniform":
    joins = [
        f'ASOF LEFT JOIN read_parquet(\'{file}\') v{view} ON s.entity = v{view}.entity AND s.event_timestamp >= v{view}."at"'
        for view, file in enumerate(files)
    ]
    query = " ".join([spine.format(columns), *joins, "ORDER BY s.row"])
else:
    joins = [
        f"ASOF LEFT JOIN {VISIBLE.format(file=file)} k{view} ON s.entity = k{view}.entity AND s.event_timestamp >= k{view}.known"
        for view, file in enumerate(files)
    ]
    places = ", ".join(f"k{view}.place AS place{view}" for view in range(args.views))
    fetches = [
        f"LEFT JOIN read_parquet('{file}', file_row_number = true) v{view} ON m.place{view} = v{view}.file_row_number"
        for view, file in enumerate(files)
    ]
    matched = " ".join([spine.format(places), *joins])
    query = " ".join([f"WITH m AS ({matched}) SELECT m.row, m.entity, m.event_timestamp, {columns} FROM m", *fetches, "ORDER BY m.row"])
table = connection.sql(query).to_arrow_table()
finish(args, table, start)
