"""A private server for each test module, and what the tests register."""

from __future__ import annotations

import pytest

import anabranch
from anabranch import Entity, FeatureService, FeatureView, Field, Projection

AIRPORT = Entity("airport", join_keys={"origin": "string"})
WEATHER = FeatureView(
    "weather",
    entities=[AIRPORT],
    fields=[Field("temp", float), Field("wind", "f64"), Field("gusts", list[float]), Field("seen", bool)],
    event_timestamp="time",
    lookback="24h",
)
ROUTE = FeatureService(
    "route",
    features=[
        Projection(WEATHER, features=["temp"], alias="here"),
        Projection(WEATHER, features=["temp"], alias="there", key_map={"origin": "dest"}),
    ],
)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with anabranch.open(tmp_path_factory.mktemp("data") / "features") as client:
        client.apply([AIRPORT, WEATHER, ROUTE], message="first")
        yield client
