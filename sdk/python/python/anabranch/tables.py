"""Rows that come back: tables that speak Arrow, and become what data frames there are."""

from __future__ import annotations

import datetime as _datetime
import enum
from typing import TYPE_CHECKING, Any

from . import _formats

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from ._anabranch import Table as _NativeTable

__all__ = ["Dataset", "OnlineFeatures", "Status", "Table"]


class Table:
    """Rows, held in Arrow memory.

    Anything that takes the Arrow PyCapsule interface takes a table as it is, without a copy: `pyarrow.table(table)`, `polars.DataFrame(table)`,
    `duckdb.from_arrow(table)`.
    """

    def __init__(self, native: _NativeTable) -> None:
        self._native = native

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self._native.num_rows

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in their order."""
        return self._native.column_names

    def __len__(self) -> int:
        return self.num_rows

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._native.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._native.__arrow_c_schema__()

    def column(self, name: str) -> list[Any]:
        """The values of one column. Times are aware and in UTC. Raises `KeyError` where there is no such column."""
        return self._native.column(name)

    def to_pydict(self) -> dict[str, list[Any]]:
        """The columns as lists of plain values."""
        return {name: self.column(name) for name in self.column_names}

    def to_pylist(self) -> list[dict[str, Any]]:
        """The rows as dictionaries of plain values."""
        columns = self.to_pydict()
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def to_arrow(self) -> pyarrow.Table:
        """As a `pyarrow.Table`, without a copy."""
        import pyarrow

        return pyarrow.table(self)

    def to_pandas(self) -> pandas.DataFrame:
        """As a `pandas.DataFrame`; through pyarrow where it is installed."""
        try:
            return self.to_arrow().to_pandas()
        except ImportError:
            import pandas

            return pandas.DataFrame(self.to_pydict())

    def to_polars(self) -> polars.DataFrame:
        """As a `polars.DataFrame`, without a copy."""
        import polars

        return polars.DataFrame(self)

    def to_numpy(self) -> dict[str, Any]:
        """The columns as NumPy arrays.

        Numbers and times without nulls are views of Arrow's memory where it is in one piece; a vector is a row of a matrix. Nulls of floats and vectors
        become NaN, those of whole numbers and booleans are masked (`numpy.ma`), those of times become NaT; strings, bytes and lists are objects.
        """
        return _formats.to_numpy(self.to_arrow())

    def to_torch(self) -> dict[str, Any]:
        """The columns as PyTorch tensors: numbers and booleans as they are, times as microseconds, vectors as rows of a matrix.

        Nulls of floats and vectors become NaN. Raises `InvalidArgument` for strings, bytes, lists, and nulls of other types.
        """
        return _formats.to_torch(self.to_arrow())

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {of}" for name, of in zip(self.column_names, self._native.column_types))
        return f"<{type(self).__name__} of {self.num_rows} rows ({columns})>"


class Status(enum.IntEnum):
    """Why a looked-up value is there, or is not."""

    PRESENT = 1
    """There is a value."""
    NULL_VALUE = 2
    """There is a row, and the value in it is null."""
    NOT_FOUND = 3
    """There is no row."""
    OUTSIDE_TTL = 4
    """There is a row, too old to be served."""


class OnlineFeatures(Table):
    """The answer to a lookup: a row for each key, in the order of the keys, and a column for each feature, in the order asked for."""

    def __init__(self, native: _NativeTable, statuses: bytes, event_times: bytes, view_of: list[int], as_of: int) -> None:
        super().__init__(native)
        self._statuses = statuses
        self._event_times = event_times
        self._view_of = view_of
        self._as_of = as_of

    @property
    def as_of(self) -> _datetime.datetime:
        """When the server judged the values: the age of a value is this less its event time."""
        return _EPOCH + _datetime.timedelta(microseconds=self._as_of)

    @property
    def statuses(self) -> dict[str, list[Status]]:
        """For each feature, the status of each row. For many rows, `statuses_to_numpy` is faster."""
        rows = self.num_rows
        return {name: [Status(status) for status in self._statuses[i * rows : (i + 1) * rows]] for i, name in enumerate(self.column_names)}

    @property
    def event_times(self) -> dict[str, list[_datetime.datetime | None]]:
        """For the first feature of each view, the event time of each row; `None` where there is no row."""
        rows, times = self.num_rows, memoryview(self._event_times).cast("q").tolist()
        first = {view: name for name, view in zip(reversed(self.column_names), reversed(self._view_of))}
        return {first[view]: [_time(us) for us in times[view * rows : (view + 1) * rows]] for view in sorted(first)}

    def statuses_to_numpy(self) -> dict[str, Any]:
        """For each feature, the numbers of its statuses (see `Status`): views of one array of bytes."""
        import numpy

        statuses = numpy.frombuffer(self._statuses, numpy.uint8).reshape(len(self._view_of), self.num_rows)
        return dict(zip(self.column_names, statuses))

    def event_times_to_numpy(self) -> dict[str, Any]:
        """For each feature, the event times of its rows as `datetime64[us]`; `NaT` where there is no row. Features of one view share memory."""
        times = self._times()
        return {name: times[view] for name, view in zip(self.column_names, self._view_of)}

    def ages_to_numpy(self) -> dict[str, Any]:
        """For each feature, how old its rows were when they were judged, as `timedelta64[us]`; `NaT` where there is no row."""
        import numpy

        ages = numpy.datetime64(self._as_of, "us") - self._times()
        return {name: ages[view] for name, view in zip(self.column_names, self._view_of)}

    def _times(self) -> Any:
        import numpy

        # The least number, which says that there is no row, is NumPy's NaT.
        return numpy.frombuffer(self._event_times, "datetime64[us]").reshape(max(self._view_of, default=-1) + 1, self.num_rows)


_EPOCH = _datetime.datetime(1970, 1, 1, tzinfo=_datetime.timezone.utc)


def _time(us: int) -> _datetime.datetime | None:
    try:
        return None if us == -(2**63) else _EPOCH + _datetime.timedelta(microseconds=us)
    except OverflowError:
        return us  # type: ignore[return-value]  # beyond Python's years it stays a number


class Dataset(Table):
    """A spine with its features as they were known at each row's time: the spine's rows and columns in their order, then the features."""

    def __init__(self, native: _NativeTable, commit: str, content_digest: str, manifest: Any) -> None:
        super().__init__(native)
        self.commit = commit
        """The commit that it was read from."""
        self.content_digest = content_digest
        """A digest of the values: the same for the same dataset."""
        self.manifest = manifest
        """All that it takes to make it again."""
