"""Anabranch: a feature store and data-versioning server, for Python.

>>> import anabranch
>>> from anabranch import Entity, FeatureView, Field
>>> client = anabranch.open("features")          # starts a private server for that folder, or joins the one that runs
>>> airport = Entity("airport", join_keys={"origin": "string"})
>>> weather = FeatureView("weather", entities=[airport], fields=[Field("temp", "f64")], event_timestamp="time")
>>> client.apply([airport, weather])
>>> client.push("weather", [{"origin": "JFK", "time": "2013-01-01T05:00:00Z", "temp": 39.0}])
>>> client.get_online_features(["weather:temp"], [{"origin": "JFK"}]).to_pydict()
{'temp': [39.0]}

`open` and `connect` give a blocking `Client`; `anabranch.aio` has the same for asyncio.
"""

from ._anabranch import __version__
from .client import Client, connect, open
from .datasets import Batches, SavedDataset
from .definitions import Check, Definition, Entity, FeatureService, FeatureView, Field, Projection, Source
from .errors import (
    AnabranchError,
    Conflict,
    Exhausted,
    FailedPrecondition,
    Forbidden,
    Internal,
    InvalidArgument,
    MergeConflict,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from .results import (
    Acknowledgement,
    Applied,
    Branch,
    Commit,
    ConflictingKey,
    Diff,
    Difference,
    Failure,
    FieldDifference,
    HeadMove,
    Ingested,
    KindSummary,
    Merged,
    Object,
    ObjectList,
    ObjectsCommitted,
    Plan,
    PipelineStatus,
    Quarantine,
    QuarantinedRow,
    RegisteredDefinition,
    Replayed,
    Reset,
    ServerInfo,
    Shown,
    Tag,
)
from .spines import Events, Sql
from .tables import Dataset, OnlineFeatures, Status, Table

__all__ = [
    "Acknowledgement",
    "AnabranchError",
    "Applied",
    "Batches",
    "Branch",
    "Check",
    "Client",
    "Commit",
    "Conflict",
    "ConflictingKey",
    "Dataset",
    "Definition",
    "Diff",
    "Difference",
    "Entity",
    "Events",
    "Exhausted",
    "FailedPrecondition",
    "Failure",
    "FeatureService",
    "FeatureView",
    "Field",
    "FieldDifference",
    "Forbidden",
    "HeadMove",
    "Ingested",
    "Internal",
    "InvalidArgument",
    "KindSummary",
    "MergeConflict",
    "Merged",
    "NotFound",
    "Object",
    "ObjectList",
    "ObjectsCommitted",
    "OnlineFeatures",
    "PipelineStatus",
    "Plan",
    "Projection",
    "Quarantine",
    "QuarantinedRow",
    "RegisteredDefinition",
    "Replayed",
    "Reset",
    "SavedDataset",
    "ServerInfo",
    "Shown",
    "Source",
    "Sql",
    "Status",
    "Table",
    "Tag",
    "Unauthenticated",
    "Unavailable",
    "__version__",
    "connect",
    "open",
]
