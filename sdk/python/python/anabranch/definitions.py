"""Definitions as Python objects: what an engineer registers.

They are plain data, and become the same canonical bytes as YAML files and Rust builders do: the native half makes and checks them. A type is spelled as
in YAML (`i64`, `list<f32>`, `vector<128>`) or given as a Python type (`int`, `float`, `str`, `bool`, `bytes`, `datetime`, `list[float]`). A span of time
is a text such as `24h` or a `timedelta`.
"""

from __future__ import annotations

import datetime as _datetime
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from ._anabranch import definition_bytes
from .errors import InvalidArgument

__all__ = ["Check", "Definition", "Entity", "FeatureService", "FeatureView", "Field", "Projection", "Source"]

Span = Union[str, _datetime.timedelta]
TypeLike = Union[str, type, Any]

_TYPES: dict[Any, str] = {
    bool: "bool",
    int: "i64",
    float: "f64",
    str: "string",
    bytes: "bytes",
    _datetime.datetime: "timestamp",
}


def type_name(of: TypeLike) -> str:
    """How a type is spelled."""
    if isinstance(of, str):
        return of
    if of in _TYPES:
        return _TYPES[of]
    if typing.get_origin(of) in (list, Sequence) and typing.get_args(of):
        return f"list<{type_name(typing.get_args(of)[0])}>"
    raise InvalidArgument(f"{of!r} is no type of a feature; spell it as in 'f64', or use bool, int, float, str, bytes, datetime or list[…]")


def _span(span: Span | None) -> str | None:
    if isinstance(span, _datetime.timedelta):
        return f"{span // _datetime.timedelta(microseconds=1)}us"
    return span


def _json_value(value: Any) -> Any:
    """A bound or allowed value of a check, in its column's JSON form."""
    if isinstance(value, _datetime.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=_datetime.timezone.utc)
        return aware.astimezone(_datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    return value


def _without_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if value not in (None, "", {})}


class Definition:
    """What all definitions have in common."""

    kind: typing.ClassVar[str]
    name: str

    def to_spec(self) -> dict[str, Any]:
        """The fields as plain data, as a YAML file has them."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The canonical bytes.

        Raises `InvalidArgument` that names the field at fault where the definition breaks a rule that it must keep by itself.
        """
        return definition_bytes(self.kind, json.dumps(self.to_spec()))


@dataclass
class Entity(Definition):
    """What features speak of: an airport, a user, a pair of both.

    `join_keys` are the columns that name one, with their types: `{"origin": "string"}`.
    """

    kind: typing.ClassVar[str] = "entity"

    name: str
    join_keys: Mapping[str, TypeLike]
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_spec(self) -> dict[str, Any]:
        if not isinstance(self.join_keys, Mapping):
            raise InvalidArgument(f"entity {self.name!r}: join_keys is a dictionary of columns and their types, such as {{'origin': 'string'}}")
        keys = [{"name": name, "type": type_name(of)} for name, of in self.join_keys.items()]
        return {"name": self.name, "join_keys": keys} | _without_defaults(
            {"description": self.description, "owner": self.owner, "tags": dict(self.tags)}
        )


@dataclass
class Field:
    """One feature of a view: its column and its type."""

    name: str
    type: TypeLike
    description: str = ""

    def to_spec(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {"name": self.name, "type": type_name(self.type)} | _without_defaults({"description": self.description})


@dataclass
class Source(Definition):
    """Where the rows of a view come from: pushed by clients, or read from files.

    Make one with `Source.push(name)` or `Source.file(name, path)`.
    """

    kind: typing.ClassVar[str] = "source"

    name: str
    path: str | None = None
    format: str | None = None
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def push(cls, name: str, **rest: Any) -> Source:
        """A source that clients push to."""
        return cls(name, **rest)

    @classmethod
    def file(cls, name: str, path: str, format: str | None = None, **rest: Any) -> Source:
        """A source of files; `format` is parquet, csv or json_lines where the name's ending does not tell."""
        return cls(name, path=path, format=format, **rest)

    def to_spec(self) -> dict[str, Any]:
        via: Any = "push" if self.path is None else {"file": {"path": self.path} | _without_defaults({"format": self.format})}
        return {"name": self.name, "via": via} | _without_defaults(
            {"description": self.description, "owner": self.owner, "tags": dict(self.tags)}
        )


@dataclass
class FeatureView(Definition):
    """A table of features of one or more entities, over time.

    `event_timestamp` is the column that says when a row was true, `known_timestamp` the one that says when its maker knew it. `lookback` is how far a
    join may look back, `online_ttl` how long after its event time a value may be served, `retention` how long history is kept, `max_future` how far an
    event time may lie after its arrival. `partition` is none, month or day.

    `view["temp", "wind"]` takes some of its features into a service.
    """

    kind: typing.ClassVar[str] = "feature_view"

    name: str
    entities: Sequence[Entity | str]
    fields: Sequence[Field] | Mapping[str, TypeLike]
    event_timestamp: str = "event_timestamp"
    known_timestamp: str | None = None
    lookback: Span | None = None
    online_ttl: Span | None = None
    retention: Span | None = None
    max_future: Span | None = None
    source: Source | str | None = None
    partition: str | None = None
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_spec(self) -> dict[str, Any]:
        fields = self.fields
        if isinstance(fields, Mapping):
            fields = [Field(name, of) for name, of in fields.items()]
        spec: dict[str, Any] = {
            "name": self.name,
            "entities": [_name(entity) for entity in self.entities],
            "fields": [feature.to_spec() for feature in fields],
            "event_timestamp": self.event_timestamp,
        }
        return spec | _without_defaults(
            {
                "known_timestamp": self.known_timestamp,
                "lookback": _span(self.lookback),
                "online_ttl": _span(self.online_ttl),
                "retention": _span(self.retention),
                "max_future": _span(self.max_future),
                "source": None if self.source is None else _name(self.source),
                "partition": self.partition,
                "description": self.description,
                "owner": self.owner,
                "tags": dict(self.tags),
            }
        )

    def __getitem__(self, features: str | tuple[str, ...]) -> Projection:
        return Projection(self, features=(features,) if isinstance(features, str) else features)

    # Without it, `__getitem__` would make a view look like a sequence.
    __iter__ = None


@dataclass
class Projection:
    """Features of one view, as a service takes them.

    Under an `alias` a service may take one view twice; `key_map` leads from the view's join keys to the caller's columns, where they differ:
    `Projection(weather, alias="dest_weather", key_map={"origin": "dest"})`.
    """

    view: FeatureView | str
    features: Sequence[str] | None = None
    alias: str | None = None
    key_map: Mapping[str, str] = field(default_factory=dict)

    def to_spec(self) -> dict[str, Any]:
        """The fields as plain data."""
        features = None if self.features is None else list(self.features)
        spec = _without_defaults({"alias": self.alias, "features": features, "key_map": dict(self.key_map)})
        return {"view": _name(self.view)} | spec


@dataclass
class FeatureService(Definition):
    """What a model asks for by one name: whole views, some features of a view (`view["temp"]`), or projections, in the order of the output.

    `sample_rate`, from 0 to 1, is the part of lookups that is logged, into the table `served.<name>`; without one, none is.
    """

    kind: typing.ClassVar[str] = "feature_service"

    name: str
    features: Sequence[FeatureView | Projection | str]
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    sample_rate: float | None = None

    def to_spec(self) -> dict[str, Any]:
        features = [taken if isinstance(taken, Projection) else Projection(taken) for taken in self.features]
        logging = None if self.sample_rate is None else {"sample_rate": self.sample_rate}
        return {"name": self.name, "features": [taken.to_spec() for taken in features]} | _without_defaults(
            {"logging": logging, "description": self.description, "owner": self.owner, "tags": dict(self.tags)}
        )


@dataclass
class Check(Definition):
    """A rule that each row of a view keeps, or goes to quarantine. Nulls pass all but `not_null`.

    Make one with `Check.not_null`, `Check.range`, `Check.one_of` or `Check.pattern`.
    """

    kind: typing.ClassVar[str] = "check"

    name: str
    view: FeatureView | str
    column: str
    rule: Mapping[str, Any]
    description: str = ""

    @classmethod
    def not_null(cls, name: str, view: FeatureView | str, column: str, description: str = "") -> Check:
        """A value is there."""
        return cls(name, view, column, {"not_null": {}}, description)

    @classmethod
    def range(
        cls, name: str, view: FeatureView | str, column: str, *, min: Any = None, max: Any = None, description: str = ""
    ) -> Check:
        """The value lies between bounds, both inclusive; NaN does not."""
        bounds = {key: _json_value(bound) for key, bound in (("min", min), ("max", max)) if bound is not None}
        return cls(name, view, column, {"range": bounds}, description)

    @classmethod
    def one_of(cls, name: str, view: FeatureView | str, column: str, values: Iterable[Any], description: str = "") -> Check:
        """The value is one of a set."""
        return cls(name, view, column, {"one_of": {"values": [_json_value(value) for value in values]}}, description)

    @classmethod
    def pattern(cls, name: str, view: FeatureView | str, column: str, regex: str, description: str = "") -> Check:
        """The whole text matches a regular expression, in the syntax of Rust's `regex`."""
        return cls(name, view, column, {"pattern": {"regex": regex}}, description)

    def to_spec(self) -> dict[str, Any]:
        spec = {"name": self.name, "view": _name(self.view), "column": self.column, "rule": dict(self.rule)}
        return spec | _without_defaults({"description": self.description})


def _name(of: Definition | str) -> str:
    return of if isinstance(of, str) else of.name
