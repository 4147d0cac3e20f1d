"""Rows in and out of plain Python, without a server."""

import datetime
import json
import math
import sys

import numpy
import pandas
import polars
import pyarrow
import pytest

import anabranch
from anabranch import rows
from anabranch.tables import Table

UTC = datetime.timezone.utc
NOON = datetime.datetime(2013, 1, 1, 12, tzinfo=UTC)


def table_of(data):
    return pyarrow.table(rows.to_arrow(data))


def test_plain_values_keep_their_types():
    table = table_of(
        {
            "flag": [True, None],
            "count": [1, -(2**63)],
            "share": [1, 0.5],
            "name": ["ä", None],
            "raw": [b"\x00", None],
            "time": [NOON, datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)],
            "day": [datetime.date(2013, 1, 1), None],
            "items": [[1, 2], []],
            "parts": [[1, 0.5], None],
            "nothing": [None, None],
        }
    )
    micros = pyarrow.timestamp("us", "UTC")
    assert [str(of) for of in table.schema.types[:5]] == ["bool", "int64", "double", "string", "binary"]
    assert table.schema.types[5:7] == [micros, micros]
    assert table["time"].to_pylist() == [NOON, datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)]
    assert table["day"].to_pylist() == [datetime.datetime(2013, 1, 1, tzinfo=UTC), None]
    assert table["items"].to_pylist() == [[1, 2], []]
    assert table["parts"].to_pylist() == [[1.0, 0.5], None]
    assert table["nothing"].null_count == 2


def test_all_forms_of_rows_are_the_same_rows():
    expected = [{"origin": "JFK", "temp": 1.5}, {"origin": "LGA", "temp": None}]
    frame = pandas.DataFrame({"origin": ["JFK", "LGA"], "temp": [1.5, None]})
    for data in [
        expected,
        [{"origin": "JFK", "temp": 1.5}, {"origin": "LGA"}],
        {"origin": ["JFK", "LGA"], "temp": [1.5, None]},
        {"origin": numpy.array(["JFK", "LGA"]), "temp": pandas.Series([1.5, None], dtype="Float64")},
        pyarrow.table({"origin": ["JFK", "LGA"], "temp": [1.5, None]}),
        pyarrow.record_batch({"origin": ["JFK", "LGA"], "temp": [1.5, None]}),
        polars.DataFrame({"origin": ["JFK", "LGA"], "temp": [1.5, None]}),
        frame,
        frame.set_index("origin"),
        frame.set_index(pandas.Index([7, 8])),
    ]:
        assert table_of(data).select(["origin", "temp"]).to_pylist() == expected, data
        assert table_of(data).num_columns == 2
    assert table_of({"origin": "JFK", "temp": 1.5}).to_pylist() == expected[:1]
    assert table_of({"origin": ["JFK", "LGA"], "temp": 2.0})["temp"].to_pylist() == [2.0, 2.0]


def test_pandas_goes_in_and_tables_come_out_without_pyarrow(monkeypatch):
    frame = pandas.DataFrame(
        {"origin": ["JFK", None], "n": [1, 2], "time": pandas.to_datetime(["2013-01-01 12:00", None]), "x": [0.5, math.nan]}
    )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    table = Table(rows.to_arrow(frame))
    assert table.to_pydict() == {"origin": ["JFK", None], "n": [1, 2], "time": [NOON, None], "x": [0.5, None]}
    assert table.to_pandas()["n"].tolist() == [1, 2]


def test_numpy_and_pandas_scalars_are_plain_values():
    data = [
        {"a": numpy.float32(0.5), "b": numpy.int16(3), "c": numpy.datetime64("2013-01-01T12:00:00"), "d": numpy.array([1.0, 2.0])},
        {"a": pandas.NA, "b": None, "c": pandas.NaT, "d": None},
        {"c": pandas.Timestamp("2013-01-01 13:00", tz="Europe/Paris")},
    ]
    table = table_of(data)
    assert table["a"].to_pylist() == [0.5, None, None]
    assert table["c"].to_pylist() == [NOON, None, NOON]
    assert table["d"].to_pylist() == [[1.0, 2.0], None, None]
    lines = [json.loads(line) for line in rows.to_json(data).splitlines()]
    assert lines[0] == {"a": 0.5, "b": 3, "c": "2013-01-01T12:00:00Z", "d": [1.0, 2.0]}
    assert lines[1]["a"] is None


def test_rows_as_json_keep_what_each_row_has():
    lines = rows.to_json([{"x": math.nan, "raw": b"\x01", "odd": "text"}, {"odd": 7}]).splitlines()
    assert [json.loads(line) for line in lines] == [{"x": "NaN", "raw": "AQ==", "odd": "text"}, {"odd": 7}]
    assert rows.to_json({"x": [1, 2]}) is None
    assert json.loads(rows.to_json({"x": 1})) == {"x": 1}
    assert [json.loads(line) for line in rows.to_json_always(polars.DataFrame({"x": [1, 2]})).splitlines()] == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"x": [1, "a"]}, "column 'x', row 1"),
        ({"x": [1], "y": [1, 2]}, "column \"y\" has 2 values"),
        ({"x": [2**64]}, "more than 64 bits"),
        ({"x": [0.5, 2**60]}, "no exact float"),
        ({"x": [object()]}, "a object cannot be sent"),
        ({"x": [[[1]]]}, "list of lists"),
        ("origin", "holds no rows"),
        (["JFK"], "row 0 is a str"),
    ],
)
def test_what_is_no_row_is_refused_with_its_place(data, said):
    with pytest.raises(anabranch.InvalidArgument) as error:
        rows.to_arrow(data)
    assert said.replace("'", '"') in str(error.value).replace("'", '"')


def test_tables_share_their_memory_with_arrow():
    native = rows.to_arrow({"x": [1.0, 2.0], "t": [NOON, None]})
    table = Table(native)
    assert (len(table), table.column_names) == (2, ["x", "t"])
    first, second = table.to_arrow(), table.to_arrow()
    assert first["x"].chunk(0).buffers()[1].address == second["x"].chunk(0).buffers()[1].address
    assert table.to_polars()["x"].to_list() == [1.0, 2.0]
    assert table.to_pylist() == [{"x": 1.0, "t": NOON}, {"x": 2.0, "t": None}]
    assert "2 rows (x: f64, t: timestamp)" in repr(table)
    with pytest.raises(KeyError):
        table.column("y")


def test_times_of_a_spine_may_be_text_in_plain_python_rows():
    from anabranch.rows import with_times

    one = with_times({"k": 1, "t": "2026-01-02T12:00:00Z"}, "t")
    many = with_times({"k": [1, 2], "t": ["2026-01-02T12:00:00", None]}, "t")
    rows = with_times([{"k": 1, "t": "2026-01-02T13:00:00+01:00"}], "t")
    noon = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)
    assert one["t"] == many["t"][0] == rows[0]["t"] == noon
    assert many["t"][1] is None
    with pytest.raises(anabranch.InvalidArgument):
        with_times([{"t": "noon"}], "t")
