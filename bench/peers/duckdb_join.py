"""The point-in-time join in DuckDB: an ASOF LEFT JOIN for each view, 2 threads, as its documentation says.

With known times, the rows that are true no earlier than all that were known before are kept by a window, and joined by known time. Of rows that became
known together the last one counts, which an ASOF join does not promise, so the window keeps only that.
"""

import time

import duckdb

from common import arguments, finish

VISIBLE = """(
    SELECT * FROM (
        SELECT *, max(at) OVER (PARTITION BY entity ORDER BY known, file_row_number ROWS UNBOUNDED PRECEDING) AS latest
        FROM read_parquet('{file}', file_row_number = true)
    )
    WHERE at = latest
    QUALIFY lead(known) OVER (PARTITION BY entity ORDER BY known, file_row_number) IS DISTINCT FROM known
)"""

args = arguments()
start = time.perf_counter()
connection = duckdb.connect()
connection.execute("SET threads = 2")
plain = args.values == "uniform"
rows = "read_parquet('{file}')" if plain else VISIBLE
by = "at" if plain else "known"
columns = ", ".join(f"v{view}.{name}" for view, names in enumerate(args.names) for name in names)
joins = "\n".join(
    f"ASOF LEFT JOIN {rows.format(file=f'{args.folder}/view{view}.parquet')} v{view} ON s.entity = v{view}.entity AND s.event_timestamp >= v{view}.{by}"
    for view in range(args.views)
)
query = f"SELECT s.row, s.entity, s.event_timestamp, {columns} FROM read_parquet('{args.spine}') s {joins} ORDER BY s.row"
table = connection.execute(query).to_arrow_table()
finish(args, table, start)
