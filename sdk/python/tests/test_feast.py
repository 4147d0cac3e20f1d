"""Feast's own client against a server of ours. Feast has an environment of its own, which `scripts/setup test` makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import anabranch
from anabranch import Entity, FeatureService, FeatureView, Projection

CACHE = Path(os.environ.get("ANABRANCH_CACHE", Path(__file__).parents[3] / ".cache"))
PYTHON = CACHE / "feast/bin/python"

AIRPORT = Entity("airport", join_keys={"origin": "string"})
CARRIER = Entity("carrier", join_keys={"code": "i64"})
DELAYS = FeatureView(
    "delays",
    entities=[AIRPORT, CARRIER],
    fields={
        "mean": "f64",
        "flights": "i64",
        "late": "bool",
        "last": "timestamp",
        "reasons": "list<string>",
        "shape": "vector<2>",
    },
    event_timestamp="at",
    source="delays_push",
)


@pytest.mark.timeout(300)
def test_feasts_client_reads_and_writes_and_is_told_its_mistakes(tmp_path):
    assert PYTHON.exists(), f"there is no {PYTHON}: run `make setup`"
    with anabranch.open(tmp_path / "data") as client:
        model = FeatureService("model", features=[Projection(DELAYS, features=["mean", "flights"])])
        client.apply([AIRPORT, CARRIER, anabranch.Source.push("delays_push"), DELAYS, model])
        (tmp_path / "feast").mkdir()
        command = [PYTHON, Path(__file__).with_name("feast_client.py"), client.address, tmp_path / "feast"]
        quiet = {**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=quiet)
        assert done.returncode == 0 and done.stdout.endswith("ok\n"), f"{done.stdout}\n{done.stderr}"
        # What Feast wrote is history as well.
        client.flush()
        assert sorted(client.sql("SELECT mean FROM delays WHERE origin = 'JFK' ORDER BY at").column("mean"))[0] == 3.5
