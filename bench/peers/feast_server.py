"""Feast's feature server over Redis: writes the entities by its own API, then runs `feast serve` until standard input ends."""

import argparse
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

ROWS = 10_000

parser = argparse.ArgumentParser()
parser.add_argument("--folder", type=Path, required=True)
parser.add_argument("--redis", required=True)
parser.add_argument("--port", required=True)
for name in ["--entities", "--views", "--features", "--seed", "--workers"]:
    parser.add_argument(name, type=int, required=True)
args = parser.parse_args()


def values(entities, view, feature):
    """The values of the Rust side: SplitMix64 over the seed and the place of the value."""
    place = entities.astype(np.uint64) * np.uint64(args.views * args.features) + np.uint64(view * args.features + feature)
    x = (place + np.uint64(args.seed)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


(args.folder / "feature_store.yaml").write_text(
    f"""project: bench
provider: local
registry: registry.db
online_store:
  type: redis
  connection_string: "{args.redis}"
offline_store:
  type: file
entity_key_serialization_version: 3
"""
)
store = FeatureStore(repo_path=str(args.folder))
entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
views = [
    FeatureView(
        name=f"view{view}",
        entities=[entity],
        ttl=timedelta(days=36_500),
        schema=[Field(name=f"f{view}_{i}", dtype=Float64) for i in range(args.features)],
        source=FileSource(name=f"source{view}", path=str(args.folder / f"view{view}.parquet"), timestamp_field="at"),
    )
    for view in range(args.views)
]
for view in range(args.views):
    frame = pd.DataFrame({"entity": pd.Series(dtype="int64"), "at": pd.Series(dtype="datetime64[us, UTC]")})
    for i in range(args.features):
        frame[f"f{view}_{i}"] = pd.Series(dtype="float64")
    frame.to_parquet(args.folder / f"view{view}.parquet")
store.apply([entity, *views, FeatureService(name="all", features=views)])
for view in range(args.views):
    for first in range(0, args.entities, ROWS):
        entities = np.arange(first, min(first + ROWS, args.entities), dtype=np.int64)
        columns = {"entity": entities, "at": datetime(2026, 1, 1, tzinfo=timezone.utc)}
        columns |= {f"f{view}_{i}": values(entities, view, i) for i in range(args.features)}
        store.write_to_online_store(f"view{view}", df=pd.DataFrame(columns))

feast = str(Path(sys.executable).parent / "feast")
program = [feast] if Path(feast).exists() else [sys.executable, "-c", "from feast.cli.cli import cli; cli()"]
serve = ["--chdir", str(args.folder), "serve", "--host", "127.0.0.1", "--port", args.port, "--no-access-log", "--workers", str(args.workers)]
# By default its workers are begun anew after 1,000 requests each, which cuts connections off.
serve += ["--max-requests", "0"]
server = subprocess.Popen([*program, *serve], stdin=subprocess.DEVNULL, stdout=sys.stderr)
threading.Thread(target=lambda: (sys.stdin.read(), server.send_signal(signal.SIGTERM)), daemon=True).start()
server.wait()
