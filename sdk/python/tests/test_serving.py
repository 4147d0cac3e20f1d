"""What is served online: branches, rebuilds and audits."""

import datetime
import time

import pyarrow
import pytest

import anabranch

START = datetime.datetime(2013, 1, 1, tzinfo=datetime.timezone.utc)


def filled(client, branch):
    deadline = time.monotonic() + 60
    while True:
        [served] = [served for served in client.served_branches() if served.branch == branch]
        if not served.filling:
            return served
        assert time.monotonic() < deadline, served
        time.sleep(0.01)


def test_a_branch_is_served_rebuilt_audited_and_freed(client):
    rows = {"origin": ["JFK", "LGA"], "time": [START] * 2, "temp": [1.0, None]}
    client.ingest("weather", pyarrow.table(rows))
    client.branch("next")
    with pytest.raises(anabranch.FailedPrecondition, match="not served"):
        client.get_online_features(["weather:temp"], {"origin": ["JFK"]}, ref="next")
    client.serve_branch("next")
    served = filled(client, "next")
    assert served.commit and {view.view for view in served.views} >= {"weather"}
    assert all(view.generation and view.fill is None for view in served.views)
    found = client.get_online_features(["weather:temp"], {"origin": ["JFK"]}, ref="next")
    assert found.column("temp") == [1.0]
    client.rebuild_online("weather", branch="next")
    again = filled(client, "next")
    generation = {view.view: view.generation for view in served.views}
    assert {view.view for view in again.views if view.generation != generation[view.view]} == {"weather"}
    [audit] = client.audit("weather", branch="next")
    assert (audit.entities, audit.differing, audit.pending, audit.rebuilding, audit.examples) == (2, 0, 0, False, ())
    with pytest.raises(anabranch.InvalidArgument, match="wether"):
        client.audit("wether")
    client.unserve_branch("next")
    assert [served.branch for served in client.served_branches()] == ["main"]
