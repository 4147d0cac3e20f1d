"""Spines that the server makes, in place of rows that a caller brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

from . import rows
from .definitions import FeatureView

__all__ = ["Events", "Sql"]


@dataclass(frozen=True)
class Events:
    """Every event of a view at the commit: its join keys, and its time in the time column."""

    view: FeatureView | str


@dataclass(frozen=True)
class Sql:
    """The rows of a query over the tables at the commit, each under the name of its view."""

    query: str


Spine = Union[rows.RowsLike, Events, Sql]
"""Rows with key columns and a time column, in any form that is taken, or a spine that the server makes."""


def to_native(spine: Spine, time_column: str) -> Any:
    if isinstance(spine, Events):
        return ("events", spine.view if isinstance(spine.view, str) else spine.view.name)
    if isinstance(spine, Sql):
        return ("sql", spine.query)
    return rows.to_arrow(rows.with_times(spine, time_column))
