"""What the blocking and the asyncio client have in common: how arguments become calls, and replies results."""

from __future__ import annotations

import datetime as _datetime
import getpass
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, NamedTuple, TypeVar, Union

from . import _anabranch as native
from . import results, rows, spines, tables
from .definitions import Definition, FeatureService, FeatureView
from .errors import InvalidArgument

T = TypeVar("T")

Definitions = Union[Definition, str, "os.PathLike[str]", Iterable[Union[Definition, str, "os.PathLike[str]"]]]
"""Definitions, and paths of YAML files or of folders of them."""

Features = Union[str, FeatureService, Sequence[Union[str, FeatureView]]]
"""A service or its name, or a list of `view:feature` and `view`."""

Knowledge = Union[str, _datetime.datetime]
"""`spine`, `any` or a time."""

Engine = Literal["", "datafusion", "ballista"]
"""Where a join runs; empty for where the server's configuration says."""

Time = Union[str, _datetime.datetime]
"""A time as `2026-11-20T12:00:00Z` or a bare date, or a `datetime`; UTC where it has no zone."""

Paths = Union[str, Sequence[str]]
"""Keys of the versioned map: a kind such as `feature`, or more of a key, such as `table/features/weather`."""

ObjectData = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]", BinaryIO]
"""Bytes, the path of a file, or a file opened for reading bytes."""


class Prepared(NamedTuple, Generic[T]):
    """A call that has not been started, and what makes its reply a result."""

    call: native.Call
    finish: Callable[[Any], T]


def connect(address: str, timeout: float, author: str | None, page_size: int) -> native.Call:
    return native.connect(address, _datetime.timedelta(seconds=timeout), _author(author), page_size)


def open_folder(folder: str | os.PathLike[str], timeout: float, author: str | None, page_size: int) -> native.Call:
    if not sys.executable:
        raise InvalidArgument("this Python is embedded and cannot start a server: start one with `anabranch serve` and connect to it")
    return native.open(os.fspath(folder), sys.executable, _datetime.timedelta(seconds=timeout), _author(author), page_size)


def _author(author: str | None) -> str:
    if author is not None:
        return author
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


class Calls:
    """Prepares the calls of one connection."""

    def __init__(self, client: native.Client) -> None:
        self.client = client

    def _at(self, ref: str | None) -> native.Client:
        return self.client if ref is None else self.client.at(ref)

    def at(self, ref: str | None) -> native.Client:
        return self._at(ref)

    def plan(self, definitions: Definitions, delete: Definitions, ref: str | None) -> Prepared[results.Plan]:
        call = self._at(ref).plan(*_changes(definitions, delete))
        return Prepared(call, lambda reply: results.Plan(**reply))

    def apply(
        self, definitions: Definitions, delete: Definitions, allow_breaking: bool, message: str, ref: str | None
    ) -> Prepared[results.Applied]:
        call = self._at(ref).apply(*_changes(definitions, delete), allow_breaking=allow_breaking, message=message)
        return Prepared(call, results._applied)

    def definitions(self, kind: str | None, name: str | None, ref: str | None) -> Prepared[list[results.RegisteredDefinition]]:
        return Prepared(self._at(ref).definitions(kind, name), results._definitions)

    def push(
        self, view: FeatureView | str, data: rows.RowsLike, idempotency_key: str, batch_number: int, ref: str | None
    ) -> Prepared[results.Acknowledgement]:
        client, name = self._at(ref), _name(view)
        as_json = rows.to_json(data)
        if as_json is not None:
            call = client.push_json(name, as_json, idempotency_key, batch_number)
        else:
            call = client.push_arrow(name, rows.to_arrow(data), idempotency_key, batch_number)
        return Prepared(call, lambda reply: results.Acknowledgement(**reply))

    def delete(
        self, view: FeatureView | str, data: rows.RowsLike, idempotency_key: str, ref: str | None
    ) -> Prepared[results.Acknowledgement]:
        call = self._at(ref).delete(_name(view), rows.to_json_always(data), idempotency_key)
        return Prepared(call, lambda reply: results.Acknowledgement(**reply))

    def flush(self, ref: str | None) -> Prepared[str]:
        return Prepared(self._at(ref).flush(), str)

    def ingest(
        self,
        view: FeatureView | str,
        data: str | os.PathLike[str] | rows.RowsLike,
        format: str | None,
        stream_id: str,
        first_batch: int,
        message: str,
        progress: Callable[[int], object] | None,
        ref: str | None,
    ) -> Prepared[results.Ingested]:
        client, name = self._at(ref), _name(view)
        if isinstance(data, (str, os.PathLike)):
            call = client.ingest_file(name, os.fspath(data), format, message, progress)
        else:
            call = client.ingest_arrow(name, rows.to_arrow(data), stream_id, first_batch, message)
        return Prepared(call, lambda reply: results.Ingested(**reply))

    def get_online_features(
        self, features: Features, keys: rows.RowsLike, full_names: bool, at_least: str, timeout: float | None, ref: str | None
    ) -> Prepared[tables.OnlineFeatures]:
        call = self._at(ref).get_online_features(
            *_selection(features), rows.to_arrow(keys), full_names=full_names, at_least=at_least, timeout_ms=_milliseconds(timeout)
        )
        return Prepared(call, lambda reply: tables.OnlineFeatures(*reply))

    def get_historical_features(
        self,
        spine: spines.Spine,
        features: Features,
        time_column: str,
        knowledge: Knowledge,
        strict: bool,
        full_names: bool,
        at_least: str,
        timeout: float | None,
        save_as: str,
        engine: Engine,
        ref: str | None,
    ) -> Prepared[tables.Dataset]:
        join = _join(features, time_column, knowledge, strict, full_names, at_least, timeout, save_as, engine, "", (), 0)
        call = self._at(ref).get_historical_features(spines.to_native(spine, time_column), join)
        return Prepared(call, lambda reply: tables.Dataset(*reply))

    def create_dataset(
        self,
        name: str,
        spine: spines.Spine,
        features: Features,
        splits: str,
        split_by: Sequence[str],
        split_seed: int,
        time_column: str,
        knowledge: Knowledge,
        strict: bool,
        full_names: bool,
        at_least: str,
        timeout: float | None,
        engine: Engine,
        ref: str | None,
    ) -> Prepared[results.SavedDataset]:
        join = _join(features, time_column, knowledge, strict, full_names, at_least, timeout, name, engine, splits, split_by, split_seed)
        call = self._at(ref).create_dataset(spines.to_native(spine, time_column), join)
        return Prepared(call, lambda reply: results.SavedDataset(**reply))

    def refresh_dataset(self, name: str, save_as: str, from_ref: str, ref: str | None) -> Prepared[results.SavedDataset]:
        return Prepared(self._at(ref).refresh_dataset(name, save_as, from_ref), lambda reply: results.SavedDataset(**reply))

    def diff_datasets(self, left: str, right: str, left_ref: str, right_ref: str, ref: str | None) -> Prepared[dict[str, Any]]:
        return Prepared(self._at(ref).diff_datasets(left, right, left_ref, right_ref), lambda reply: reply)

    def read_dataset(self, name: str, split: str, columns: Sequence[str], ref: str | None) -> Prepared[tables.Table]:
        return Prepared(self._at(ref).read_dataset(name, split, list(columns)), tables.Table)

    def read(self, view: FeatureView | str, columns: Sequence[str], quarantine: bool, ref: str | None) -> Prepared[tables.Table]:
        return Prepared(self._at(ref).read(_name(view), list(columns), quarantine), tables.Table)

    def sql(self, query: str, ref: str | None) -> Prepared[tables.Table]:
        return Prepared(self._at(ref).sql(query), tables.Table)

    def branch(self, name: str, source: str) -> Prepared[results.Branch]:
        return Prepared(self.client.create_branch(name, source), results._branch)

    def delete_branch(self, name: str) -> Prepared[None]:
        return Prepared(self.client.delete_branch(name), lambda _: None)

    def rename_branch(self, name: str, new_name: str) -> Prepared[results.Branch]:
        return Prepared(self.client.rename_branch(name, new_name), results._branch)

    def protect_branch(self, name: str, protected: bool) -> Prepared[results.Branch]:
        return Prepared(self.client.protect_branch(name, protected), results._branch)

    def show_branch(self, name: str) -> Prepared[results.Branch]:
        return Prepared(self.client.branch(name), results._branch)

    def branches(self, prefix: str) -> Prepared[list[results.Branch]]:
        return Prepared(self.client.branches(prefix), lambda reply: [results._branch(branch) for branch in reply])

    def reflog(self, branch: str, limit: int) -> Prepared[list[results.HeadMove]]:
        return Prepared(self.client.reflog(branch, limit), lambda reply: [results._head_move(move) for move in reply])

    def tag(self, name: str, ref: str) -> Prepared[results.Tag]:
        return Prepared(self.client.create_tag(name, ref), results._tag)

    def delete_tag(self, name: str) -> Prepared[None]:
        return Prepared(self.client.delete_tag(name), lambda _: None)

    def tags(self, prefix: str) -> Prepared[list[results.Tag]]:
        return Prepared(self.client.tags(prefix), lambda reply: [results._tag(tag) for tag in reply])

    def commit(self, ref: str | None) -> Prepared[results.Commit]:
        return Prepared(self._at(ref).commit(), results._commit)

    def show(self, ref: str | None, parent: int, limit: int, values: bool) -> Prepared[results.Shown]:
        return Prepared(self._at(ref).show(parent, limit, values), results._shown)

    def log(
        self,
        limit: int,
        path: Paths,
        since: Time | None,
        until: Time | None,
        author: str,
        first_parent: bool,
        ref: str | None,
    ) -> Prepared[list[results.Commit]]:
        paths = [path] if isinstance(path, str) else list(path)
        call = self._at(ref).log(limit, [path for path in paths if path], _time(since), _time(until), author, first_parent)
        return Prepared(call, lambda reply: [results._commit(commit) for commit in reply])

    def diff(
        self, left: str, right: str, three_dot: bool, path: str, limit: int, values: bool, summary_only: bool
    ) -> Prepared[results.Diff]:
        call = self.client.diff(left, right, limit, three_dot=three_dot, path=path, values=values, summary_only=summary_only)
        return Prepared(call, results._diff)

    def merge_base(self, left: str, right: str) -> Prepared[results.Commit | None]:
        return Prepared(self.client.merge_base(left, right), lambda reply: None if reply is None else results._commit(reply))

    def merge(
        self, source: str, into: str, message: str, strategy: str, squash: bool, dry_run: bool, limit: int, values: bool
    ) -> Prepared[results.Merged]:
        call = self.client.merge(
            source, into, message, strategy=strategy, squash=squash, dry_run=dry_run, limit=limit, values=values
        )
        return Prepared(call, results._merged)

    def revert(self, commit: str, message: str, strategy: str, parent: int, ref: str | None) -> Prepared[results.Replayed]:
        return Prepared(self._at(ref).revert(commit, message, strategy, parent), _replayed)

    def cherry_pick(self, commit: str, message: str, strategy: str, parent: int, ref: str | None) -> Prepared[results.Replayed]:
        return Prepared(self._at(ref).cherry_pick(commit, message, strategy, parent), _replayed)

    def reset(self, to: str, expected: str, rewind_offsets: bool, ref: str | None) -> Prepared[results.Reset]:
        call = self._at(ref).reset(to, expected, rewind_offsets)
        return Prepared(call, lambda reply: results.Reset(**results._without_keywords(reply)))

    def quarantine(self, view: FeatureView | str, limit: int, ref: str | None) -> Prepared[results.Quarantine]:
        return Prepared(self._at(ref).quarantine(_name(view), limit), results._quarantine)

    def status(self, ref: str | None) -> Prepared[results.PipelineStatus]:
        return Prepared(self._at(ref).status(), lambda reply: results.PipelineStatus(**reply))

    def compact(self, views: FeatureView | str | Sequence[FeatureView | str], branch: str, full: bool) -> Prepared[list[results.CompactedTable]]:
        names = [_name(view) for view in _listed(views)]
        return Prepared(self.client.compact(branch, names, full), lambda reply: [results._compacted(table) for table in reply])

    def served_branches(self) -> Prepared[list[results.ServedBranch]]:
        return Prepared(self.client.served_branches(), lambda reply: [results._served_branch(branch) for branch in reply])

    def serve_branch(self, branch: str) -> Prepared[results.ServedBranch]:
        return Prepared(self.client.serve_branch(branch), results._served_branch)

    def unserve_branch(self, branch: str) -> Prepared[None]:
        return Prepared(self.client.unserve_branch(branch), lambda _: None)

    def rebuild_online(
        self, views: FeatureView | str | Sequence[FeatureView | str], branch: str, rows_per_second: int | None
    ) -> Prepared[results.ServedBranch]:
        names = [_name(view) for view in _listed(views)]
        return Prepared(self.client.rebuild_online(branch, names, rows_per_second), results._served_branch)

    def audit(self, views: FeatureView | str | Sequence[FeatureView | str], branch: str, repair: bool) -> Prepared[list[results.ViewAudit]]:
        names = [_name(view) for view in _listed(views)]
        return Prepared(self.client.audit(branch, names, repair), lambda reply: [results._view_audit(audit) for audit in reply])

    def table_files(self, view: FeatureView | str, ref: str | None) -> Prepared[list[results.TableFile]]:
        return Prepared(self._at(ref).table_files(_name(view)), lambda reply: [results._table_file(file) for file in reply["files"]])

    def table_metadata(self, view: FeatureView | str, ref: str | None) -> Prepared[bytes]:
        return Prepared(self._at(ref).table_metadata(_name(view)), bytes)

    def datasets(self, ref: str | None) -> Prepared[list[results.SavedDataset]]:
        return Prepared(self._at(ref).list_datasets(), lambda reply: [results.SavedDataset(**saved) for saved in reply])

    def dataset(self, name: str, ref: str | None) -> Prepared[results.SavedDataset]:
        return Prepared(self._at(ref).describe_dataset(name), lambda reply: results.SavedDataset(**reply))

    def put_objects(
        self,
        objects: Iterable[tuple[str, ObjectData]],
        content_type: str,
        if_absent: bool,
        if_match: str | None,
        message: str,
        progress: Callable[[int], object] | None,
        ref: str | None,
    ) -> Prepared[results.ObjectsCommitted]:
        call = self._at(ref).objects().put(
            [(path, _object_data(data)) for path, data in objects],
            content_type=content_type,
            if_absent=if_absent,
            if_match=if_match,
            message=message,
            progress=progress,
        )
        return Prepared(call, results._objects_committed)

    def get_object(self, path: str, start: int, end: int | None, ref: str | None) -> Prepared[bytes]:
        return Prepared(self._at(ref).objects().get(path, start, end), bytes)

    def download_object(
        self, path: str, file: str | os.PathLike[str], progress: Callable[[int], object] | None, ref: str | None
    ) -> Prepared[results.Object]:
        return Prepared(self._at(ref).objects().download(path, os.fspath(file), progress), lambda reply: results.Object(**reply))

    def stat_object(self, path: str, ref: str | None) -> Prepared[results.Object]:
        return Prepared(self._at(ref).objects().stat(path), lambda reply: results.Object(**reply))

    def list_objects(self, prefix: str, delimiter: str, limit: int | None, ref: str | None) -> Prepared[results.ObjectList]:
        return Prepared(self._at(ref).objects().list(prefix, delimiter, limit), results._object_list)

    def delete_objects(
        self, paths: Iterable[str], if_match: str | None, message: str, ref: str | None
    ) -> Prepared[results.ObjectsCommitted]:
        return Prepared(self._at(ref).objects().delete(list(paths), if_match, message), results._objects_committed)

    def copy_object(
        self, source: str, to: str, source_ref: str, if_absent: bool, message: str, ref: str | None
    ) -> Prepared[results.ObjectsCommitted]:
        return Prepared(self._at(ref).objects().copy(source_ref, source, to, if_absent, message), results._objects_committed)

    def rename_object(self, source: str, to: str, if_absent: bool, message: str, ref: str | None) -> Prepared[results.ObjectsCommitted]:
        return Prepared(self._at(ref).objects().rename(source, to, if_absent, message), results._objects_committed)

    def import_objects(self, source: str, to: str, if_absent: bool, message: str, ref: str | None) -> Prepared[results.ObjectsCommitted]:
        return Prepared(self._at(ref).objects().import_files(source, to, if_absent, message), results._objects_committed)

    def info(self) -> Prepared[results.ServerInfo]:
        return Prepared(self.client.info(), results._info)


def _replayed(reply: dict[str, Any]) -> results.Replayed:
    return results.Replayed(**results._without_keywords(reply))


def _time(time: Time | None) -> str:
    if isinstance(time, _datetime.datetime):
        return (time if time.tzinfo else time.replace(tzinfo=_datetime.timezone.utc)).isoformat()
    return time or ""


def _name(of: Definition | str) -> str:
    return of if isinstance(of, str) else of.name


def _object_data(data: ObjectData) -> object:
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, (bytes, str, os.PathLike)) or callable(getattr(data, "read", None)):
        return data
    raise InvalidArgument(f"a {type(data).__name__} is no data of an object: give bytes, a path or a file opened for reading bytes")


def _milliseconds(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, round(seconds * 1000))


def _selection(features: Features) -> tuple[list[str], str | None]:
    if isinstance(features, FeatureService):
        return [], features.name
    if isinstance(features, str):
        return ([features], None) if ":" in features else ([], features)
    return [_name(feature) for feature in features], None


def _changes(definitions: Definitions, delete: Definitions) -> tuple[list[bytes], list[tuple[str, str]], list[tuple[str, str]]]:
    objects: list[bytes] = []
    files: list[tuple[str, str]] = []
    for item in _listed(definitions):
        if isinstance(item, Definition):
            objects.append(item.to_bytes())
        elif isinstance(item, (str, os.PathLike)):
            files.extend(_yaml_files(Path(item)))
        else:
            raise InvalidArgument(f"a {type(item).__name__} is no definition and no path of a YAML file")
    return objects, files, [_deleted(item) for item in _listed(delete)]


def _listed(items: Any) -> list[Any]:
    return [items] if isinstance(items, (Definition, str, os.PathLike)) else list(items)


def _deleted(item: Any) -> tuple[str, str]:
    if isinstance(item, Definition):
        return item.kind, item.name
    if isinstance(item, str) and item.count("/") == 1:
        kind, name = item.split("/")
        return kind, name
    raise InvalidArgument(f"{item!r} names no definition; give the definition itself or a text such as 'feature_view/weather'")


def _yaml_files(path: Path) -> list[tuple[str, str]]:
    paths = [path]
    if path.is_dir():
        paths = sorted(found for found in path.rglob("*") if found.suffix in (".yaml", ".yml") and found.is_file())
        if not paths:
            raise InvalidArgument(f"there is no YAML file in {path}")
    try:
        return [(str(found), found.read_text(encoding="utf-8")) for found in paths]
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 text: {error}") from error


class _Closed:
    """Stands in the place of a native client that was closed."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the client is closed")


CLOSED: Any = Calls(_Closed())  # type: ignore[arg-type]


def _join(
    features: Features,
    time_column: str,
    knowledge: Knowledge,
    strict: bool,
    full_names: bool,
    at_least: str,
    timeout: float | None,
    save_as: str,
    engine: Engine,
    splits: str,
    split_by: Sequence[str],
    split_seed: int,
) -> dict[str, Any]:
    names, service = _selection(features)
    return {
        "features": names,
        "service": service,
        "full_names": full_names,
        "time_column": time_column,
        "knowledge": _time(knowledge),
        "strict": strict,
        "at_least": at_least,
        "timeout_ms": _milliseconds(timeout),
        "save_as": save_as,
        "engine": engine,
        "splits": splits,
        "split_by": list(split_by),
        "split_seed": split_seed,
    }
