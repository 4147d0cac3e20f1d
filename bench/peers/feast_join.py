"""The point-in-time join in Feast with its DuckDB offline store: `get_historical_features` over Parquet file sources, 2 threads."""

import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float32

from common import arguments, finish

args = arguments()
assert args.values == "uniform", "Feast's file sources know no known times"
repository = tempfile.TemporaryDirectory()
config = RepoConfig(
    project="bench",
    provider="local",
    registry=str(Path(repository.name) / "registry.db"),
    offline_store={"type": "duckdb"},
    online_store=None,
    entity_key_serialization_version=3,
)
store = FeatureStore(config=config)
entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
views = [
    FeatureView(
        name=f"view{view}",
        entities=[entity],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=Float32) for name in names],
        source=FileSource(name=f"source{view}", path=f"{args.folder}/view{view}.parquet", timestamp_field="at"),
    )
    for view, names in enumerate(args.names)
]
store.apply([entity, *views])
start = time.perf_counter()
spine = pq.read_table(args.spine).to_pandas()
features = [f"view{view}:{name}" for view, names in enumerate(args.names) for name in names]
table = store.get_historical_features(entity_df=spine, features=features).to_arrow()
table = table.sort_by("row")
finish(args, table, start)
repository.cleanup()
