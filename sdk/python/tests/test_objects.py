"""Objects over both clients against a private server."""

import asyncio
import io
import os
import pathlib

import pytest

import anabranch
import anabranch.aio

BIG = os.urandom(1 << 20) * 9 + b"end"


def test_bytes_paths_and_files_go_in_and_come_back(client, tmp_path):
    (tmp_path / "net.bin").write_bytes(BIG)
    sent = []
    put = client.put_object("models/net.bin", tmp_path / "net.bin", message="first model", progress=sent.append)
    assert put.changed and sent[-1] == len(BIG) and client.log(1)[0].message == "first model"
    assert put.objects[0] == client.stat_object("models/net.bin")
    assert client.get_object("models/net.bin") == BIG
    assert client.get_object("models/net.bin", 1 << 20, (1 << 20) + 7) == BIG[1 << 20 : (1 << 20) + 7]
    assert client.get_object("models/net.bin", len(BIG) - 3) == b"end"
    assert not client.put_object("models/net.bin", io.BytesIO(BIG)).changed
    found = client.download_object("models/net.bin", tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == BIG and found.size == len(BIG)
    assert client.put_object("config.json", b"{}").objects[0].content_type == "application/json"
    with pytest.raises(anabranch.InvalidArgument):
        client.put_object("x", 3)
    with pytest.raises(anabranch.InvalidArgument):
        client.put_object("a//b", b"")


def test_a_file_that_fails_midway_leaves_nothing(client):
    class Torn(io.RawIOBase):
        def read(self, size=-1):
            raise OSError("a bad sector")

    head = client.commit().id
    with pytest.raises(anabranch.AnabranchError, match="a bad sector"):
        client.put_object("torn", Torn())
    assert client.commit().id == head


def test_several_are_put_listed_moved_and_deleted_at_any_ref(client):
    before = client.put_objects({"run/a.txt": b"a", "run/b/c.txt": b"c", "run/ü ?#%.txt": bytearray(b"u")}, message="runs").commit
    listed = client.list_objects("run/", delimiter="/")
    assert [found.path for found in listed.objects] == ["run/a.txt", "run/ü ?#%.txt"] and listed.prefixes == ["run/b/"]
    assert len(client.list_objects("run/", limit=2).objects) == 2
    client.rename_object("run/a.txt", "run/z.txt")
    client.copy_object("run/a.txt", "kept.txt", source_ref=before)
    client.delete_object(["run/b/c.txt", "run/ü ?#%.txt"])
    assert [found.path for found in client.list_objects("run/").objects] == ["run/z.txt"]
    assert client.get_object("kept.txt") == b"a" == client.get_object("run/a.txt", ref=before)
    with pytest.raises(anabranch.NotFound):
        client.stat_object("run/a.txt")
    with pytest.raises(anabranch.FailedPrecondition):
        client.put_object("kept.txt", b"b", if_absent=True)
    with pytest.raises(anabranch.FailedPrecondition):
        client.delete_object("kept.txt", if_match="blake3:" + "0" * 64)
    client.put_object("kept.txt", b"b", if_match=client.stat_object("kept.txt").checksum)
    with pytest.raises(anabranch.FailedPrecondition):
        client.put_object("x", b"", ref=before)


def test_what_lies_in_the_object_store_is_imported_and_watched(client):
    data = pathlib.Path(client.info().data_folder)
    store = next(path for path in data.rglob("packs") if path.is_dir()).parent
    (store / "import").mkdir()
    (store / "import" / "run.tar").write_bytes(BIG)
    imported = client.import_objects("import", "archive")
    assert [found.path for found in imported.objects] == ["archive/run.tar"] and imported.objects[0].imported
    assert client.get_object("archive/run.tar") == BIG
    (store / "import" / "run.tar").write_bytes(BIG[:-1] + b"x")
    with pytest.raises(anabranch.FailedPrecondition, match="has changed"):
        client.get_object("archive/run.tar")
    with pytest.raises(anabranch.NotFound):
        client.import_objects("import/none")


def test_the_same_calls_can_be_awaited(client):
    async def run():
        async with await anabranch.aio.connect(client.address) as aio:
            await aio.put_object("aio", b"bytes")
            names = [found.path for found in (await aio.list_objects("aio")).objects]
            return names, await aio.get_object("aio", 1, 3)

    assert asyncio.run(run()) == (["aio"], b"yt")
