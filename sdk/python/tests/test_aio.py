"""The asyncio client against a private server."""

import asyncio
import time

import pytest

import anabranch
import anabranch.aio
from anabranch import Status

from conftest import WEATHER


def test_calls_are_awaited_side_by_side(client):
    async def run():
        async with await anabranch.aio.connect(client.address) as aio:
            acknowledged = await aio.push(WEATHER, {"origin": "SFO", "time": "2013-01-01T05:00:00Z", "temp": 12.0})
            lookups = [aio.get_online_features(["weather:temp"], {"origin": o}, at_least=acknowledged.token) for o in ("SFO", "XXX")]
            here, nowhere = await asyncio.gather(*lookups)
            commit = await aio.flush()
            spine = {"origin": ["SFO"], "event_timestamp": ["2013-01-01T06:00:00Z"]}
            dataset = await aio.get_historical_features(spine, ["weather:temp"], ref=commit)
            return here, nowhere, dataset, commit

    here, nowhere, dataset, commit = asyncio.run(run())
    assert (dataset.column("temp"), dataset.commit) == ([12.0], commit)
    assert here.to_pydict() == {"temp": [12.0]}
    assert nowhere.statuses["temp"] == [Status.NOT_FOUND]
    assert commit == client.commit().id


def test_errors_are_raised_where_they_are_awaited(client):
    async def run():
        aio = await anabranch.aio.connect(client.address)
        with pytest.raises(anabranch.NotFound):
            await aio.commit("nowhere")
        with pytest.raises(anabranch.Unavailable):
            await anabranch.aio.connect("http://127.0.0.1:1")

    asyncio.run(run())


def test_a_cancelled_call_ends_and_the_loop_goes_on(client):
    async def run():
        aio = await anabranch.aio.connect(client.address)
        waiting = asyncio.create_task(
            aio.get_online_features(["weather:temp"], {"origin": "JFK"}, at_least="1:999999999", timeout=50)
        )
        await aio.info()
        started = time.monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await aio.info()).pid == client.info().pid
        return time.monotonic() - started

    assert asyncio.run(run()) < 20


def test_both_clients_have_the_same_calls():
    def public(client):
        return {name for name in dir(client) if not name.startswith("_")}

    assert public(anabranch.Client) == public(anabranch.aio.Client)
