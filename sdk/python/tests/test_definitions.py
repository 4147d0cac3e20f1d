"""Definitions from Python have the canonical bytes that they have from everywhere."""

import datetime

import pytest

import anabranch
from anabranch import Check, Entity, FeatureService, FeatureView, Field, Projection, Source

# The golden bytes of core/src/definition/tests.rs.
WEATHER_BYTES = (
    b'{"format":1,"kind":"feature_view","spec":{"entities":["airport"],"event_timestamp":"hour",'
    b'"fields":[{"name":"temp","type":"f64"},{"name":"wind","type":"f64"}],"lookback":"1d","name":"weather"}}'
)


def weather(**more):
    fields = {"temp": "f64", "wind": float}
    return FeatureView("weather", ["airport"], fields, event_timestamp="hour", **{"lookback": "24h", **more})


def test_a_view_has_the_golden_bytes_however_it_is_spelled():
    fields = [Field("temp", float), Field("wind", "f64")]
    airport = Entity("airport", {"origin": str})
    spelled = FeatureView("weather", [airport], fields, event_timestamp="hour", lookback=datetime.timedelta(days=1), tags={}, owner="")
    assert weather().to_bytes() == spelled.to_bytes() == WEATHER_BYTES


def test_every_kind_has_canonical_bytes():
    for definition, golden in [
        (Entity("airport", {"origin": str}), b'{"format":1,"kind":"entity","spec":{"join_keys":[{"name":"origin","type":"string"}],"name":"airport"}}'),
        (Source.push("live"), b'{"format":1,"kind":"source","spec":{"name":"live","via":"push"}}'),
        (
            Source.file("past", "past/*.csv", "csv"),
            b'{"format":1,"kind":"source","spec":{"name":"past","via":{"file":{"format":"csv","path":"past/*.csv"}}}}',
        ),
        (
            Check.range("warm", weather(), "temp", min=-60, max=60),
            b'{"format":1,"kind":"check","spec":{"column":"temp","name":"warm","rule":{"range":{"max":60,"min":-60}},"view":"weather"}}',
        ),
        (
            Check.not_null("known", "weather", "temp"),
            b'{"format":1,"kind":"check","spec":{"column":"temp","name":"known","rule":{"not_null":{}},"view":"weather"}}',
        ),
        (
            FeatureService("s", [weather()["temp"], Projection("weather", alias="there", key_map={"origin": "dest"})]),
            b'{"format":1,"kind":"feature_service","spec":{"features":[{"features":["temp"],"view":"weather"},'
            b'{"alias":"there","key_map":{"origin":"dest"},"view":"weather"}],"name":"s"}}',
        ),
        (
            FeatureService("s", ["weather"], sample_rate=0.01),
            b'{"format":1,"kind":"feature_service","spec":{"features":[{"view":"weather"}],"logging":{"sample_rate":0.01},"name":"s"}}',
        ),
        (
            FeatureService("s", ["weather"], sample_rate=0),
            b'{"format":1,"kind":"feature_service","spec":{"features":[{"view":"weather"}],"name":"s"}}',
        ),
    ]:
        assert definition.to_bytes() == golden
    with pytest.raises(anabranch.InvalidArgument, match="between 0 and 1"):
        FeatureService("s", ["weather"], sample_rate=2).to_bytes()


def test_types_are_spelled_or_given_as_python_types():
    pairs = {bool: "bool", int: "i64", float: "f64", str: "string", bytes: "bytes", datetime.datetime: "timestamp", list[float]: "list<f64>"}
    for of, name in pairs.items():
        assert Field("x", of).to_spec() == {"name": "x", "type": name}
    with pytest.raises(anabranch.InvalidArgument, match="no type of a feature"):
        Field("x", dict).to_spec()


def test_times_in_checks_are_in_utc():
    east = datetime.timezone(datetime.timedelta(hours=1))
    check = Check.range("c", "v", "t", min=datetime.datetime(2013, 1, 1, 1, tzinfo=east), max=datetime.datetime(2013, 1, 2))
    assert check.rule == {"range": {"min": "2013-01-01T00:00:00Z", "max": "2013-01-02T00:00:00Z"}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"lookback": "soon"},
        {"lookback": "0s"},
        {"partition": "year"},
        {"known_timestamp": "hour"},
        {"online_ttl": "2d", "retention": "1d"},
    ],
)
def test_definitions_that_contradict_themselves_are_refused(wrong):
    with pytest.raises(anabranch.InvalidArgument, match="weather") as error:
        weather(**wrong).to_bytes()
    assert error.value.kind == "invalid_argument"
    assert isinstance(error.value, anabranch.AnabranchError)
    assert isinstance(error.value, ValueError)


def test_names_and_keys_are_checked():
    with pytest.raises(anabranch.InvalidArgument, match="not a letter"):
        Entity("air-port", {"origin": str}).to_bytes()
    with pytest.raises(anabranch.InvalidArgument, match="join key cannot be f64"):
        Entity("airport", {"origin": float}).to_bytes()
    with pytest.raises(anabranch.InvalidArgument, match="dictionary"):
        Entity("airport", ["origin"]).to_bytes()
