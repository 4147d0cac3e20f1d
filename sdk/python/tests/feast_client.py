"""Feast's own client with us as its online store; `test_feast.py` runs this in an environment that has Feast.

usage: feast_client.py ADDRESS FOLDER
"""

import datetime
import sys
from pathlib import Path

import pandas
import requests
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.errors import FeatureServiceNotFoundException, FeatureViewNotFoundException
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp

address, folder = sys.argv[1], Path(sys.argv[2])
UTC = datetime.timezone.utc
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=UTC)

(folder / "feature_store.yaml").write_text(
    f"project: demo\nprovider: local\nregistry: {folder}/registry.db\n"
    f"online_store:\n  type: remote\n  path: {address}\nentity_key_serialization_version: 3\n"
)
store = FeatureStore(repo_path=str(folder))

airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
carrier = Entity(name="carrier", join_keys=["code"], value_type=ValueType.INT64)
history = FileSource(name="history", path=str(folder / "delays.parquet"), timestamp_field="event_timestamp")
delays = FeatureView(
    name="delays",
    entities=[airport, carrier],
    schema=[
        Field(name="origin", dtype=String),
        Field(name="code", dtype=Int64),
        Field(name="mean", dtype=Float64),
        Field(name="flights", dtype=Int64),
        Field(name="late", dtype=Bool),
        Field(name="last", dtype=UnixTimestamp),
        Field(name="reasons", dtype=Array(String)),
        Field(name="shape", dtype=Array(Float32)),
    ],
    source=PushSource(name="delays_push", batch_source=history),
)
model = FeatureService(name="model", features=[delays[["mean", "flights"]]])
frame = pandas.DataFrame(
    {
        "origin": ["JFK", "LGA"],
        "code": [1, 2],
        "mean": [3.5, None],
        "flights": [7, 8],
        "late": [True, False],
        "last": pandas.to_datetime([NOON, NOON]),
        "reasons": [["fog", "strike"], ["snow"]],
        "shape": [[0.5, 1.0], [2.0, 4.0]],
        "event_timestamp": pandas.to_datetime([NOON, NOON]),
    }
)
frame.to_parquet(folder / "delays.parquet")
store.apply([airport, carrier, delays, model])

# Feast's client writes; its keys are composite.
store.write_to_online_store("delays", df=frame)
rows = [{"origin": "LGA", "code": 2}, {"origin": "JFK", "code": 1}, {"origin": "JFK", "code": 2}]
found = store.get_online_features(features=store.get_feature_service("model"), entity_rows=rows).to_dict()
assert found["mean"] == [None, 3.5, None], found
assert found["flights"] == [8, 7, None], found
assert found["origin"] == ["LGA", "JFK", "JFK"] and found["code"] == [2, 1, 2], found

features = [f"delays:{name}" for name in ("late", "last", "reasons", "shape")]
found = store.get_online_features(features=features, entity_rows=rows[1:2], full_feature_names=True).to_dict()
assert found["delays__late"] == [True] and found["delays__reasons"] == [["fog", "strike"]], found
assert found["delays__shape"] == [[0.5, 1.0]], found
assert int(found["delays__last"][0]) == int(NOON.timestamp()), found

# It pushes through itself, and others post to the server what its documentation says.
later = frame.assign(mean=[4.5, 5.5], event_timestamp=pandas.to_datetime([NOON + datetime.timedelta(hours=1)] * 2))
store.push("delays_push", later)
assert store.get_online_features(features=["delays:mean"], entity_rows=rows[:2]).to_dict()["mean"] == [5.5, 4.5]
body = later.assign(mean=[6.5, 7.5], event_timestamp="2026-01-01T14:00:00", last="2026-01-01T12:00:00").to_dict(orient="list")
pushed = requests.post(f"{address}/push", json={"push_source_name": "delays_push", "df": body, "to": "online"}, timeout=30)
assert pushed.status_code == 200, pushed.text
assert store.get_online_features(features=["delays:mean"], entity_rows=rows[:2]).to_dict()["mean"] == [7.5, 6.5]

# It materialises from its own history; what is online already is later and stays.
store.materialize(NOON - datetime.timedelta(days=1), NOON + datetime.timedelta(days=1))
assert store.get_online_features(features=["delays:mean"], entity_rows=rows[:2]).to_dict()["mean"] == [7.5, 6.5]
posted = requests.post(f"{address}/materialize-incremental", json={"end_ts": "2026-02-01T00:00:00"}, timeout=30)
assert posted.status_code == 200, posted.text

# Mistakes come back as its own exceptions, with our reasons.
gone = FeatureService(name="gone", features=[delays])
store.apply(gone)
try:
    store.get_online_features(features=store.get_feature_service("gone"), entity_rows=rows[:1])
    raise AssertionError("a service that we do not have was served")
except FeatureServiceNotFoundException as error:
    assert "gone" in str(error), error
other = FeatureView(name="other", entities=[airport], schema=[Field(name="origin", dtype=String), Field(name="x", dtype=Float64)], source=history)
store.apply(other)
try:
    store.write_to_online_store("other", df=pandas.DataFrame({"origin": ["JFK"], "x": [1.0], "event_timestamp": [NOON]}))
    raise AssertionError("a view that we do not have was written")
except FeatureViewNotFoundException as error:
    assert "other" in str(error), error
try:
    store.get_online_features(features=["delays:mean"], entity_rows=[{"origin": "JFK", "code": "one"}])
    raise AssertionError("a key of another type was looked up")
except Exception as error:
    assert "code" in str(error) or "one" in str(error), error
print("ok")
