"""Branches, history, merges and their conflicts, on a private server."""

import asyncio
import datetime

import pytest

import anabranch
import anabranch.aio
from anabranch import Entity

from conftest import WEATHER

UTC = datetime.timezone.utc


def at(hour):
    return datetime.datetime(2013, 1, 1, hour, tzinfo=UTC)


def entity(name, owner):
    return Entity(name, join_keys={f"k_{name}": "string"}, owner=owner)


def test_an_experiment_goes_from_branch_to_merge_and_is_taken_back(client):
    client.push(WEATHER, {"origin": "JFK", "time": at(5), "temp": 39.0})
    client.flush()
    client.branch("exp/a")
    exp = client.at("exp/a")
    exp.push(WEATHER, {"origin": "JFK", "time": at(6), "temp": 12.0})
    exp.flush()
    exp.apply(entity("plane", "ada"), message="planes")
    client.apply(entity("carrier", "grace"))

    diff = client.diff("main", "exp/a", three_dot=True, path="feature", values=True)
    assert [(d.change, d.key, d.right["owner"]) for d in diff.differences] == [("added", "entity/plane", "ada")]
    assert [(s.kind, s.added, s.removed) for s in client.diff("main", "exp/a", path="feature").summary] == [("feature", 1, 1)]
    counted = {s.kind: s for s in client.diff("main", "exp/a", summary_only=True).summary}
    assert counted["table"].changed == 1 and not client.diff("main", "exp/a", summary_only=True).differences
    assert client.merge_base("main", "exp/a").id == diff.left_commit

    head = client.commit().id
    dry = client.merge("exp/a", dry_run=True)
    assert (dry.outcome, dry.commit, dry.conflicts) == ("merged", head, ())
    assert "entity/plane" in {d.key for d in dry.changes.differences}
    assert client.commit().id == head
    merged = client.merge("exp/a", message="it worked")
    assert (merged.outcome, merged.from_commit, merged.changes) == ("merged", head, None)
    # Merged definitions judge from then on, which the pipeline writes down in a commit of its own.
    shown = client.show(merged.commit)
    assert (shown.commit.id, shown.commit.message, len(shown.commit.parents)) == (merged.commit, "it worked", 2)
    assert [d.key for d in client.show(merged.commit, parent=2).changes.differences if d.kind == "feature"] == ["entity/carrier"]
    assert client.get_online_features(["weather:temp"], {"origin": "JFK"}).column("temp") == [12.0]

    planes = client.log(path="feature/entity/plane")[0]
    assert planes.message == "planes" and planes in client.log(since=planes.time, until=planes.time)
    assert merged.commit in {commit.id for commit in client.log(3, first_parent=True)} and not client.log(author="nobody at all")
    reverted = client.revert(planes.id, message="no planes")
    assert client.commit(reverted.commit).parents == (reverted.from_commit,)
    assert "plane" not in {d.name for d in client.definitions()}
    with pytest.raises(anabranch.FailedPrecondition):
        client.revert(planes.id)
    client.cherry_pick(planes.id)
    assert "plane" in {d.name for d in client.definitions()}
    last = client.reflog(limit=1)[0]
    assert last.to_commit == client.commit().id == client.commit(f"main@{{{last.time.isoformat()}}}").id


def test_a_conflict_lists_every_key_and_changes_nothing(client):
    client.branch("dest")
    dest = client.at("dest")
    dest.apply(entity("airline", "nobody"))
    client.branch("side", "dest")
    client.at("side").apply(entity("airline", "ada"))
    dest.apply(entity("airline", "grace"))
    head = dest.commit().id
    for call in (lambda: dest.merge("side"), lambda: client.merge("side", "dest"), lambda: client.cherry_pick("side", ref="dest")):
        with pytest.raises(anabranch.MergeConflict) as caught:
            call()
        assert isinstance(caught.value, anabranch.Conflict) and caught.value.total == 1
        (conflict,) = caught.value.conflicts
        assert (conflict.kind, conflict.key) == ("feature", "entity/airline")
        assert [side["owner"] for side in (conflict.base, conflict.ours, conflict.theirs)] == ["nobody", "grace", "ada"]
        assert conflict.reason
    dry = dest.merge("side", dry_run=True)
    assert (dry.outcome, dry.conflict_count, dry.conflicts[0]) == ("conflict", 1, conflict)
    assert dest.commit().id == head
    merged = dest.merge("side", strategy="theirs", squash=True)
    assert (merged.outcome, dest.commit().parents) == ("merged", (head,))
    back = dest.reset(head, expected=merged.commit)
    assert (back.from_commit, back.to_commit, dest.commit().id) == (merged.commit, head, head)
    with pytest.raises(anabranch.Conflict) as caught:
        client.reset("dest~1", expected=merged.commit, ref="dest")
    assert not isinstance(caught.value, anabranch.MergeConflict)
    client.delete_branch("side")
    client.delete_branch("dest")


def test_branches_are_renamed_protected_and_shown(client):
    made = client.branch("odd")
    assert client.rename_branch("odd", "ä/б.1@x").id == made.id == client.show_branch("ä/б.1@x").id
    assert client.protect_branch("ä/б.1@x").protected
    for call in (
        lambda: client.delete_branch("ä/б.1@x"),
        lambda: client.rename_branch("ä/б.1@x", "odd"),
        lambda: client.reset("main~1", ref="ä/б.1@x"),
    ):
        with pytest.raises(anabranch.FailedPrecondition):
            call()
    assert not client.protect_branch("ä/б.1@x", False).protected
    client.delete_branch("ä/б.1@x")
    for error, call in [
        (anabranch.NotFound, lambda: client.show_branch("ä/б.1@x")),
        (anabranch.NotFound, lambda: client.reflog("nowhere")),
        (anabranch.NotFound, lambda: client.diff("main", "nowhere")),
        (anabranch.NotFound, lambda: client.commit("main~999")),
        (anabranch.InvalidArgument, lambda: client.branch("a b")),
        (anabranch.InvalidArgument, lambda: client.branch("")),
        (anabranch.InvalidArgument, lambda: client.merge("main", strategy="mine")),
        (anabranch.InvalidArgument, lambda: client.log(since="soon")),
        (anabranch.InvalidArgument, lambda: client.log(path="view/x")),
        (anabranch.InvalidArgument, lambda: client.show(parent=9)),
        (anabranch.Conflict, lambda: client.branch("main")),
        (anabranch.FailedPrecondition, lambda: client.rename_branch("main", "x")),
    ]:
        with pytest.raises(error):
            call()


def test_lists_are_whole_however_they_travel(client):
    for i in range(5):
        client.branch(f"page/{i}")
        client.tag(f"page/{i}")
    with anabranch.connect(client.address, page_size=2) as paged:
        assert [branch.name for branch in paged.branches("page/")] == [f"page/{i}" for i in range(5)]
        assert paged.tags("page/") == client.tags("page/")
        assert paged.log() == client.log()
        assert paged.log(3) == client.log(3)
        first = client.log()[-1].id
        assert paged.diff(first, "main") == client.diff(first, "main")
        assert paged.reflog(limit=5) == client.reflog(limit=5)


def test_the_asyncio_client_has_the_same_verbs(client):
    async def run():
        async with await anabranch.aio.connect(client.address) as aio:
            await aio.branch("aio")
            await aio.branch("aio/2")
            await aio.apply(entity("aio", "ada"), ref="aio/2")
            dry = await aio.merge("aio/2", "aio", dry_run=True)
            merged = await aio.merge("aio/2", "aio")
            reverted = await aio.revert(merged.commit, ref="aio")
            await aio.cherry_pick(merged.commit, ref="aio")
            shown = await aio.show("aio")
            back = await aio.reset(reverted.commit, ref="aio")
            await aio.rename_branch("aio/2", "aio/3")
            return dry, merged, reverted, shown, back, await aio.merge_base("aio/3", "aio")

    dry, merged, reverted, shown, back, base = asyncio.run(run())
    assert (dry.outcome, merged.outcome) == ("fast_forward", "fast_forward")
    assert [d.key for d in shown.changes.differences] == ["entity/aio"]
    assert back.to_commit == reverted.commit == client.commit("aio").id
    assert base.id == merged.commit
