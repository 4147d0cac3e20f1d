"""The guide's query in DuckDB and Spark against our own join, cell by cell, on rows made to be hard.

Few entities and few instants, so that rows tie in all but their source or position; knowledge that comes late, up to after the lookback; nulls in values
and in spine keys; corrections, deletions and the same row again; files before and after a compaction, and a column that was added between them.
"""

import datetime
import os
import random
import re
from pathlib import Path

import duckdb
import pyarrow
import pytest
from test_guides import QUICK_JAVA, ROOT, iceberg_jar

import anabranch

UTC = datetime.timezone.utc
START = datetime.datetime(2026, 1, 1, tzinfo=UTC)
HOUR = datetime.timedelta(hours=1)
TIME = pyarrow.timestamp("us", "UTC")
SPINE = pyarrow.schema([("id", pyarrow.int64()), ("user_id", pyarrow.int64()), ("event_timestamp", TIME)])
ANSWER = ["id", "user_id", "event_timestamp", "total", "plan"]


def of_the_guide(file):
    """What the guide writes to a file."""
    text = (ROOT / "docs/guide/reading-without-us.md").read_text()
    return re.search(rf"cat > {re.escape(file)} <<'(\w+)'\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL).group(2)


def random_time(chance):
    """One of few instants over fifty days, at times a microsecond beside it."""
    return START + chance.randrange(0, 50) * 24 * HOUR + chance.choice([0, 0, 0, 1, -1]) * datetime.timedelta(microseconds=1)


def random_rows(chance, count):
    late = [0, 0, 0, 1, 24, 24 * 29, 24 * 30, 24 * 31]
    rows = []
    for _ in range(count):
        at = random_time(chance)
        total = None if chance.random() < 0.2 else chance.choice([0.0, -0.5, 1 / 3, 1e300, float(chance.randrange(100))])
        plan = None if chance.random() < 0.3 else chance.choice(["free", "paid", "", "\u00fcber", "it's", "null"])
        rows.append({"user_id": chance.randrange(6), "at": at, "known": at + chance.choice(late) * HOUR, "total": total, "plan": plan})
    return pyarrow.Table.from_pylist(
        rows,
        schema=pyarrow.schema([("user_id", "int64"), ("at", TIME), ("known", TIME), ("total", "float64"), ("plan", "string")]),
    )


def random_spine(chance, count):
    edges = [0, 24 * 30, 24 * 30, 1]
    rows = []
    for place in range(count):
        user = None if chance.random() < 0.05 else chance.randrange(7)
        rows.append({"id": place, "user_id": user, "event_timestamp": random_time(chance) + chance.choice(edges) * HOUR})
    return pyarrow.Table.from_pylist(rows, schema=SPINE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with rows by every way in, the spine, and our answer to it."""
    folder = tmp_path_factory.mktemp("reading")
    chance = random.Random(20260101)
    (folder / "features.yaml").write_text(of_the_guide("features.yaml"))
    with anabranch.open(folder / "store") as client:
        client.apply(folder / "features.yaml")
        for _ in range(3):
            client.ingest("spend", random_rows(chance, 250))
        client.compact("spend")
        client.push("spend", random_rows(chance, 60))
        twice = random_rows(chance, 20)
        client.push("spend", twice)
        client.push("spend", twice)
        client.delete("spend", [{"user_id": chance.randrange(6), "at": (at := random_time(chance)), "known": at} for _ in range(15)])
        client.flush()
        wider = of_the_guide("features.yaml").replace("fields:", "fields:\n  - {name: extra, type: i64}")
        (folder / "wider.yaml").write_text(wider)
        client.apply(folder / "wider.yaml")
        client.ingest("spend", random_rows(chance, 150))
        client.tag("read")
        spine = random_spine(chance, 700)
        ours = pyarrow.table(client.get_historical_features(spine, ["spend:total", "spend:plan"], ref="tag:read"))
        (folder / "spend.metadata.json").write_bytes(client.table_metadata("spend", ref="tag:read"))
        files = [Path(file.location.removeprefix("file://")) for file in client.table_files("spend", ref="tag:read")]
        # The files of the tag stay what they are.
        client.compact("spend", full=True)
        assert len(client.table_files("spend")) == 1 < len(files)
        again = pyarrow.table(client.get_historical_features(spine, ["spend:total", "spend:plan"]))
        assert cells(again) == cells(ours)
        yield {"folder": folder, "spine": spine, "files": files, "ours": cells(ours)}


def cells(table):
    rows = table.select(ANSWER).to_pylist()
    return [tuple(row.values()) for row in rows]


def test_the_rows_are_hard(world):
    """Otherwise agreement says little."""
    totals, plans = ([row[place] for row in world["ours"]] for place in (3, 4))
    assert totals.count(None) > 50 and plans.count(None) > 50
    assert sum(a is None and b is not None for a, b in zip(totals, plans)) > 20
    assert len(set(totals)) > 20


def test_duckdb_gives_our_answer_from_the_files(world):
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.read_parquet([str(file) for file in world["files"]], union_by_name=True).create_view("spend")
    db.register("spine", world["spine"])
    assert cells(db.sql(of_the_guide("point_in_time.sql")).to_arrow_table()) == world["ours"]


def test_duckdb_gives_our_answer_from_the_iceberg_table(world):
    from pyiceberg.table import StaticTable

    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.register("spend", StaticTable.from_metadata(str(world["folder"] / "spend.metadata.json")).scan().to_arrow())
    db.register("spine", world["spine"])
    assert cells(db.sql(of_the_guide("point_in_time.sql")).to_arrow_table()) == world["ours"]


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    jar = iceberg_jar()
    assert jar, "Iceberg for Spark is not there: run `make setup`"
    os.environ["JAVA_TOOL_OPTIONS"] = QUICK_JAVA
    builder = SparkSession.builder.master("local[2]").config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    builder = builder.config("spark.ui.enabled", "false").config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "2")
    session = builder.config("spark.jars", jar).config("spark.sql.codegen.wholeStage", "false").getOrCreate()
    yield session
    session.stop()


def by_spark(spark, world):
    import pyarrow.parquet

    path = str(world["folder"] / "spine.parquet")
    pyarrow.parquet.write_table(world["spine"], path)
    spark.read.parquet(path).createOrReplaceTempView("spine")
    return cells(spark.sql(of_the_guide("point_in_time.sql")).toArrow().cast(pyarrow.schema([*SPINE, ("total", "float64"), ("plan", "string")])))


def test_spark_gives_our_answer_from_the_files(world, spark):
    files = [str(file) for file in world["files"]]
    spark.read.option("mergeSchema", "true").parquet(*files).createOrReplaceTempView("spend")
    assert by_spark(spark, world) == world["ours"]


def test_spark_gives_our_answer_from_the_iceberg_table(world, spark):
    spark.read.format("iceberg").load(f"file://{world['folder']}/spend.metadata.json").createOrReplaceTempView("spend")
    assert by_spark(spark, world) == world["ours"]
