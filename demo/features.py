"""Reads the flights and makes the rows that a producer would push: weather, and running delays as of each landing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

DAY = np.timedelta64(1, "D")
MINUTE = np.timedelta64(60_000_000, "us")
# Airports of destination that the table of airports lacks.
MISSING_ZONES = {"BQN": "America/Puerto_Rico", "SJU": "America/Puerto_Rico", "STT": "America/St_Thomas", "PSE": "America/Puerto_Rico"}


@dataclass
class Flights:
    """The year: rows of each view in event-time order, and the flights themselves."""

    views: dict[str, pa.Table]
    event_time: dict[str, str]
    flights: pa.Table
    weather_refused: pa.Table
    landed: dict[str, np.ndarray]

    def summary(self) -> str:
        rows = ", ".join(f"{table.num_rows:,} rows of {view}" for view, table in self.views.items())
        return f"{self.flights.num_rows:,} flights; {rows}"

    def days(self) -> Iterator[dict[str, pa.Table]]:
        """The rows of each day in event-time order."""
        times = {view: table[self.event_time[view]].to_numpy() for view, table in self.views.items()}
        first = min(column.min() for column in times.values()).astype("datetime64[D]")
        last = max(column.max() for column in times.values()).astype("datetime64[D]")
        for day in np.arange(first, last + DAY, DAY):
            cut = {view: np.searchsorted(column, [day, day + DAY]) for view, column in times.items()}
            yield {view: self.views[view].slice(a, b - a) for view, (a, b) in cut.items()}

    def spine(self) -> pa.Table:
        """All departures that took place, at their scheduled time, with what is to be predicted."""
        names = ["flight", "tailnum", "carrier", "origin", "dest", "event_timestamp", "arr_delay"]
        return self.flights.select(names)

    def leaking_spine(self) -> pa.Table:
        """The same departures joined as of the end of their day: what is known then includes how the flight itself went."""
        spine = self.spine()
        day = spine["event_timestamp"].to_numpy().astype("datetime64[D]") + DAY + DAY
        column = pa.array(day.astype("datetime64[us]"), pa.timestamp("us", "UTC"))
        return spine.set_column(spine.schema.get_field_index("event_timestamp"), "event_timestamp", column)

    def spine_month(self) -> np.ndarray:
        return self.flights["month"].to_numpy()

    def landings_before(self, spine: pa.Table) -> np.ndarray:
        """For each departure: landings of its aircraft so far, NaN where the last lies more than 7 days back or there is none."""
        times = spine["event_timestamp"].to_numpy()
        counts = np.full(len(times), np.nan)
        for row, (tail, at) in enumerate(zip(spine["tailnum"].to_pylist(), times, strict=True)):
            landed = self.landed.get(tail)
            if landed is None:
                continue
            count = int(np.searchsorted(landed, at, side="right"))
            if count and landed[count - 1] >= at - 7 * DAY:
                counts[row] = count
        return counts


def load(folder: Path, months: int) -> Flights:
    """Reads the tables and computes the features, in event-time order, from flights that have landed by then."""
    options = pcsv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    flights = pcsv.read_csv(folder / "flights.csv", convert_options=options)
    weather = pcsv.read_csv(folder / "weather.csv", convert_options=options)
    flights = flights.filter(pc.and_(pc.less_equal(flights["month"], months), pc.is_valid(flights["dep_time"])))
    weather = weather.filter(pc.less_equal(weather["month"], months))
    flights = with_times(flights, zones(folder))
    landings = flights.filter(pc.and_(pc.is_valid(flights["arr_delay"]), pc.is_valid(flights["landed_at"]))).sort_by("landed_at")
    views = {"weather": weather_rows(weather), "aircraft_delays": aircraft_rows(landings), "route_delays": route_rows(landings)}
    event_time = {"weather": "observed_at", "aircraft_delays": "landed_at", "route_delays": "landed_at"}
    refused = views["weather"].filter(refusable(views["weather"]))
    tails, times = landings["tailnum"].to_pylist(), landings["landed_at"].to_numpy()
    by_tail: dict[str, list] = {}
    for tail, at in zip(tails, times, strict=True):
        by_tail.setdefault(tail, []).append(at)
    return Flights(views, event_time, flights, refused, {tail: np.array(at) for tail, at in by_tail.items()})


def refusable(weather: pa.Table) -> pa.ChunkedArray:
    """The rows that the checks refuse: a wind that no anemometer measures, values that are missing."""
    wind = weather["wind_speed"]
    return pc.or_(pc.or_(pc.is_null(weather["temp"]), pc.is_null(wind)), pc.greater(wind, 200).fill_null(False))


def correction(flights: Flights) -> pa.Table:
    """The refused hours, repaired: the misplaced point where it belongs, missing values as the hour before had them at that airport."""
    weather = flights.views["weather"]
    repaired = []
    for row in flights.weather_refused.to_pylist():
        before = weather.filter(pc.and_(pc.equal(weather["origin"], row["origin"]), pc.less(weather["observed_at"], row["observed_at"])))
        last = before.slice(before.num_rows - 1).to_pylist()[0]
        row = {name: last[name] if value is None else value for name, value in row.items()}
        if row["wind_speed"] > 200:
            row["wind_speed"] /= 100
        repaired.append(row)
    return pa.Table.from_pylist(repaired, schema=weather.schema)


def zones(folder: Path) -> dict[str, str]:
    table = pcsv.read_csv(folder / "airports.csv")
    return MISSING_ZONES | dict(zip(table["faa"].to_pylist(), table["tzone"].to_pylist(), strict=True))


def with_times(flights: pa.Table, zone_of: dict[str, str]) -> pa.Table:
    """Adds the scheduled departure and the landing, both UTC. Landings are told in local time of the destination, without a date."""
    minute = flights["minute"].to_numpy().astype("timedelta64[m]")
    scheduled = flights["time_hour"].to_numpy().astype("datetime64[us]") + minute.astype("timedelta64[us]")
    left = scheduled + (flights["dep_delay"].fill_null(0).to_numpy() * 60e6).astype("timedelta64[us]")
    day = left.astype("datetime64[D]")
    offset = np.array([utc_offset(zone_of[dest], int(d)) for dest, d in zip(flights["dest"].to_pylist(), day.astype(int), strict=True)])
    clock = flights["arr_time"].fill_null(0).to_numpy()
    local = (clock // 100) * 60 + clock % 100
    landed = day.astype("datetime64[us]") + (local - offset).astype("int64") * MINUTE
    # The day that makes the landing the first one after leaving.
    for _ in range(3):
        landed = np.where(landed <= left, landed + DAY, landed)
        landed = np.where(landed > left + DAY, landed - DAY, landed)
    known = flights["arr_time"].is_valid().to_numpy()
    utc = pa.timestamp("us", "UTC")
    flights = flights.append_column("event_timestamp", pa.array(scheduled, utc))
    flights = flights.append_column("landed_at", pa.array(landed, utc, mask=~known))
    return flights.set_column(flights.schema.get_field_index("arr_delay"), "arr_delay", flights["arr_delay"].cast(pa.float64()))


@cache
def utc_offset(zone: str, day: int) -> int:
    """Minutes that a zone is ahead of UTC at noon of a day."""
    noon = datetime.fromtimestamp(day * 86_400 + 43_200, timezone.utc).astimezone(ZoneInfo(zone))
    return int(noon.utcoffset().total_seconds() // 60)


def weather_rows(weather: pa.Table) -> pa.Table:
    at = weather["time_hour"].cast(pa.timestamp("us", "UTC"))
    columns = {"origin": weather["origin"], "observed_at": at}
    columns |= {name: weather[name].cast(pa.float64()) for name in ("temp", "humid", "wind_speed", "precip", "visib")}
    return pa.table(columns).sort_by("observed_at")


def aircraft_rows(landings: pa.Table) -> pa.Table:
    keys = landings["tailnum"].to_pylist()
    delay, _, count = running(keys, landings["arr_delay"].to_numpy())
    return pa.table(
        {
            "tailnum": landings["tailnum"],
            "landed_at": landings["landed_at"],
            "aircraft_delay": delay,
            "aircraft_last": landings["arr_delay"],
            "aircraft_flights": count,
        }
    )


def route_rows(landings: pa.Table) -> pa.Table:
    keys = list(zip(*(landings[name].to_pylist() for name in ("carrier", "origin", "dest")), strict=True))
    delay, late, count = running(keys, landings["arr_delay"].to_numpy())
    return pa.table(
        {
            "carrier": landings["carrier"],
            "origin": landings["origin"],
            "dest": landings["dest"],
            "landed_at": landings["landed_at"],
            "route_delay": delay,
            "route_late_share": late,
            "route_flights": count,
        }
    )


def running(keys: list, delays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each landing in time order: the exponentially weighted delay of its key so far, the share of late flights, and how many there were."""
    state: dict = {}
    out = np.empty(len(keys)), np.empty(len(keys)), np.empty(len(keys), np.int64)
    for row, (key, delay) in enumerate(zip(keys, delays.tolist(), strict=True)):
        mean, late, count = state.get(key, (delay, 0.0, 0))
        mean += 0.2 * (delay - mean)
        count += 1
        late += ((delay > 15) - late) / min(count, 50)
        state[key] = (mean, late, count)
        out[0][row], out[1][row], out[2][row] = mean, late, count
    return out
