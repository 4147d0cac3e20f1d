"""The floor: one SQLite table without versions, write-ahead log, every commit synced."""

import json
import random
import sqlite3
import time

from versions import arguments, key, median_ms, tree_bytes, values

args = arguments()
connection = sqlite3.connect(args.folder / "floor.db", isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA synchronous = FULL")
connection.execute("PRAGMA cache_size = -1000000")
connection.execute("CREATE TABLE map (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
source = values(args)
start = time.perf_counter()
for first in range(0, args.keys, 500_000):
    connection.execute("BEGIN")
    rows = ((key(number), next(source)) for number in range(first, min(first + 500_000, args.keys)))
    connection.executemany("INSERT INTO map VALUES (?, ?)", rows)
    connection.execute("COMMIT")
load = time.perf_counter() - start
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
size = tree_bytes(args.folder)

rng = random.Random(args.seed + 1)


def put(numbers):
    connection.execute("BEGIN")
    connection.executemany("UPDATE map SET value = ? WHERE key = ?", [(next(source), key(number)) for number in numbers])
    connection.execute("COMMIT")


small = median_ms((lambda: put([rng.randrange(args.keys)])) for _ in range(300))
many = min(500_000, args.keys)
first = (args.keys - many) // 2
clustered = median_ms([lambda: put(range(first, first + many))]) / 1e3
scattered = median_ms([lambda: put(sorted(rng.randrange(args.keys) for _ in range(many)))]) / 1e3

wanted = [key(rng.randrange(args.keys)) for _ in range(200_000)]
for _ in range(2):
    start = time.perf_counter()
    for name in wanted:
        connection.execute("SELECT value FROM map WHERE key = ?", (name,)).fetchone()
    points = len(wanted) / (time.perf_counter() - start)
start = time.perf_counter()
scanned = sum(1 for _ in connection.execute("SELECT key, value FROM map ORDER BY key LIMIT 2000000"))
scan = scanned / (time.perf_counter() - start)

figures = {
    "load_keys_per_s": args.keys / load,
    "bytes_per_key": size / args.keys,
    "commit_1_key_p50_ms": small,
    "commit_500k_clustered_s": clustered,
    "commit_500k_random_s": scattered,
    "point_read_per_s": points,
    "scan_keys_per_s": scan,
}
print(json.dumps(figures))
