"""Compares point-in-time joins with DuckDB's and Polars' answers to the same question.

Usage: python duckdb_oracle.py FOLDER

FOLDER/cases.json lists the cases. Each has a folder with spine.parquet (its column `row` numbers the rows), VIEW.parquet for each view and
joined.parquet, the answer under test. Three formulations are asked, which share nothing but the input:

- window: all candidates of a row are ranked by the total order, and the first is taken (any options);
- ASOF: of each instant the last row is kept, then DuckDB's ASOF join is made (whenever knowledge does not depend on the spine's row);
- Polars: all candidates of a row in the total order, of which the last is kept (any options).

Prints one JSON object of what was compared, or the first differences to stderr and exits with 1.
"""

import json
import sys
from pathlib import Path

import duckdb
import polars as pl

ORDER = ["event", "known", "arrival", "source", "position"]


def load(db, folder, case):
    db.execute(f"CREATE OR REPLACE VIEW spine AS SELECT * REPLACE (epoch_us(event_timestamp) AS event_timestamp) FROM '{folder}/spine.parquet'")
    db.execute(f"CREATE OR REPLACE VIEW joined AS SELECT * FROM '{folder}/joined.parquet'")
    for view in case["views"]:
        known = "coalesce(epoch_us(known), epoch_us(event))" if view["known"] else "epoch_us(event)"
        columns = [f'"{key}"' for key, _ in view["keys"]] + [f'"{feature}"' for feature in view["features"]]
        db.execute(
            f"""CREATE OR REPLACE VIEW "{view["name"]}" AS SELECT {", ".join(columns)}, epoch_us(event) AS event, {known} AS known,
            epoch_us(_arrival) AS arrival, _source AS source, _position AS position, coalesce(_tombstone, false) AS tombstone
            FROM '{folder}/{view["name"]}.parquet'"""
        )


def same_key(view):
    return " AND ".join(f'v."{key}" = s."{column}"' for key, column in view["keys"])


def window(view, case):
    """Ranks every candidate of every row."""
    conditions = [same_key(view), f"v.event {'<' if case['strict'] else '<='} s.event_timestamp"]
    if view["lookback"] is not None:
        conditions.append(f"v.event >= s.event_timestamp - {view['lookback']}")
    if case["knowledge"] == "spine":
        conditions.append("v.known <= s.event_timestamp")
    elif case["knowledge"] != "any":
        conditions.append(f"v.known <= {case['knowledge']['at']}")
    features = ", ".join(f'CASE WHEN NOT v.tombstone THEN v."{feature}" END' for feature in view["features"])
    rank = ", ".join(f"v.{column} DESC NULLS LAST" for column in ORDER)
    return f"""SELECT s.row, {features} FROM spine s LEFT JOIN "{view["name"]}" v ON {" AND ".join(conditions)}
        QUALIFY row_number() OVER (PARTITION BY s.row ORDER BY {rank}) = 1 ORDER BY s.row"""


def asof(view, case):
    """Keeps the last row of each instant and makes an ASOF join; None where knowledge depends on the spine's row."""
    if case["knowledge"] == "spine" and view["known"]:
        return None
    where = "" if case["knowledge"] in ("any", "spine") else f"WHERE known <= {case['knowledge']['at']}"
    keys = ", ".join(f'"{key}"' for key, _ in view["keys"])
    rank = ", ".join(f"{column} DESC" for column in ORDER[1:])
    fresh = "NOT v.tombstone"
    if view["lookback"] is not None:
        fresh += f" AND v.event >= s.event_timestamp - {view['lookback']}"
    features = ", ".join(f'CASE WHEN {fresh} THEN v."{feature}" END' for feature in view["features"])
    return f"""WITH latest AS (SELECT * FROM "{view["name"]}" {where}
            QUALIFY row_number() OVER (PARTITION BY {keys}, event ORDER BY {rank}) = 1)
        SELECT s.row, {features} FROM spine s ASOF LEFT JOIN latest v
        ON {same_key(view)} AND s.event_timestamp {">" if case["strict"] else ">="} v.event ORDER BY s.row"""


def polars(view, case, folder):
    """Puts the candidates of every row into the total order and keeps the last, in Polars."""
    micros = [pl.col(name).dt.epoch("us").alias(name) for name in ("event", "known", "_arrival") if name != "known" or view["known"]]
    rows = pl.scan_parquet(folder / f"{view['name']}.parquet").with_columns(micros)
    known = pl.coalesce("known", "event") if view["known"] else pl.col("event")
    # Of equal types on both sides, under names that the spine has not.
    keys = [pl.col(key).cast(pl.Int64) if key == "user" else pl.col(key) for key, _ in view["keys"]]
    rows = rows.select(
        *[key.alias(f"v_{n}") for n, key in enumerate(keys)],
        *[pl.when(~pl.col("_tombstone").fill_null(False)).then(pl.col(name)).alias(f"f_{name}") for name in view["features"]],
        pl.col("event").alias("v_event"),
        known.alias("v_known"),
        pl.col("_arrival").alias("v_arrival"),
        pl.col("_source").alias("v_source"),
        pl.col("_position").alias("v_position"),
    )
    spine = pl.scan_parquet(folder / "spine.parquet").with_columns(pl.col("event_timestamp").dt.epoch("us"))
    time = pl.col("event_timestamp")
    is_candidate = pl.col("v_event") < time if case["strict"] else pl.col("v_event") <= time
    if view["lookback"] is not None:
        is_candidate &= pl.col("v_event") >= time - view["lookback"]
    if case["knowledge"] == "spine":
        is_candidate &= pl.col("v_known") <= time
    elif case["knowledge"] != "any":
        is_candidate &= pl.col("v_known") <= case["knowledge"]["at"]
    columns = [column for _, column in view["keys"]]
    candidates = spine.join(rows, left_on=columns, right_on=[f"v_{n}" for n in range(len(columns))]).filter(is_candidate)
    matched = candidates.sort([f"v_{name}" for name in ORDER], maintain_order=True).group_by("row").last()
    features = [f"f_{name}" for name in view["features"]]
    return spine.select("row").join(matched, on="row", how="left").sort("row").select("row", *features).collect().rows()


def main(folder):
    db = duckdb.connect()
    compared = {"window": 0, "asof": 0, "polars": 0, "rows": 0, "matched": 0}
    for case in json.loads((folder / "cases.json").read_text()):
        load(db, folder / case["folder"], case)
        for view in case["views"]:
            ours = db.execute(f"SELECT row, {', '.join(chr(34) + name + chr(34) for name in view['output'])} FROM joined").fetchall()
            rows = [row[0] for row in ours]
            if rows != sorted(rows):
                sys.exit(f"case {case['folder']}: the spine's order was not kept")
            answers = {name: formulation(view, case) for name, formulation in (("window", window), ("asof", asof))}
            answers = {name: db.execute(query).fetchall() for name, query in answers.items() if query is not None}
            answers["polars"] = polars(view, case, folder / case["folder"])
            for name, theirs in answers.items():
                if ours != theirs:
                    different = [(a, b) for a, b in zip(ours, theirs) if a != b][:5]
                    sys.exit(f"case {case['folder']}, view {view['name']}, {name}: {len(ours)} rows and {len(theirs)}, ours and theirs: {different}")
                compared[name] += 1
                compared["rows"] += len(ours)
                compared["matched"] += sum(any(value is not None for value in row[1:]) for row in ours)
    print(json.dumps(compared))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
