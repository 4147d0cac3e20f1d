"""Rows that go in, in whatever form the caller has them.

Arrow memory (anything with `__arrow_c_stream__` or `__arrow_c_array__`: pyarrow, polars, pandas with pyarrow, DuckDB, our own tables) goes in as it is.
Plain Python goes in as a list of dictionaries, a dictionary of lists, or one dictionary of values for a single row.
"""

from __future__ import annotations

import datetime as _datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

from ._anabranch import Table as _NativeTable
from ._anabranch import json_lines, table_of_columns
from .errors import InvalidArgument
from .tables import Table

RowsLike = Union[Table, Mapping[str, Any], Sequence[Mapping[str, Any]], Any]
"""Rows in any form that is taken."""


def to_arrow(rows: RowsLike) -> Any:
    """The rows as something that speaks the Arrow PyCapsule interface."""
    if _is_pandas(rows):
        return _of_pandas(rows)
    if hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__"):
        return rows
    if isinstance(rows, Mapping):
        columns = {name: _items(values) for name, values in rows.items()}
        if columns and all(items is None for items in columns.values()):
            return table_of_columns({name: [value] for name, value in rows.items()})
        lengths = {len(items) for items in columns.values() if items is not None}
        if len(lengths) == 1:
            # One value beside columns stands in every row.
            rows_of = lengths.pop()
            return table_of_columns({name: [rows[name]] * rows_of if items is None else items for name, items in columns.items()})
        return table_of_columns({name: [rows[name]] if items is None else items for name, items in columns.items()})
    return table_of_columns(_columns(_dictionaries(rows)))


def with_times(rows: RowsLike, column: str) -> RowsLike:
    """Plain Python rows whose times in one column are text, with those read as times; other rows as they are. Text without a zone is UTC."""
    if isinstance(rows, Mapping):
        values = rows.get(column)
        if isinstance(values, str):
            return {**rows, column: _time(values)}
        items = _items(values)
        return {**rows, column: [_time(item) for item in items]} if items is not None else rows
    if isinstance(rows, (list, tuple)) and all(isinstance(row, Mapping) for row in rows):
        return [{**row, column: _time(row[column])} if column in row else row for row in rows]
    return rows


def _time(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        time = _datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise InvalidArgument(f"{value!r} is not a time; write it as 2026-11-20T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=_datetime.timezone.utc)


def to_json(rows: RowsLike) -> bytes | None:
    """The rows as JSON, one object a line, where that keeps them as they came; otherwise `None`.

    Dictionaries, row by row, are such: each may have columns and types of its own, and one that is wrong spoils no other.
    """
    if isinstance(rows, Mapping):
        return json_lines([dict(rows)]) if all(_items(value) is None for value in rows.values()) else None
    if _is_pandas(rows) or hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__"):
        return None
    return json_lines(_dictionaries(rows))


def to_json_always(rows: RowsLike) -> bytes:
    """The rows as JSON, one object a line, in whatever form they came."""
    direct = to_json(rows)
    if direct is not None:
        return direct
    arrow = to_arrow(rows)
    if not isinstance(arrow, (Table, _NativeTable)):
        import pyarrow

        return json_lines(pyarrow.table(arrow).to_pylist())
    return json_lines(Table(arrow if isinstance(arrow, _NativeTable) else arrow._native).to_pylist())


def _items(values: Any) -> list[Any] | None:
    """The items of a column, or `None` for a single value."""
    if isinstance(values, (list, tuple)):
        return list(values)
    # NumPy's arrays, and the columns of data frames and of Arrow.
    kind = getattr(getattr(values, "dtype", None), "kind", None)
    if kind == "M" and hasattr(values, "ndim") and values.ndim == 1:
        return _microseconds(values)
    if getattr(values, "ndim", None) == 1 and hasattr(values, "tolist"):
        return list(values.tolist())
    for method in ("to_pylist", "to_list"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    return None


def _microseconds(times: Any) -> list[Any]:
    if hasattr(times, "to_numpy"):
        times = times.to_numpy()
    return list(times.astype("datetime64[us]").tolist())


def _dictionaries(rows: Any) -> list[dict[str, Any]]:
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise InvalidArgument(
            f"a {type(rows).__name__} holds no rows; give a list of dictionaries, a dictionary of lists, a data frame or Arrow data"
        )
    rows = list(rows)
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidArgument(f"row {i} is a {type(row).__name__}, not a dictionary")
    return [dict(row) for row in rows]


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _is_pandas(rows: Any) -> bool:
    of = type(rows)
    return of.__name__ == "DataFrame" and of.__module__.split(".")[0] == "pandas"


def _of_pandas(frame: Any) -> Any:
    # A named index is a column; a nameless one only counts the rows.
    index_names = list(frame.index.names)
    frame = frame.reset_index(drop=all(name is None for name in index_names)) if type(frame.index).__name__ != "RangeIndex" else frame
    try:
        import pyarrow
    except ImportError:
        return table_of_columns({str(name): _of_series(frame[name]) for name in frame.columns})
    # Without the frame's own metadata, which would come back with the answer.
    return pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _of_series(series: Any) -> list[Any]:
    if getattr(series.dtype, "kind", None) == "M" and getattr(series.dtype, "tz", None) is None:
        return _microseconds(series)
    present = series.notna().tolist()
    return [value if there else None for value, there in zip(series.tolist(), present)]
