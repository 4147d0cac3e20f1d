"""The blocking client against a private server."""

import datetime
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy
import pandas
import polars
import pyarrow
import pytest

import anabranch
from anabranch import Check, FeatureView, Status

from conftest import AIRPORT, ROUTE, WEATHER

UTC = datetime.timezone.utc


def at(hour):
    return datetime.datetime(2013, 1, 1, hour, tzinfo=UTC)


@pytest.fixture(scope="module")
def pushed(client):
    """Weather at two airports, in a commit; and the token of the push."""
    rows = [
        {"origin": "JFK", "time": at(5), "temp": 39.0, "wind": 10, "gusts": [1, 2.5], "seen": True},
        {"origin": "JFK", "time": at(7), "temp": 41.0},
        {"origin": "LGA", "time": at(5), "temp": None},
    ]
    acknowledged = client.push(WEATHER, rows)
    assert (acknowledged.rows, acknowledged.duplicate) == (3, False)
    return client.flush(), acknowledged.token


def test_planning_again_finds_nothing_and_breaking_changes_are_refused(client):
    assert not client.plan([AIRPORT, WEATHER, ROUTE]).changes
    narrowed = FeatureView("weather", [AIRPORT], {"temp": "f64"}, event_timestamp="time", lookback="24h")
    plan = client.plan(narrowed)
    assert plan.breaking and "wind" in str(plan)
    with pytest.raises(anabranch.FailedPrecondition):
        client.apply(narrowed)
    assert {(d.kind, d.name) for d in client.definitions()} == {("entity", "airport"), ("feature_view", "weather"), ("feature_service", "route")}


def test_python_and_yaml_are_the_same_definitions(client, tmp_path):
    for definition in client.definitions():
        (tmp_path / f"{definition.name}.yaml").write_text(definition.yaml)
    assert not client.plan(tmp_path).changes
    assert not client.plan([str(tmp_path / "weather.yaml"), AIRPORT]).changes
    (tmp_path / "weather.yaml").write_text("kind: feature_view\nname: weather\nfeilds: []\n")
    with pytest.raises(anabranch.InvalidArgument, match=r"weather.yaml:\d"):
        client.plan(tmp_path)


def test_lookups_say_what_is_there_and_why_not(client, pushed):
    found = client.get_online_features(["weather:temp", "weather:gusts"], [{"origin": o} for o in ("JFK", "LGA", "XXX")], at_least=pushed[1])
    assert found.to_pydict() == {"temp": [41.0, None, None], "gusts": [None, None, None]}
    assert found.statuses["temp"] == [Status.PRESENT, Status.NULL_VALUE, Status.NOT_FOUND]
    assert found.event_times == {"temp": [at(7), at(5), None]}
    arrays, statuses, times, ages = found.to_numpy(), found.statuses_to_numpy(), found.event_times_to_numpy(), found.ages_to_numpy()
    assert arrays["temp"][0] == 41.0 and numpy.isnan(arrays["temp"][1:]).all()
    assert statuses["temp"].dtype == numpy.uint8 and statuses["gusts"].tolist() == [Status.NULL_VALUE, Status.NULL_VALUE, Status.NOT_FOUND]
    assert times["gusts"][0] == numpy.datetime64(at(7).replace(tzinfo=None), "us") and numpy.isnat(times["gusts"][2])
    assert ages["temp"][0] == numpy.datetime64(found.as_of.replace(tzinfo=None), "us") - times["temp"][0] and numpy.isnat(ages["temp"][2])
    for keys in [{"origin": ["JFK"]}, {"origin": "JFK"}, pandas.DataFrame({"origin": ["JFK"]}), polars.DataFrame({"origin": ["JFK"]})]:
        assert client.get_online_features(["weather:temp"], keys).to_pydict() == {"temp": [41.0]}
    route = client.get_online_features(ROUTE, {"origin": "JFK", "dest": "LGA"})
    assert route.to_pydict() == {"here__temp": [41.0], "there__temp": [None]}
    assert client.get_online_features("route", {"origin": "LGA", "dest": "JFK"}).column("there__temp") == [41.0]


def test_a_dataset_is_what_was_true_at_each_time_and_the_same_again(client, pushed):
    spine = pandas.DataFrame({"origin": ["JFK", "JFK", "JFK", "XXX"], "event_timestamp": [at(6), at(7), at(4), at(7)], "label": [1, 2, 3, 4]})
    dataset = client.get_historical_features(spine, ["weather:temp", "weather:seen"], save_as="train")
    assert dataset.column_names == ["origin", "event_timestamp", "label", "temp", "seen"]
    assert dataset.column("temp") == [39.0, 41.0, None, None]
    assert dataset.column("seen") == [True, None, None, None]
    assert client.get_historical_features(spine, ["weather:temp"], strict=True).column("temp") == [39.0, 39.0, None, None]
    for same in [polars.from_pandas(spine), pyarrow.Table.from_pandas(spine), spine.to_dict("list"), spine.to_dict("records")]:
        again = client.get_historical_features(same, ["weather:temp", "weather:seen"], ref=dataset.commit)
        assert again.content_digest == dataset.content_digest
    assert dataset.to_pandas()["temp"].isna().tolist() == [False, False, True, True]
    assert client.dataset("train").manifest["spec"]["content_digest"] == dataset.content_digest
    assert [saved.name for saved in client.datasets()] == ["train"]


def test_a_saved_dataset_has_its_rows_and_splits_and_is_refreshed_and_compared(client, pushed):
    spine = {"origin": ["JFK", "LGA", "EWR", "JFK"] * 10, "event_timestamp": [at(hour % 24) for hour in range(40)]}
    saved = client.create_dataset("kept", spine, ["weather:temp"], splits="train=0.5,test=0.5", split_by=["origin", "event_timestamp"])
    spec = saved.manifest["spec"]
    assert spec["rows"] == 40 and spec["statistics"][2]["count"] > 0
    rows = client.read_dataset("kept")
    assert rows.column("temp") == client.get_historical_features(spine, ["weather:temp"], ref=spec["commit"]).column("temp")
    parts = [client.read_dataset("kept", split=split["name"], columns=["origin"]) for split in spec["splits"]["parts"]]
    assert [len(part.column("origin")) for part in parts] == [split["rows"] for split in spec["splits"]["parts"]]
    assert client.refresh_dataset("kept", "kept_again").manifest["spec"]["base"]["recomputed"] == 0
    diff = client.diff_datasets("kept", "kept_again")
    assert diff["same_content"] and diff["columns"][2]["change"] == "same"
    with pytest.raises(anabranch.Conflict):
        client.create_dataset("kept", spine, ["weather:wind"])
    events = client.create_dataset("events", anabranch.Events("weather"), ["weather:temp"], strict=True)
    assert events.manifest["spec"]["spine"] == {"events": "weather"}
    again = client.get_historical_features(anabranch.Events("weather"), ["weather:temp"], strict=True, ref=events.manifest["spec"]["commit"])
    assert again.content_digest == events.manifest["spec"]["content_digest"]


def test_frames_and_files_go_in_in_bulk_and_once(client, tmp_path):
    frame = pandas.DataFrame({"origin": ["EWR"] * 3, "time": [at(1), at(2), at(3)], "temp": [1.0, 2.0, 3.0]})
    assert client.ingest("weather", frame, stream_id="night").rows == 3
    assert client.ingest("weather", frame, stream_id="night").duplicates == 3
    path = tmp_path / "rows.parquet"
    frame.assign(origin="BOS").to_parquet(path)
    sent = []
    assert client.ingest("weather", path, progress=sent.append).rows == 3
    assert sent[-1] == path.stat().st_size
    assert client.ingest("weather", str(path)).duplicates == 3
    assert sorted(client.read(WEATHER, ["origin", "temp"]).to_pandas().query("origin == 'BOS'")["temp"]) == [1.0, 2.0, 3.0]


def test_a_query_gives_rows_that_can_be_a_spine(client, pushed):
    found = client.sql("SELECT origin, time AS event_timestamp FROM weather WHERE origin = 'JFK' ORDER BY time")
    assert found.column_names == ["origin", "event_timestamp"] and set(found.column("origin")) == {"JFK"}
    dataset = client.get_historical_features(found, ["weather:temp"], engine="datafusion")
    assert None not in dataset.column("temp") and dataset.num_rows == found.num_rows
    count = client.sql("SELECT count(*) AS n FROM weather", ref=client.commit().id).column("n")
    assert count == [client.read(WEATHER).num_rows]
    for wrong in ["DROP TABLE weather", "SELECT temperature FROM weather"]:
        with pytest.raises(anabranch.InvalidArgument):
            client.sql(wrong)
    with pytest.raises(anabranch.InvalidArgument, match="no cluster is configured"):
        client.get_historical_features(found, ["weather:temp"], engine="ballista")


def test_refused_rows_are_kept_as_they_came(client):
    checked = FeatureView("checked", [AIRPORT], {"temp": "f64"}, event_timestamp="time")
    client.apply([checked, Check.range("warm", checked, "temp", min=-60, max=60)])
    client.push(checked, [{"origin": "JFK", "time": at(1), "temp": 900}, {"origin": "JFK", "time": at(1), "temp": "warm"}])
    client.flush()
    found = client.quarantine(checked)
    assert found.total == 2
    assert {failure.check for row in found.rows for failure in row.failures} >= {"warm"}
    assert any(b"900" in row.payload for row in found.rows)
    assert found.rows[0].arrival.tzinfo is not None


def test_branches_tags_history_and_merge(client, pushed):
    branch = client.branch("fix")
    assert branch.commit == client.commit().id
    fix = client.at("fix")
    fix.push(WEATHER, {"origin": "LGA", "time": at(9), "temp": 50.0})
    head = fix.flush()
    assert fix.commit().id == head != client.commit().id
    assert client.commit("fix~1").id == client.commit(head).parents[0]
    assert client.diff("main", "fix").differences
    assert client.merge("fix").outcome == "fast_forward"
    assert client.commit().id == head == client.log(1)[0].id
    assert client.get_online_features(["weather:temp"], {"origin": "LGA"}).column("temp") == [50.0]
    client.delete(WEATHER, {"origin": "LGA", "time": at(10)})
    token = client.delete(WEATHER, pandas.DataFrame({"origin": ["LGA"], "time": [at(11)]})).token
    gone = client.get_online_features(["weather:temp"], {"origin": "LGA"}, at_least=token)
    assert gone.statuses["temp"] == [Status.NOT_FOUND]
    client.tag("v1", head)
    assert [tag.commit for tag in client.tags()] == [head]
    client.delete_tag("v1")
    client.delete_branch("fix")
    assert [found.name for found in client.branches()] == ["main"]


def test_errors_are_typed(client):
    for error, call in [
        (anabranch.NotFound, lambda: client.commit("nowhere")),
        (anabranch.InvalidArgument, lambda: client.get_online_features(["wether"], {"origin": "JFK"})),
        (anabranch.InvalidArgument, lambda: client.get_online_features(["weather"], {"orgin": "JFK"})),
        (anabranch.InvalidArgument, lambda: client.get_historical_features({"origin": ["JFK"]}, ["weather"])),
        (anabranch.Unavailable, lambda: anabranch.connect("http://127.0.0.1:1")),
        (anabranch.InvalidArgument, lambda: anabranch.connect("https://example.com")),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert caught.value.kind == error.kind
    closed = anabranch.connect(client.address)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.info()


def test_threads_share_a_client(client, pushed):
    answers = []

    def look_up():
        answers.append(client.get_online_features(["weather:temp"], {"origin": "JFK"}).column("temp"))

    threads = [threading.Thread(target=look_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[41.0]] * 8


def test_ctrl_c_ends_a_call_at_once(client):
    script = (
        "import sys, anabranch\n"
        "client = anabranch.connect(sys.argv[1])\n"
        "try:\n"
        "    print('waiting', flush=True)\n"
        "    client.get_online_features(['weather'], {'origin': 'JFK'}, at_least='1:999999999', timeout=50)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, client.address], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "waiting\n"
    started = time.monotonic()
    interrupted = ""
    while not interrupted and time.monotonic() - started < 20:
        child.send_signal(signal.SIGINT)
        interrupted = child.stdout.readline()
    assert interrupted == "interrupted\n"
    assert time.monotonic() - started < 20
    child.wait()


def _in_child(client, address, answers):
    try:
        client.info()
    except RuntimeError as error:
        answers.put(str(error))
    answers.put(anabranch.connect(address).info().pid)


def test_a_forked_child_connects_for_itself(client):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_in_child, args=(client, client.address, answers))
    child.start()
    assert "forked" in answers.get(timeout=30)
    assert answers.get(timeout=30) == client.info().pid
    child.join()


def test_the_folder_is_joined_by_other_processes_and_its_command_line(client):
    info = client.info()
    with anabranch.open(info.data_folder) as other:
        assert other.info().pid == info.pid
    environment = {**os.environ, "ANABRANCH_DATA": info.data_folder}
    environment.pop("ANABRANCH_URL", None)
    listed = subprocess.run([sys.executable, "-m", "anabranch", "branch", "list"], env=environment, capture_output=True, text=True, check=True)
    assert "main" in listed.stdout
    misused = subprocess.run([sys.executable, "-m", "anabranch", "nonsense"], capture_output=True, check=False)
    assert misused.returncode == 2


def test_a_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(anabranch.FailedPrecondition, match="cannot make the folder"):
        anabranch.open(tmp_path / "file" / "below")


def test_importing_needs_no_data_frames():
    script = "import sys, anabranch; print(sorted({'pyarrow', 'pandas', 'polars', 'numpy', 'asyncio'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=pathlib.Path(__file__).parent)
    assert loaded.stdout.strip() == "[]"


def test_vectors_and_wide_values_go_round(client):
    typed = FeatureView(
        "typed",
        [AIRPORT],
        {"v": "vector<3>", "n": "i32", "text": "string", "raw": "bytes", "t": "timestamp", "names": "list<string>"},
        event_timestamp="time",
    )
    client.apply(typed)
    row = {"v": [0.5, 1.0, 2.0], "n": 7, "text": "ä", "raw": b"\x00\xff", "t": at(3), "names": ["a", "b"]}
    client.push(typed, [{"origin": "JFK", "time": at(1), **row}])
    token = client.push(typed, {"origin": ["LGA"], "time": [at(1)], **{name: [value] for name, value in row.items()}}).token
    found = client.get_online_features(["typed"], {"origin": ["JFK", "LGA"]}, at_least=token)
    assert found.to_pylist() == [row, row]
    commit = client.flush()
    spine = {"origin": ["JFK"], "event_timestamp": [at(2)]}
    dataset = client.get_historical_features(spine, ["typed"], ref=commit)
    assert dataset.to_pylist() == [{"origin": "JFK", "event_timestamp": at(2), **row}]
    assert dataset.to_arrow()["v"].to_pylist() == [[0.5, 1.0, 2.0]]
    assert numpy.stack(dataset.to_polars()["v"].to_numpy()).shape == (1, 3)
