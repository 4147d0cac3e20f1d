"""The asyncio client against a private server."""

import asyncio

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
        answers = asyncio.Event()
        answers.set()
        async with await _proxy(client.address, answers) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            aio = await anabranch.aio.connect(f"http://127.0.0.1:{port}")
            pid = (await aio.info()).pid
            answers.clear()
            waiting = asyncio.create_task(aio.info())
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            answers.set()
            assert (await aio.info()).pid == pid

    asyncio.run(run())


async def _proxy(address, answers):
    """A listener before a server that holds its answers back while `answers` is not set."""
    host, port = address.removeprefix("http://").rsplit(":", 1)

    async def pump(reader, writer, go):
        while data := await reader.read(65536):
            await go.wait()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader, writer):
        always = asyncio.Event()
        always.set()
        there, here = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, here, always), pump(there, writer, answers), return_exceptions=True)

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def test_both_clients_have_the_same_calls():
    def public(client):
        return {name for name in dir(client) if not name.startswith("_")}

    assert public(anabranch.Client) == public(anabranch.aio.Client)
