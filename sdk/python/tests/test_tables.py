"""Tables as files: compaction, and what others read."""

import asyncio
import datetime
import json

import pyarrow
import pyarrow.parquet
import pytest

import anabranch
from anabranch import aio

HOUR = datetime.timedelta(hours=1)
START = datetime.datetime(2013, 1, 1, tzinfo=datetime.timezone.utc)


def test_a_table_is_compacted_and_its_files_hold_every_row(client):
    for hour in range(5):
        client.ingest("weather", pyarrow.table({"origin": ["JFK", "LGA"], "time": [START + hour * HOUR] * 2, "temp": [float(hour), None]}))
    before = client.table_files("weather")
    client.tag("small")
    assert [file.rows for file in before] == [2] * 5
    [done] = client.compact("weather")
    assert (done.namespace, done.name, done.outcome, done.reason) == ("features", "weather", "compacted", "")
    assert (done.files_before, done.files_after, done.rows) == (5, 1, 10)
    [after] = client.table_files("weather")
    assert (after.rows, after.bytes, after.fill) == (10, done.bytes_after, None)
    rows = pyarrow.parquet.read_table(after.location.removeprefix("file://"))
    assert rows.num_rows == 10 and sorted(rows["temp"].drop_null().to_pylist()) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert rows["_arrival"].null_count == rows["_source"].null_count == rows["_position"].null_count == 0
    assert client.table_files("weather", ref="tag:small") == before
    assert {table.outcome for table in client.compact(full=True)} == {"nothing"}


def test_metadata_names_the_files_of_its_ref(client):
    metadata = json.loads(client.table_metadata("weather"))
    assert metadata["format-version"] == 2
    with pytest.raises(anabranch.NotFound, match="none"):
        client.table_metadata("none")
    with pytest.raises(anabranch.NotFound, match="none"):
        client.compact(["weather", "none"])


def test_the_asyncio_client_has_the_same(client):
    async def main():
        async with await aio.connect(client.address) as other:
            return await other.table_files("weather"), await other.table_metadata("weather"), await other.compact("weather", branch="main")

    files, metadata, tables = asyncio.run(main())
    assert files == client.table_files("weather")
    assert json.loads(metadata)["format-version"] == 2
    assert [table.outcome for table in tables] == ["nothing"]
