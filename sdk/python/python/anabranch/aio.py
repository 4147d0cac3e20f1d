"""The asyncio client: the same calls as `anabranch.Client`, to be awaited.

Calls run natively on threads of their own; the event loop is told when they end. Cancelling the task cancels the request.

>>> client = await anabranch.aio.open("features")
>>> features = await client.get_online_features("weather_now", [{"origin": "JFK"}])
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from . import _calls, results, tables
from . import _anabranch as native
from ._calls import Definitions, Engine, Features, Knowledge, ObjectData, Paths, Prepared, Time
from .datasets import AsyncSavedDataset
from .definitions import FeatureView
from .rows import RowsLike
from .spines import Spine

T = TypeVar("T")

__all__ = ["Client", "connect", "open"]

DEFAULT_TIMEOUT = 60.0


async def connect(address: str, *, timeout: float = DEFAULT_TIMEOUT, author: str | None = None, page_size: int = 0) -> Client:
    """See `anabranch.connect`."""
    return Client(await _reply(_calls.connect(address, timeout, author, page_size)))


async def open(folder: str | os.PathLike[str], *, timeout: float = DEFAULT_TIMEOUT, author: str | None = None, page_size: int = 0) -> Client:
    """See `anabranch.open`."""
    return Client(await _reply(_calls.open_folder(folder, timeout, author, page_size)))


class Client:
    """A connection to a server, about one repository and ref. See `anabranch.Client`; it is an asynchronous context manager."""

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

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def plan(self, definitions: Definitions = (), *, delete: Definitions = (), ref: str | None = None) -> results.Plan:
        """See `anabranch.Client.plan`."""
        return await _run(self._calls.plan(definitions, delete, ref))

    async def apply(
        self,
        definitions: Definitions = (),
        *,
        delete: Definitions = (),
        allow_breaking: bool = False,
        message: str = "",
        ref: str | None = None,
    ) -> results.Applied:
        """See `anabranch.Client.apply`."""
        return await _run(self._calls.apply(definitions, delete, allow_breaking, message, ref))

    async def definitions(
        self,
        kind: str | None = None,
        name: str | None = None,
        *,
        ref: str | None = None,
    ) -> list[results.RegisteredDefinition]:
        """See `anabranch.Client.definitions`."""
        return await _run(self._calls.definitions(kind, name, ref))

    async def push(
        self,
        view: FeatureView | str,
        rows: RowsLike,
        *,
        idempotency_key: str = "",
        batch_number: int = 0,
        ref: str | None = None,
    ) -> results.Acknowledgement:
        """See `anabranch.Client.push`."""
        return await _run(self._calls.push(view, rows, idempotency_key, batch_number, ref))

    async def delete(
        self,
        view: FeatureView | str,
        rows: RowsLike,
        *,
        idempotency_key: str = "",
        ref: str | None = None,
    ) -> results.Acknowledgement:
        """See `anabranch.Client.delete`."""
        return await _run(self._calls.delete(view, rows, idempotency_key, ref))

    async def flush(self, *, ref: str | None = None) -> str:
        """See `anabranch.Client.flush`."""
        return await _run(self._calls.flush(ref))

    async def ingest(
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
        """See `anabranch.Client.ingest`."""
        return await _run(self._calls.ingest(view, data, format, stream_id, first_batch, message, progress, ref))

    async def get_online_features(
        self,
        features: Features,
        keys: RowsLike,
        *,
        full_names: bool = False,
        at_least: str = "",
        timeout: float | None = None,
        ref: str | None = None,
    ) -> tables.OnlineFeatures:
        """See `anabranch.Client.get_online_features`."""
        return await _run(self._calls.get_online_features(features, keys, full_names, at_least, timeout, ref))

    async def get_historical_features(
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
        """See `anabranch.Client.get_historical_features`."""
        return await _run(
            self._calls.get_historical_features(
                spine, features, time_column, knowledge, strict, full_names, at_least, timeout, save_as, engine, ref
            )
        )

    async def read(
        self,
        view: FeatureView | str,
        columns: Sequence[str] = (),
        *,
        quarantine: bool = False,
        ref: str | None = None,
    ) -> tables.Table:
        """See `anabranch.Client.read`."""
        return await _run(self._calls.read(view, columns, quarantine, ref))

    async def sql(self, query: str, *, ref: str | None = None) -> tables.Table:
        """See `anabranch.Client.sql`."""
        return await _run(self._calls.sql(query, ref))

    async def branch(self, name: str, source: str = "") -> results.Branch:
        """See `anabranch.Client.branch`."""
        return await _run(self._calls.branch(name, source))

    async def delete_branch(self, name: str) -> None:
        """See `anabranch.Client.delete_branch`."""
        await _run(self._calls.delete_branch(name))

    async def rename_branch(self, name: str, new_name: str) -> results.Branch:
        """See `anabranch.Client.rename_branch`."""
        return await _run(self._calls.rename_branch(name, new_name))

    async def protect_branch(self, name: str, protected: bool = True) -> results.Branch:
        """See `anabranch.Client.protect_branch`."""
        return await _run(self._calls.protect_branch(name, protected))

    async def show_branch(self, name: str = "") -> results.Branch:
        """See `anabranch.Client.show_branch`."""
        return await _run(self._calls.show_branch(name))

    async def branches(self, prefix: str = "") -> list[results.Branch]:
        """See `anabranch.Client.branches`."""
        return await _run(self._calls.branches(prefix))

    async def reflog(self, branch: str = "", *, limit: int = 0) -> list[results.HeadMove]:
        """See `anabranch.Client.reflog`."""
        return await _run(self._calls.reflog(branch, limit))

    async def tag(self, name: str, ref: str = "") -> results.Tag:
        """See `anabranch.Client.tag`."""
        return await _run(self._calls.tag(name, ref))

    async def delete_tag(self, name: str) -> None:
        """See `anabranch.Client.delete_tag`."""
        await _run(self._calls.delete_tag(name))

    async def tags(self, prefix: str = "") -> list[results.Tag]:
        """See `anabranch.Client.tags`."""
        return await _run(self._calls.tags(prefix))

    async def commit(self, ref: str | None = None) -> results.Commit:
        """See `anabranch.Client.commit`."""
        return await _run(self._calls.commit(ref))

    async def show(self, ref: str | None = None, *, parent: int = 0, limit: int = 0, values: bool = False) -> results.Shown:
        """See `anabranch.Client.show`."""
        return await _run(self._calls.show(ref, parent, limit, values))

    async def log(
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
        """See `anabranch.Client.log`."""
        return await _run(self._calls.log(limit, path, since, until, author, first_parent, ref))

    async def diff(
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
        """See `anabranch.Client.diff`."""
        return await _run(self._calls.diff(left, right, three_dot, path, limit, values, summary_only))

    async def merge_base(self, left: str, right: str = "") -> results.Commit | None:
        """See `anabranch.Client.merge_base`."""
        return await _run(self._calls.merge_base(left, right))

    async def merge(
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
        """See `anabranch.Client.merge`."""
        return await _run(self._calls.merge(source, into, message, strategy, squash, dry_run, limit, values))

    async def revert(
        self,
        commit: str,
        *,
        message: str = "",
        strategy: str = "default",
        parent: int = 0,
        ref: str | None = None,
    ) -> results.Replayed:
        """See `anabranch.Client.revert`."""
        return await _run(self._calls.revert(commit, message, strategy, parent, ref))

    async def cherry_pick(
        self,
        commit: str,
        *,
        message: str = "",
        strategy: str = "default",
        parent: int = 0,
        ref: str | None = None,
    ) -> results.Replayed:
        """See `anabranch.Client.cherry_pick`."""
        return await _run(self._calls.cherry_pick(commit, message, strategy, parent, ref))

    async def reset(
        self,
        to: str,
        *,
        expected: str = "",
        rewind_offsets: bool = False,
        ref: str | None = None,
    ) -> results.Reset:
        """See `anabranch.Client.reset`."""
        return await _run(self._calls.reset(to, expected, rewind_offsets, ref))

    async def quarantine(self, view: FeatureView | str = "", *, limit: int = 0, ref: str | None = None) -> results.Quarantine:
        """See `anabranch.Client.quarantine`."""
        return await _run(self._calls.quarantine(view, limit, ref))

    async def status(self, *, ref: str | None = None) -> results.PipelineStatus:
        """See `anabranch.Client.status`."""
        return await _run(self._calls.status(ref))

    async def compact(
        self,
        views: FeatureView | str | Sequence[FeatureView | str] = (),
        *,
        branch: str = "",
        full: bool = False,
    ) -> list[results.CompactedTable]:
        """See `anabranch.Client.compact`."""
        return await _run(self._calls.compact(views, branch, full))

    async def served_branches(self) -> list[results.ServedBranch]:
        """See `anabranch.Client.served_branches`."""
        return await _run(self._calls.served_branches())

    async def serve_branch(self, branch: str = "") -> results.ServedBranch:
        """See `anabranch.Client.serve_branch`."""
        return await _run(self._calls.serve_branch(branch))

    async def unserve_branch(self, branch: str = "") -> None:
        """See `anabranch.Client.unserve_branch`."""
        await _run(self._calls.unserve_branch(branch))

    async def rebuild_online(
        self,
        views: FeatureView | str | Sequence[FeatureView | str] = (),
        *,
        branch: str = "",
        rows_per_second: int | None = None,
    ) -> results.ServedBranch:
        """See `anabranch.Client.rebuild_online`."""
        return await _run(self._calls.rebuild_online(views, branch, rows_per_second))

    async def audit(
        self,
        views: FeatureView | str | Sequence[FeatureView | str] = (),
        *,
        branch: str = "",
        repair: bool = False,
    ) -> list[results.ViewAudit]:
        """See `anabranch.Client.audit`."""
        return await _run(self._calls.audit(views, branch, repair))

    async def table_files(self, view: FeatureView | str, *, ref: str | None = None) -> list[results.TableFile]:
        """See `anabranch.Client.table_files`."""
        return await _run(self._calls.table_files(view, ref))

    async def table_metadata(self, view: FeatureView | str, *, ref: str | None = None) -> bytes:
        """See `anabranch.Client.table_metadata`."""
        return await _run(self._calls.table_metadata(view, ref))

    async def datasets(self, *, ref: str | None = None) -> list[results.SavedDataset]:
        """See `anabranch.Client.datasets`."""
        return await _run(self._calls.datasets(ref))

    async def dataset(self, name: str, *, ref: str | None = None) -> AsyncSavedDataset:
        """See `anabranch.Client.dataset`."""
        return AsyncSavedDataset(self._calls.at(ref), await _run(self._calls.dataset(name, ref)))

    async def create_dataset(
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
    ) -> AsyncSavedDataset:
        """See `anabranch.Client.create_dataset`."""
        call = self._calls.create_dataset(
            name, spine, features, splits, split_by, split_seed, time_column, knowledge, strict, full_names, at_least, timeout, engine, ref
        )
        return AsyncSavedDataset(self._calls.at(ref), await _run(call))

    async def refresh_dataset(self, name: str, save_as: str, *, from_ref: str = "", ref: str | None = None) -> AsyncSavedDataset:
        """See `anabranch.Client.refresh_dataset`."""
        return AsyncSavedDataset(self._calls.at(ref), await _run(self._calls.refresh_dataset(name, save_as, from_ref, ref)))

    async def diff_datasets(self, left: str, right: str, *, left_ref: str = "", right_ref: str = "", ref: str | None = None) -> dict[str, Any]:
        """See `anabranch.Client.diff_datasets`."""
        return await _run(self._calls.diff_datasets(left, right, left_ref, right_ref, ref))

    async def read_dataset(self, name: str, *, split: str = "", columns: Sequence[str] = (), ref: str | None = None) -> tables.Table:
        """See `anabranch.Client.read_dataset`."""
        return await _run(self._calls.read_dataset(name, split, columns, ref))

    async def put_object(
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
        """See `anabranch.Client.put_object`."""
        return await _run(self._calls.put_objects([(path, data)], content_type, if_absent, if_match, message, progress, ref))

    async def put_objects(
        self,
        objects: Mapping[str, ObjectData],
        *,
        if_absent: bool = False,
        message: str = "",
        progress: Callable[[int], object] | None = None,
        ref: str | None = None,
    ) -> results.ObjectsCommitted:
        """See `anabranch.Client.put_objects`."""
        return await _run(self._calls.put_objects(objects.items(), "", if_absent, None, message, progress, ref))

    async def get_object(self, path: str, start: int = 0, end: int | None = None, *, ref: str | None = None) -> bytes:
        """See `anabranch.Client.get_object`."""
        return await _run(self._calls.get_object(path, start, end, ref))

    async def download_object(
        self,
        path: str,
        file: str | os.PathLike[str],
        *,
        progress: Callable[[int], object] | None = None,
        ref: str | None = None,
    ) -> results.Object:
        """See `anabranch.Client.download_object`."""
        return await _run(self._calls.download_object(path, file, progress, ref))

    async def stat_object(self, path: str, *, ref: str | None = None) -> results.Object:
        """See `anabranch.Client.stat_object`."""
        return await _run(self._calls.stat_object(path, ref))

    async def list_objects(self, prefix: str = "", *, delimiter: str = "", limit: int | None = None, ref: str | None = None) -> results.ObjectList:
        """See `anabranch.Client.list_objects`."""
        return await _run(self._calls.list_objects(prefix, delimiter, limit, ref))

    async def delete_object(
        self, path: str | Iterable[str], *, if_match: str | None = None, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """See `anabranch.Client.delete_object`."""
        return await _run(self._calls.delete_objects([path] if isinstance(path, str) else path, if_match, message, ref))

    async def copy_object(
        self, source: str, to: str, *, source_ref: str = "", if_absent: bool = False, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """See `anabranch.Client.copy_object`."""
        return await _run(self._calls.copy_object(source, to, source_ref, if_absent, message, ref))

    async def rename_object(
        self, source: str, to: str, *, if_absent: bool = False, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """See `anabranch.Client.rename_object`."""
        return await _run(self._calls.rename_object(source, to, if_absent, message, ref))

    async def import_objects(
        self, source: str, to: str = "", *, if_absent: bool = False, message: str = "", ref: str | None = None
    ) -> results.ObjectsCommitted:
        """See `anabranch.Client.import_objects`."""
        return await _run(self._calls.import_objects(source, to, if_absent, message, ref))

    async def info(self) -> results.ServerInfo:
        """See `anabranch.Client.info`."""
        return await _run(self._calls.info())


async def _run(prepared: Prepared[T]) -> T:
    return prepared.finish(await _reply(prepared.call))


async def _reply(call: native.Call) -> Any:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def resolve(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    running = call.start(lambda result, error: loop.call_soon_threadsafe(resolve, result, error))
    try:
        return await future
    except asyncio.CancelledError:
        running.cancel()
        raise
