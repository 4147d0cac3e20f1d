"""Saved datasets as a whole and in batches, against a private server."""

import asyncio
import datetime
import json
import sys
import types
import urllib.request

import numpy
import pandas
import polars
import pyarrow
import pytest

import anabranch
import anabranch.aio

import orders
from conftest import WEATHER

UTC = datetime.timezone.utc
ROWS = 1000


def spine(rows):
    numbers = range(rows)
    return pyarrow.table(
        {
            "origin": ["JFK" if n % 3 else "LGA" for n in numbers],
            "event_timestamp": pyarrow.array([datetime.datetime(2013, 1, 1, 6, tzinfo=UTC)] * rows, pyarrow.timestamp("us", "UTC")),
            "row": pyarrow.array(numbers, pyarrow.int64()),
            "maybe": pyarrow.array([None if n % 5 == 0 else n for n in numbers], pyarrow.int32()),
            "odd": [bool(n % 2) for n in numbers],
            "vector": pyarrow.array([[n, n + 0.5] for n in numbers], pyarrow.list_(pyarrow.float32(), 2)),
            "words": [["w"] * (n % 3) for n in numbers],
        }
    )


@pytest.fixture(scope="module")
def joined(client):
    client.push(WEATHER, [{"origin": "JFK", "time": "2013-01-01T05:00:00Z", "temp": 39.0}])
    client.flush()
    return client.get_historical_features(spine(ROWS), ["weather:temp"], save_as="train")


@pytest.fixture(scope="module")
def dataset(client, joined):
    return client.dataset("train")


@pytest.fixture(scope="module")
def other(client, joined):
    client.get_historical_features(spine(10), ["weather:temp"], save_as="other")
    return client.dataset("other")


def read(dataset, batch_size=64, **options):
    """The numbers of the rows, batch by batch, with the cursor behind each."""
    with dataset.batches(batch_size, columns=["row"], **options) as batches:
        return [(batch.column("row").to_pylist(), batches.cursor) for batch in batches]


def rows(batches):
    return [row for batch, _ in batches for row in batch]


def test_a_dataset_comes_back_as_it_was_saved(dataset, joined):
    assert (len(dataset), dataset.content_digest) == (ROWS, joined.content_digest)
    expected = joined.to_arrow()
    assert dataset.to_arrow().equals(expected.cast(dataset.to_arrow().schema))
    assert dataset.column_names == expected.column_names
    assert dataset.to_arrow(["temp", "row"]).equals(dataset.to_arrow().select(["temp", "row"]))
    assert isinstance(dataset.to_pandas(["row"]), pandas.DataFrame) and isinstance(dataset.to_polars(["row"]), polars.DataFrame)
    with pytest.raises(anabranch.InvalidArgument, match="price.*origin"):
        dataset.to_arrow(["price"])
    with pytest.raises(anabranch.NotFound, match="held-out"):
        dataset.to_arrow(split="held-out")


def test_without_a_seed_rows_keep_their_order(dataset):
    batches = read(dataset)
    assert rows(batches) == list(range(ROWS))
    assert [len(batch) for batch, _ in batches] == [64] * 15 + [40]
    assert [len(batch) for batch, _ in read(dataset, drop_last=True)] == [64] * 15


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(dataset):
    first, again, second, seeded = (rows(read(dataset, seed=s, epoch=e)) for s, e in ((7, 0), (7, 0), (7, 1), (8, 0)))
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first == again
    assert len({tuple(order) for order in (first, second, seeded, range(ROWS))}) == 4


def test_the_order_of_an_epoch_is_the_one_that_is_written_down(dataset):
    assert rows(read(dataset, seed=7, epoch=3)) == orders.order(dataset.content_digest, "", ROWS, 7, 3)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_workers_share_the_same_order_whatever_their_number(dataset, world_size):
    whole = rows(read(dataset, 10, seed=3))
    ranks = [read(dataset, 10, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    interleaved = []
    for step in range(max(len(batches) for batches in ranks)):
        parts = [batches[step][0] for batches in ranks if step < len(batches)]
        for row in range(len(parts[0])):
            interleaved += [part[row] for part in parts if row < len(part)]
    assert interleaved == whole
    assert all(len({batches[step][1] for batches in ranks if step < len(batches)}) == 1 for step in range(len(ranks[0])))


def test_going_on_from_any_cursor_gives_the_rest(dataset):
    whole = read(dataset, seed=5, epoch=2)
    for done, (_, cursor) in enumerate(whole):
        cursor = json.loads(json.dumps({"cursor": cursor}))["cursor"]
        assert read(dataset, seed=5, epoch=2, cursor=cursor) == whole[done + 1 :]


def test_going_on_in_another_world_leaves_no_row_out_and_gives_none_twice(dataset):
    before = [read(dataset, 16, seed=5, rank=rank, world_size=4)[:3] for rank in range(4)]
    cursors = {batches[-1][1] for batches in before}
    assert len(cursors) == 1
    after = [read(dataset, 50, cursor=cursors.copy().pop(), rank=rank, world_size=3) for rank in range(3)]
    assert sorted(row for batches in before + after for row in rows(batches)) == list(range(ROWS))


def test_a_cursor_says_its_seed_and_epoch_and_fits_nothing_else(dataset, other):
    with dataset.batches(10, seed=5, epoch=2) as batches:
        assert (len(batches), batches.num_rows, batches.seed, batches.epoch) == (100, ROWS, 5, 2)
        next(batches)
        cursor = batches.cursor
    with dataset.batches(10, cursor=cursor) as batches:
        assert (len(batches), batches.seed, batches.epoch, batches.cursor) == (99, 5, 2, cursor)
    for wrong, options in ((other, {}), (dataset, {"seed": 6}), (dataset, {"epoch": 1})):
        with pytest.raises(anabranch.FailedPrecondition, match="cursor"):
            wrong.batches(10, cursor=cursor, **options)
    for bad in ("x", cursor[:-1], cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:]):
        with pytest.raises(anabranch.InvalidArgument, match="cursor"):
            dataset.batches(10, cursor=bad)


def test_what_cannot_be_is_refused(dataset):
    for options in ({"batch_size": 0}, {"batch_size": 1, "rank": 2, "world_size": 2}, {"batch_size": 1, "rank": -1}, {"batch_size": 1, "world_size": 0}):
        with pytest.raises(anabranch.InvalidArgument):
            dataset.batches(**options)
    with pytest.raises(anabranch.InvalidArgument, match="parquet"):
        dataset.batches(1, format="parquet")


def test_a_name_that_has_another_content_is_not_mixed_up(client, joined):
    client.branch("moving")
    moving = client.at("moving")
    first = moving.dataset("train")
    moving.delete_object("datasets/train")
    moving.get_historical_features(spine(20), ["weather:temp"], save_as="train")
    with pytest.raises(anabranch.FailedPrecondition, match="train"):
        first.to_arrow()
    assert len(moving.dataset("train")) == 20


def test_batches_come_in_the_form_asked_for(dataset):
    with dataset.batches(100, format="numpy") as batches:
        batch = next(batches)
    assert batch["row"].tolist() == list(range(100)) and not batch["row"].flags.owndata
    assert batch["event_timestamp"].dtype == numpy.dtype("datetime64[us]")
    assert batch["maybe"].mask.tolist() == [n % 5 == 0 for n in range(100)] and batch["maybe"][1] == 1
    assert numpy.isnan(batch["temp"][0]) and batch["temp"][1] == 39.0
    assert batch["vector"].shape == (100, 2) and batch["vector"][7].tolist() == [7, 7.5]
    assert batch["odd"].tolist() == [bool(n % 2) for n in range(100)] and list(batch["words"][2]) == ["w", "w"]
    for format, kind in (("arrow", pyarrow.RecordBatch), ("pandas", pandas.DataFrame), ("polars", polars.DataFrame)):
        with dataset.batches(10, format=format, columns=["row", "origin"]) as batches:
            batch = next(batches)
        assert isinstance(batch, kind) and list(batch["row"].to_pylist() if format == "arrow" else batch["row"]) == list(range(10))


def test_tensors_want_torch(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="PyTorch"):
        dataset.batches(10, format="torch")
    with pytest.raises(ImportError, match="PyTorch"):
        dataset.to_torch(["row"])


def test_tensors_are_made_of_numbers_alone(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(from_numpy=lambda array: ("tensor", array)))
    tensors = dataset.to_torch(["row", "temp", "odd", "vector", "event_timestamp"])
    assert all(kind == "tensor" and array.flags.writeable for kind, array in tensors.values())
    assert tensors["event_timestamp"][1][0] == 1357020000000000 and tensors["vector"][1].shape == (ROWS, 2)
    for column in ("origin", "words", "maybe"):
        with pytest.raises(anabranch.InvalidArgument, match=column):
            dataset.to_torch([column])


def readers(client):
    with urllib.request.urlopen(f"{client.address}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return int(next(line for line in lines if line.startswith("anabranch_dataset_readers ")).split()[1])


def test_closing_half_way_ends_the_work_at_the_server(client, dataset):
    batches = dataset.batches(1, seed=1)
    next(batches)
    batches.close()
    assert next(batches, None) is None
    left = dataset.batches(1, seed=1)
    next(left)
    del left
    while readers(client):
        pass


def test_asyncio_has_the_same(client, dataset):
    async def run():
        aio = await anabranch.aio.connect(client.address)
        handle = await aio.dataset("train")
        async with await handle.batches(64, seed=7, columns=["row"]) as batches:
            found = [(batch.column("row").to_pylist(), batches.cursor) async for batch in batches]
        return found, (await handle.to_table(["row"])).to_arrow()

    found, table = asyncio.run(run())
    assert found == read(dataset, seed=7)
    assert table.column("row").to_pylist() == list(range(ROWS))
