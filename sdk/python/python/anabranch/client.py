"""The blocking client.

Calls run natively without the GIL, and Ctrl-C ends one at once. A client may be shared between threads, but not with a forked child: connect again there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from . import _calls, results, tables
from . import _anabranch as native
from ._calls import Definitions, Engine, Features, Knowledge, ObjectData, Paths, Prepared, Time
from .datasets import SavedDataset
from .definitions import FeatureView
from .rows import RowsLike
from .spines import Spine

T = TypeVar("T")

__all__ = ["Client", "connect", "open"]

DEFAULT_TIMEOUT = 60.0


def connect(address: str, *, timeout: float = DEFAULT_TIMEOUT, author: str | None = None, page_size: int = 0) -> Client:
    """Connects to a server at an address such as `http://127.0.0.1:7420`.

    `timeout` is for each call that moves no rows in bulk, in seconds; `author` makes the commits, by default the user of this process;
    `page_size` is how many entries of a list travel in one reply, the server's own measure where 0. Raises `Unavailable` where no server answers.
    """
    return Client(_calls.connect(address, timeout, author, page_size).wait())


def open(folder: str | os.PathLike[str], *, timeout: float = DEFAULT_TIMEOUT, author: str | None = None, page_size: int = 0) -> Client:
    """Joins the server that runs for a folder, or starts a private one that ends with its last user.

    The folder is made where it is missing; the server's log is `server.log` in it. Raises `FailedPrecondition` where no server can be started, with the
    end of its log.
    """
    return Client(_calls.open_folder(folder, timeout, author, page_size).wait())


class Client:
    """A connection to a server, about one repository and ref: `default` and `main` unless told otherwise.

    Most calls take a `ref`: `branch:x`, `tag:x`, `commit:<hex>`, or bare (branch, tag, then a unique beginning of a commit), with `~n` for the nth
    ancestor, `^n` for the nth parent and `@{time}` for where a branch was then. `at` and `repository` give a client about another ref or repository over the same connection. Made by `connect` and `open`; it is a context
    manager.
    """

    def __init__(self, native_client: native.Client) -> None:
        self._calls = _calls.Calls(native_client)

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._calls.client.address

    def at(self, ref: str) -> Client:
        """The same connection, about another ref."""
        return Client(self._calls.client.at(ref))

    def repository(self, name: str) -> Client:
        """The same connection, about another repository."""
        return Client(self._calls.client.repository(name))

    def close(self) -> None:
        """Ends this client's use of the connection; a private server ends with the last such use."""
        self._calls = _calls.CLOSED

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def plan(self, definitions: Definitions = (), *, delete: Definitions = (), ref: str | None = None) -> results.Plan:
        """What an apply would change and what it would break, field by field.

        Takes what `apply` takes, and changes nothing.
        """
        return _run(self._calls.plan(definitions, delete, ref))

    def apply(
        self,
        definitions: Definitions = (),
        *,
        delete: Definitions = (),
        allow_breaking: bool = False,
        message: str = "",
        ref: str | None = None,
    ) -> results.Applied:
        """Applies definitions in one commit: all of them, or none.

        Definitions are objects, paths of YAML files, or paths of folders of them. `delete` names definitions to take out. Raises `FailedPrecondition`
        where something would break that is there already (a dropped or narrowed feature, a changed join key) and `allow_breaking` is false.
        """
        return _run(self._calls.apply(definitions, delete, allow_breaking, message, ref))

    def definitions(
        self,
        kind: str | None = None,
        name: str | None = None,
        *,
        ref: str | None = None,
    ) -> list[results.RegisteredDefinition]:
        """The definitions at a ref, by kind and name."""
        return _run(self._calls.definitions(kind, name, ref))

    def push(
        self,
        view: FeatureView | str,
        rows: RowsLike,
        *,
        idempotency_key: str = "",
        batch_number: int = 0,
        ref: str | None = None,
    ) -> results.Acknowledgement:
        """Pushes rows to a view; returns when they are durable, before they are visible.

        Rows are dictionaries, columns, a data frame or Arrow data. A row that fails a check goes to quarantine and does not hold up the others. The
        same idempotency key again, within the server's window, is the same push again. To see the rows, hand `token` to a later read as `at_least`.
        """
        return _run(self._calls.push(view, rows, idempotency_key, batch_number, ref))

    def delete(
        self,
        view: FeatureView | str,
        rows: RowsLike,
        *,
        idempotency_key: str = "",
        ref: str | None = None,
    ) -> results.Acknowledgement:
        """Deletes entities as of an event time: rows of the view's join keys, its event timestamp and, where it has one, known timestamp."""
        return _run(self._calls.delete(view, rows, idempotency_key, ref))

    def flush(self, *, ref: str | None = None) -> str:
        """Waits until all that was acknowledged before is in a commit, and gives that commit's id."""
        return _run(self._calls.flush(ref))

    def ingest(
        self,
        view: FeatureView | str,
        data: str | os.PathLike[str] | RowsLike,
        *,
        format: str | None = None,
        stream_id: str = "",
        first_batch: int = 0,
        message: str = "",
        progress: Callable[[int], object] | None = None,
        ref: str | None = None,
    ) -> results.Ingested:
        """Takes many rows in, in one commit: a file by its path (Parquet, CSV, JSON lines), or a data frame or Arrow data.

        The same file again changes nothing, and neither does a stream of the same `stream_id`. `progress` is told how many bytes of a file have been
        sent.
        """
        return _run(self._calls.ingest(view, data, format, stream_id, first_batch, message, progress, ref))

    def get_online_features(
        self,
        features: Features,
        keys: RowsLike,
        *,
        full_names: bool = False,
        at_least: str = "",
        timeout: float | None = None,
        ref: str | None = None,
    ) -> tables.OnlineFeatures:
        """Looks up the latest values for entities.

        `features` is a service or its name, or a list of `view:feature` and `view`; `keys` are rows of the key columns, such as
        `[{"origin": "JFK"}]`. With `at_least` it waits, `timeout` seconds at most, until that push is visible. Only branches are served.
        """
        return _run(self._calls.get_online_features(features, keys, full_names, at_least, timeout, ref))

    def get_historical_features(
        self,
        spine: Spine,
        features: Features,
        *,
        time_column: str = "event_timestamp",
        knowledge: Knowledge = "spine",
        strict: bool = False,
        full_names: bool = False,
        at_least: str = "",
        timeout: float | None = None,
        save_as: str = "",
        engine: Engine = "",
        ref: str | None = None,
    ) -> tables.Dataset:
        """Joins features to the rows of a spine, each as they were known at the row's own time.

        The spine has the key columns and a time column; all its columns and rows come back in their order, then the features. `knowledge` says what
        counts as known: what was known at the row's time (`spine`), everything (`any`), or what was known at one time for all rows. With `strict`
        only what was true before the row's time counts, not what became true at it. `save_as` saves the dataset, rows and all, under a name on
        the branch. The spine may be `Events(view)` or `Sql(query)`, which the server makes. `engine` says where the join runs: in the server
        (`datafusion`) or on its cluster (`ballista`). The same ref and spine give the same `content_digest`, wherever.
        """
        return _run(
            self._calls.get_historical_features(
                spine, features, time_column, knowledge, strict, full_names, at_least, timeout, save_as, engine, ref
            )
        )

    def read(
        self,
        view: FeatureView | str,
        columns: Sequence[str] = (),
        *,
        quarantine: bool = False,
        ref: str | None = None,
    ) -> tables.Table:
        """Reads the rows of a view's table, or of its quarantine, as they are at a ref."""
        return _run(self._calls.read(view, columns, quarantine, ref))

    def sql(self, query: str, *, ref: str | None = None) -> tables.Table:
        """Queries the feature views at a ref, which are the tables, by their names: one SELECT. What it gives can be a spine.

        Raises `InvalidArgument` for what does not parse, names what is not there or is no query.
        """
        return _run(self._calls.sql(query, ref))

    def branch(self, name: str, source: str = "") -> results.Branch:
        """Makes a branch at a ref, `main` by default; nothing is copied.

        Raises `Conflict` where the name is taken, `NotFound` for an unknown ref and `InvalidArgument` for a name that no branch can have.
        """
        return _run(self._calls.branch(name, source))

    def delete_branch(self, name: str) -> None:
        """Deletes a branch; its commits stay.

        Raises `NotFound` where there is none and `FailedPrecondition` for `main` and protected branches.
        """
        _run(self._calls.delete_branch(name))

    def rename_branch(self, name: str, new_name: str) -> results.Branch:
        """Gives a branch another name. Its id, its log of moves and what was pushed to it stay with it.

        Raises `Conflict` where the new name is taken and `FailedPrecondition` for `main` and protected branches.
        """
        return _run(self._calls.rename_branch(name, new_name))

    def protect_branch(self, name: str, protected: bool = True) -> results.Branch:
        """Protects a branch from being deleted, renamed and reset, or no longer."""
        return _run(self._calls.protect_branch(name, protected))

    def show_branch(self, name: str = "") -> results.Branch:
        """One branch; the client's own ref where none is named. Raises `NotFound` where there is none."""
        return _run(self._calls.show_branch(name))

    def branches(self, prefix: str = "") -> list[results.Branch]:
        """The branches whose names begin with a prefix, by name."""
        return _run(self._calls.branches(prefix))

    def reflog(self, branch: str = "", *, limit: int = 0) -> list[results.HeadMove]:
        """Where a branch's head has been, newest first: 100 moves, or as many as asked for. The client's own ref where no branch is named."""
        return _run(self._calls.reflog(branch, limit))

    def tag(self, name: str, ref: str = "") -> results.Tag:
        """Names the commit at a ref, `main` by default.

        Raises `Conflict` where the name is taken, `NotFound` for an unknown ref and `InvalidArgument` for a name that no tag can have.
        """
        return _run(self._calls.tag(name, ref))

    def delete_tag(self, name: str) -> None:
        """Deletes a tag; its commit stays. Raises `NotFound` where there is none."""
        _run(self._calls.delete_tag(name))

    def tags(self, prefix: str = "") -> list[results.Tag]:
        """The tags whose names begin with a prefix, by name."""
        return _run(self._calls.tags(prefix))

    def commit(self, ref: str | None = None) -> results.Commit:
        """The commit that a ref names."""
        return _run(self._calls.commit(ref))

    def show(self, ref: str | None = None, *, parent: int = 0, limit: int = 0, values: bool = False) -> results.Shown:
        """The commit that a ref names and what it changed: 1,000 keys, or as many as asked for.

        It is compared with its first parent, or with `parent`, counted from 1. With `values` each key has its values, too.
        """
        return _run(self._calls.show(ref, parent, limit, values))

    def log(
        self,
        limit: int = 0,
        *,
        path: Paths = (),
        since: Time | None = None,
        until: Time | None = None,
        author: str = "",
        first_parent: bool = False,
        ref: str | None = None,
    ) -> list[results.Commit]:
        """The history of a ref, newest first; 100 commits, or as many as asked for.

        `path` gives only commits that changed a key at or below it: a kind such as `feature`, or more of a key, such as `table/features/weather`;
        several are given as a list. `since` and `until` bound the commits' times, `author` says whose they are. With `first_parent` what was merged
        shows as the merge alone.
        """
        return _run(self._calls.log(limit, path, since, until, author, first_parent, ref))

    def diff(
        self,
        left: str,
        right: str,
        *,
        three_dot: bool = False,
        path: str = "",
        limit: int = 0,
        values: bool = False,
        summary_only: bool = False,
    ) -> results.Diff:
        """What differs between two refs; 1,000 keys, or as many as asked for.

        With `three_dot` it is what came on the right since both went apart: the left is their youngest common commit. `path` gives only keys of a
        kind such as `feature`, or below a key such as `table/features`. With `values` each key has its values, too; with `summary_only` keys are
        counted by kind, all of them, and not listed.
        """
        return _run(self._calls.diff(left, right, three_dot, path, limit, values, summary_only))

    def merge_base(self, left: str, right: str = "") -> results.Commit | None:
        """The youngest commit that two refs have in common; the right is `main` by default. `None` where their histories share nothing."""
        return _run(self._calls.merge_base(left, right))

    def merge(
        self,
        source: str,
        into: str = "",
        *,
        message: str = "",
        strategy: str = "default",
        squash: bool = False,
        dry_run: bool = False,
        limit: int = 0,
        values: bool = False,
    ) -> results.Merged:
        """Merges a ref into a branch, the client's own by default.

        Where both sides changed the same, it raises `MergeConflict`, which lists every key with both values, and changes nothing. `strategy` says who
        wins then: `ours` (the branch that moves) or `theirs`. `squash` makes one commit of it that does not name the source as a parent. With
        `dry_run` nothing is changed: the result says what would come (`changes`, `limit` keys at most, with `values` if asked for) and lists
        `conflicts` without raising.
        """
        return _run(self._calls.merge(source, into, message, strategy, squash, dry_run, limit, values))

    def revert(
        self,
        commit: str,
        *,
        message: str = "",
        strategy: str = "default",
        parent: int = 0,
        ref: str | None = None,
    ) -> results.Replayed:
        """Takes back what a commit changed, in a new commit on the branch `ref`.

        A commit with several parents needs `parent`, counted from 1. Raises `MergeConflict` where later commits changed the same, and changes nothing
        then; `strategy` says who wins instead, as for `merge`. Raises `FailedPrecondition` where there is nothing to take back.
        """
        return _run(self._calls.revert(commit, message, strategy, parent, ref))

    def cherry_pick(
        self,
        commit: str,
        *,
        message: str = "",
        strategy: str = "default",
        parent: int = 0,
        ref: str | None = None,
    ) -> results.Replayed:
        """Makes what a commit changed elsewhere again, in a new commit on the branch `ref`. Takes and raises what `revert` does."""
        return _run(self._calls.cherry_pick(commit, message, strategy, parent, ref))

    def reset(
        self,
        to: str,
        *,
        expected: str = "",
        rewind_offsets: bool = False,
        ref: str | None = None,
    ) -> results.Reset:
        """Moves the branch `ref` to any commit; what was committed since stays in its reflog.

        With `expected`, the head as the caller saw it, it raises `Conflict` where the head is another by now. Positions of streams stay where they are,
        so that no row is read twice; with `rewind_offsets` they go back, too, and the rows behind them are read again. Raises `FailedPrecondition` for
        a protected branch.
        """
        return _run(self._calls.reset(to, expected, rewind_offsets, ref))

    def quarantine(self, view: FeatureView | str = "", *, limit: int = 0, ref: str | None = None) -> results.Quarantine:
        """Rows that were refused, with their original bytes and every check that they failed; of all views where none is named."""
        return _run(self._calls.quarantine(view, limit, ref))

    def status(self, *, ref: str | None = None) -> results.PipelineStatus:
        """Where the pipeline of a branch stands."""
        return _run(self._calls.status(ref))

    def compact(
        self,
        views: FeatureView | str | Sequence[FeatureView | str] = (),
        *,
        branch: str = "",
        full: bool = False,
    ) -> list[results.CompactedTable]:
        """Rewrites the small files of views' tables as fewer and larger, sorted ones; of all tables where no view is named.

        No row changes, commits of before keep their files, and rows may be written meanwhile. With `full`, large files are rewritten, too.
        """
        return _run(self._calls.compact(views, branch, full))

    def served_branches(self) -> list[results.ServedBranch]:
        """How branches are served online, by name, and the fills under way."""
        return _run(self._calls.served_branches())

    def serve_branch(self, branch: str = "") -> results.ServedBranch:
        """Serves a branch online from now on. It answers once it is filled, when `served_branches` says no longer that it is `filling`."""
        return _run(self._calls.serve_branch(branch))

    def unserve_branch(self, branch: str = "") -> None:
        """Serves a branch no longer, and frees what it has online."""
        _run(self._calls.unserve_branch(branch))

    def rebuild_online(
        self,
        views: FeatureView | str | Sequence[FeatureView | str] = (),
        *,
        branch: str = "",
        rows_per_second: int | None = None,
    ) -> results.ServedBranch:
        """Begins to fill what is online of views anew from history, of all views where none is named; lookups are answered meanwhile."""
        return _run(self._calls.rebuild_online(views, branch, rows_per_second))

    def audit(
        self,
        views: FeatureView | str | Sequence[FeatureView | str] = (),
        *,
        branch: str = "",
        repair: bool = False,
    ) -> list[results.ViewAudit]:
        """Compares what is online of views with history, of all views where none is named.

        With `repair`, rows that are missing or old are written, and a view that holds rows which history does not have is rebuilt.
        """
        return _run(self._calls.audit(views, branch, repair))

    def table_files(self, view: FeatureView | str, *, ref: str | None = None) -> list[results.TableFile]:
        """The Parquet files that hold the rows of a view's table at a ref, each row once."""
        return _run(self._calls.table_files(view, ref))

    def table_metadata(self, view: FeatureView | str, *, ref: str | None = None) -> bytes:
        """What an Iceberg `metadata.json` of a view's table at a ref holds, for PyIceberg, Spark and other readers."""
        return _run(self._calls.table_metadata(view, ref))

    def datasets(self, *, ref: str | None = None) -> list[results.SavedDataset]:
        """The datasets saved at a ref, by name."""
        return _run(self._calls.datasets(ref))

    def dataset(self, name: str, *, ref: str | None = None) -> SavedDataset:
        """One saved dataset: what it is, its rows, and its batches for a training loop."""
        return SavedDataset(self._calls.at(ref), _run(self._calls.dataset(name, ref)))

    def create_dataset(
        self,
        name: str,
        spine: Spine,
        features: Features,
        *,
        splits: str = "",
        split_by: Sequence[str] = (),
        split_seed: int = 0,
        time_column: str = "event_timestamp",
        knowledge: Knowledge = "spine",
        strict: bool = False,
        full_names: bool = False,
        at_least: str = "",
        timeout: float | None = None,
        engine: Engine = "",
        ref: str | None = None,
    ) -> SavedDataset:
        """Joins features to a spine, as `get_historical_features` does, and saves the dataset, rows and all, under a name on the branch.

        A name is for ever: another dataset under a taken name raises `Conflict`, the same one is fine. `splits` is `train=0.8,test=0.2` (by a hash of
        the columns `split_by`, by default the join keys) or `train<2026-01-01,test` (by time). The spine may be `Events(view)` or `Sql(query)`.
        """
        call = self._calls.create_dataset(
            name, spine, features, splits, split_by, split_seed, time_column, knowledge, strict, full_names, at_least, timeout, engine, ref
        )
        return SavedDataset(self._calls.at(ref), _run(call))

    def refresh_dataset(self, name: str, save_as: str, *, from_ref: str = "", ref: str | None = None) -> SavedDataset:
        """Saves a dataset as it is at the head of the branch, under a name of its own; only rows that can have changed are joined again."""
        return SavedDataset(self._calls.at(ref), _run(self._calls.refresh_dataset(name, save_as, from_ref, ref)))

    def diff_datasets(self, left: str, right: str, *, left_ref: str = "", right_ref: str = "", ref: str | None = None) -> dict[str, Any]:
        """What differs between two saved datasets: the request, the definitions, the data, and how far each column's values moved."""
        return _run(self._calls.diff_datasets(left, right, left_ref, right_ref, ref))

    def read_dataset(self, name: str, *, split: str = "", columns: Sequence[str] = (), ref: str | None = None) -> tables.Table:
        """The rows of a saved dataset, or of one of its splits, in their order."""
        return _run(self._calls.read_dataset(name, split, columns, ref))

    def put_object(
        self,
        path: str,
        data: ObjectData,
        *,
        content_type: str = "",
        if_absent: bool = False,
        if_match: str | None = None,
        message: str = "",
        progress: Callable[[int], object] | None = None,
        ref: str | None = None,
    ) -> results.ObjectsCommitted:
        """Puts a file under version control in a commit of its own, whatever its size.

        `data` is bytes, the path of a file, or a file opened for reading bytes. Without a `content_type` the path's ending says it. With `if_absent`, or
        with `if_match` and a checksum, raises `FailedPrecondition` where something, or another content, is there. The same content again makes no
        commit.
        """
        return _run(self._calls.put_objects([(path, data)], content_type, if_absent, if_match, message, progress, ref))

    def put_objects(
        self,
        objects: Mapping[str, ObjectData],
        *,
        if_absent: bool = False,
        message: str = "",
        progress: Callable[[int], object] | None = None,
        ref: str | None = None,
    ) -> results.ObjectsCommitted:
        """Puts several files, by path, in one commit: all of them, or none."""
        return _run(self._calls.put_objects(objects.items(), "", if_absent, None, message, progress, ref))

    def get_object(self, path: str, start: int = 0, end: int | None = None, *, ref: str | None = None) -> bytes:
        """The bytes of an object, or those from `start` to before `end`; every piece is verified against its checksum."""
        return _run(self._calls.get_object(path, start, end, ref))

    def download_object(
        self,
        path: str,
        file: str | os.PathLike[str],
        *,
        progress: Callable[[int], object] | None = None,
        ref: str | None = None,
    ) -> results.Object:
        """Writes an object to a file, which appears when it is whole; `progress` is told how many bytes have come."""
        return _run(self._calls.download_object(path, file, progress, ref))

    def stat_object(self, path: str, *, ref: str | None = None) -> results.Object:
        """What an object is: size, checksum, content type. Raises `NotFound` where there is none."""
        return _run(self._calls.stat_object(path, ref))

    def list_objects(self, prefix: str = "", *, delimiter: str = "", limit: int | None = None, ref: str | None = None) -> results.ObjectList:
        """The objects whose paths begin with a prefix; with a delimiter such as `/`, folders beneath are given as `prefixes`."""
        return _run(self._calls.list_objects(prefix, delimiter, limit, ref))

    def delete_object(
        self, path: str | Iterable[str], *, if_match: str | None = None, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """Deletes an object, or several, in one commit; older commits keep them. Raises `NotFound` where one is not there."""
        return _run(self._calls.delete_objects([path] if isinstance(path, str) else path, if_match, message, ref))

    def copy_object(
        self, source: str, to: str, *, source_ref: str = "", if_absent: bool = False, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """Gives the content of an object, also of another ref, another path too; nothing is copied."""
        return _run(self._calls.copy_object(source, to, source_ref, if_absent, message, ref))

    def rename_object(
        self, source: str, to: str, *, if_absent: bool = False, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """Gives an object another path."""
        return _run(self._calls.rename_object(source, to, if_absent, message, ref))

    def import_objects(
        self, source: str, to: str = "", *, if_absent: bool = False, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """Takes a file of the object store, or a folder of files, under version control where it lies; nothing is copied.

        If such a file changes later, reading the object raises `FailedPrecondition`.
        """
        return _run(self._calls.import_objects(source, to, if_absent, message, ref))

    def info(self) -> results.ServerInfo:
        """What the server says of itself."""
        return _run(self._calls.info())


def _run(prepared: Prepared[T]) -> T:
    return prepared.finish(prepared.call.wait())
