"""What calls give back, but for rows: those are in `tables`."""

from __future__ import annotations

import datetime as _datetime
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Acknowledgement",
    "Applied",
    "Branch",
    "Commit",
    "CompactedTable",
    "ConflictingKey",
    "Diff",
    "Difference",
    "Failure",
    "FieldDifference",
    "FillProgress",
    "HeadMove",
    "Ingested",
    "KindSummary",
    "Merged",
    "Object",
    "ObjectList",
    "ObjectsCommitted",
    "PipelineStatus",
    "Plan",
    "Quarantine",
    "QuarantinedRow",
    "RegisteredDefinition",
    "Replayed",
    "Reset",
    "SavedDataset",
    "ServedBranch",
    "ServedView",
    "ServerInfo",
    "Shown",
    "TableFile",
    "TableFill",
    "Tag",
    "ViewAudit",
]


@dataclass(frozen=True)
class Plan:
    """What an apply would change and break."""

    commit: str
    """The commit that it was made against."""
    text: str
    """For people; printing the plan prints this."""
    plan: Any
    """For programs."""
    changes: bool
    """Whether anything would change."""
    breaking: bool
    """Whether anything would break."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Applied:
    """What an apply has done."""

    commit: str
    """The new commit, or the head where nothing changed."""
    plan: Plan
    """What was changed."""


@dataclass(frozen=True)
class RegisteredDefinition:
    """One definition as it is registered."""

    kind: str
    name: str
    spec: dict[str, Any]
    """Its fields, those at their default left out."""
    yaml: str


@dataclass(frozen=True)
class Acknowledgement:
    """The server has the rows durably."""

    token: str
    """Give it to a later read as `at_least`."""
    rows: int
    duplicate: bool
    """The push was known already by its idempotency key."""


@dataclass(frozen=True)
class Ingested:
    """Rows that went in by file or bulk stream."""

    commit: str
    """The commit that holds them."""
    rows: int
    """Rows that are in."""
    quarantined: int
    """Rows that the checks refused."""
    duplicates: int
    """Rows that were in before, from the same file or stream."""
    source: int
    token: str
    """Give it to a later read as `at_least`."""


@dataclass(frozen=True)
class PipelineStatus:
    """Where the pipeline of a branch stands; the positions count the rows of its log."""

    commit: str
    source: int
    appended: int
    """The next position: rows before it are acknowledged."""
    published: int
    """Rows before it are visible online."""
    committed: int
    """Rows before it are in a commit."""
    definitions: str
    last_error: str
    """Empty where all is well."""


@dataclass(frozen=True)
class Failure:
    """A check that a row failed."""

    check: str
    column: str
    reason: str


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that was refused, as it came."""

    view: str
    source: int
    position: int
    arrival: _datetime.datetime
    format: str
    payload: bytes
    """The original bytes."""
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Quarantine:
    """Rows that were refused: some of them, and how many there are."""

    rows: tuple[QuarantinedRow, ...]
    total: int


@dataclass(frozen=True)
class Branch:
    """A branch and its head."""

    name: str
    id: int
    """Never given twice; it stays when the branch is renamed."""
    commit: str
    protected: bool
    """Whether it refuses to be deleted, renamed and reset."""
    created: _datetime.datetime


@dataclass(frozen=True)
class Tag:
    """A name that stays with its commit."""

    name: str
    commit: str
    created: _datetime.datetime


@dataclass(frozen=True)
class HeadMove:
    """One move of a branch's head."""

    sequence: int
    """Grows with every move, whatever the clock said."""
    from_commit: str
    """Where the head was; empty where the branch was made."""
    to_commit: str
    time: _datetime.datetime
    author: str
    action: str
    """How: create, commit, merge, revert …"""


@dataclass(frozen=True)
class Commit:
    """One commit."""

    id: str
    root: str
    parents: tuple[str, ...]
    author: str
    message: str
    time: _datetime.datetime
    metadata: dict[str, str]


@dataclass(frozen=True)
class FieldDifference:
    """One field of a value that differs; `None` where it is not there."""

    path: str
    """Such as `fields.temp.type`."""
    left: Any
    right: Any


@dataclass(frozen=True)
class Difference:
    """One key that differs: its kind (feature, table, …), the change (added, removed, changed) and one line for people."""

    kind: str
    key: str
    change: str
    summary: str
    fields: tuple[FieldDifference, ...] = ()
    """What changed, field by field, where the values are understood."""
    left: Any = None
    """The value on the left, where values were asked for: what it says, or `{"base64": …}` where the server cannot read it."""
    right: Any = None


@dataclass(frozen=True)
class KindSummary:
    """How many keys of a kind differ."""

    kind: str
    added: int
    removed: int
    changed: int


@dataclass(frozen=True)
class Diff:
    """What differs between two commits."""

    left_commit: str
    """With three dots, the youngest common commit."""
    right_commit: str
    differences: tuple[Difference, ...]
    truncated: bool
    """More lay behind the limit."""
    summary: tuple[KindSummary, ...] = ()
    """How many keys of each kind, of those that were read."""


@dataclass(frozen=True)
class Shown:
    """A commit and what it changed."""

    commit: Commit
    changes: Diff


@dataclass(frozen=True)
class ConflictingKey:
    """A key that both sides changed; a value is `None` where there is none."""

    kind: str
    key: str
    base: Any
    """Its value before either side changed it: what it says, or `{"base64": …}` where the server cannot read it."""
    ours: Any
    """Its value on the branch that was to move."""
    theirs: Any
    """Its value in what was to come."""
    reason: str


@dataclass(frozen=True)
class Merged:
    """What a merge has done, or would do.

    `outcome` is fast_forward, merged or up_to_date; of a dry run also conflict.
    """

    commit: str
    """The head of the destination now."""
    outcome: str
    from_commit: str
    """Where the head was."""
    base: str
    """The commit that both sides were compared with; empty where they were not."""
    changes: Diff | None = None
    """What would come, of a dry run."""
    conflicts: tuple[ConflictingKey, ...] = ()
    """What keeps it from being done, of a dry run: the first 1,000 keys."""
    conflict_count: int = 0


@dataclass(frozen=True)
class Replayed:
    """What a revert or cherry-pick has done."""

    commit: str
    """The new commit."""
    from_commit: str
    """Where the head was."""


@dataclass(frozen=True)
class Reset:
    """Where a branch's head was, and where it is now."""

    from_commit: str
    to_commit: str


@dataclass(frozen=True)
class SavedDataset:
    """A dataset saved under a name, and all that it takes to make it again."""

    name: str
    manifest: Any


@dataclass(frozen=True)
class CompactedTable:
    """What a compaction did to a table."""

    namespace: str
    """`features`, or `quarantine` for refused rows."""
    name: str
    """The view."""
    outcome: str
    """`compacted`, `nothing`, or `superseded` where something other than appends changed the table meanwhile."""
    reason: str
    """Why it was superseded."""
    commits: tuple[str, ...]
    """The commits made, oldest first."""
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rows: int
    """How many rows were rewritten."""


@dataclass(frozen=True)
class FillProgress:
    """How far a fill of an online store is."""

    rows_done: int
    rows: int
    rows_per_second: int | None
    """At most so many a second; none for as fast as it goes."""


@dataclass(frozen=True)
class ServedView:
    """A view that is served online."""

    view: str
    generation: int | None
    """The generation that answers; none as long as none does."""
    fill: FillProgress | None
    """The fill under way."""


@dataclass(frozen=True)
class ServedBranch:
    """A branch that is served online."""

    branch: str
    commit: str | None
    """What its views answer for; none as long as it is filled for the first time, or again after a loss."""
    views: tuple[ServedView, ...]
    filling: bool
    """Whether a fill is under way, or asked for."""


@dataclass(frozen=True)
class ViewAudit:
    """What came of comparing what is online of a view with its history."""

    view: str
    commit: str
    """What it was compared with."""
    entities: int
    """Entities that history or the online store has."""
    pending: int
    """Entities whose row online was pushed and is in no commit yet."""
    missing: int
    """Entities that the online store lacks."""
    behind: int
    """Entities of which it has an older row."""
    unexplained: int
    """Entities of which it has a row that history does not have."""
    different: int
    """Entities of which it has other values."""
    repaired: int
    """Rows that were written to mend it."""
    rebuilding: bool
    """Whether the view is being rebuilt because rows could not be mended."""
    examples: tuple[str, ...]
    """Some of the keys that differ, each with how."""

    @property
    def differing(self) -> int:
        """Entities that differ."""
        return self.missing + self.behind + self.unexplained + self.different


@dataclass(frozen=True)
class TableFill:
    """What rows read as that carry no reserved columns, as those that an outside engine wrote."""

    arrival: _datetime.datetime
    source: int
    first_position: int
    """The position of the file's first row; the others count on from it."""


@dataclass(frozen=True)
class TableFile:
    """A data file of a table."""

    location: str
    """Where it lies, such as `file:///…/x.parquet`."""
    rows: int
    bytes: int
    fill: TableFill | None
    """What its rows read as where they carry no reserved columns; a compaction writes them out."""


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself."""

    version: str
    repositories: tuple[str, ...]
    data_folder: str
    started: _datetime.datetime
    pid: int


def _time(text: str) -> _datetime.datetime:
    return _datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def _compacted(reply: dict[str, Any]) -> CompactedTable:
    return CompactedTable(**{**reply, "commits": tuple(reply["commits"])})


def _served_branch(reply: dict[str, Any]) -> ServedBranch:
    views = (ServedView(**{**view, "fill": view["fill"] and FillProgress(**view["fill"])}) for view in reply["views"])
    return ServedBranch(**{**reply, "views": tuple(views)})


def _view_audit(reply: dict[str, Any]) -> ViewAudit:
    return ViewAudit(**{**reply, "examples": tuple(reply["examples"])})


def _table_file(reply: dict[str, Any]) -> TableFile:
    fill = reply["fill"]
    return TableFile(**{**reply, "fill": fill and TableFill(**{**fill, "arrival": _time(fill["arrival"])})})


def _applied(reply: dict[str, Any]) -> Applied:
    return Applied(reply["commit"], Plan(**reply["plan"]))


def _definitions(reply: dict[str, Any]) -> list[RegisteredDefinition]:
    return [RegisteredDefinition(**definition) for definition in reply["definitions"]]


def _quarantine(reply: tuple[dict[str, Any], list[bytes]]) -> Quarantine:
    found, payloads = reply

    def row(fields: dict[str, Any], payload: bytes) -> QuarantinedRow:
        failures = tuple(Failure(**failure) for failure in fields["failures"])
        return QuarantinedRow(**fields | {"arrival": _time(fields["arrival"]), "payload": payload, "failures": failures})

    return Quarantine(tuple(row(*pair) for pair in zip(found["rows"], payloads)), found["total"])


def _commit(reply: dict[str, Any]) -> Commit:
    return Commit(**reply | {"parents": tuple(reply["parents"]), "time": _time(reply["time"])})


def _branch(reply: dict[str, Any]) -> Branch:
    return Branch(**reply | {"created": _time(reply["created"])})


def _tag(reply: dict[str, Any]) -> Tag:
    return Tag(**reply | {"created": _time(reply["created"])})


def _head_move(reply: dict[str, Any]) -> HeadMove:
    fields = _without_keywords(reply)
    return HeadMove(**fields | {"time": _time(fields["time"])})


def _diff(reply: dict[str, Any]) -> Diff:
    def difference(fields: dict[str, Any]) -> Difference:
        return Difference(**fields | {"fields": tuple(FieldDifference(**field) for field in fields["fields"])})

    summary = tuple(KindSummary(**kind) for kind in reply["summary"])
    return Diff(**reply | {"differences": tuple(map(difference, reply["differences"])), "summary": summary})


def _shown(reply: dict[str, Any]) -> Shown:
    return Shown(_commit(reply["commit"]), _diff(reply["changes"]))


def _merged(reply: dict[str, Any]) -> Merged:
    fields = _without_keywords(reply)
    changes = _diff(fields["changes"]) if "changes" in fields else None
    return Merged(**fields | {"changes": changes, "conflicts": tuple(ConflictingKey(**key) for key in fields["conflicts"])})


def _without_keywords(reply: dict[str, Any]) -> dict[str, Any]:
    """`from` is a keyword of Python's."""
    return {f"{name}_commit" if name in ("from", "to") else name: value for name, value in reply.items()}


def _info(reply: dict[str, Any]) -> ServerInfo:
    return ServerInfo(**reply | {"repositories": tuple(reply["repositories"]), "started": _time(reply["started"])})


@dataclass(frozen=True)
class Object:
    """A file under version control, at a commit."""

    path: str
    size: int
    """In bytes."""
    checksum: str
    """`blake3:` and 64 hex digits."""
    content_type: str
    address: str
    """Where it lies: `blob:…`, `stored:…` or `import:…`."""
    imported: bool
    """Whether it lies in a file of the object store that is not the repository's own."""


@dataclass(frozen=True)
class ObjectsCommitted:
    """What a change of objects did."""

    commit: str
    """The new commit, or the head where nothing changed."""
    changed: bool
    objects: list[Object]
    """What was put or imported."""


@dataclass(frozen=True)
class ObjectList:
    """What a listing found, in the byte order of paths."""

    objects: list[Object]
    prefixes: list[str]
    """What several paths begin with, up to and with the delimiter."""


def _objects_committed(reply: dict[str, Any]) -> ObjectsCommitted:
    return ObjectsCommitted(reply["commit"], reply["changed"], [Object(**found) for found in reply["objects"]])


def _object_list(reply: Any) -> ObjectList:
    objects, prefixes = reply
    return ObjectList([Object(**found) for found in objects], prefixes)
