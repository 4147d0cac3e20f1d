"""Saved datasets: their rows as a whole, and in batches for a training loop.

>>> dataset = client.dataset("january", ref="v1")
>>> with dataset.batches(1024, seed=7, epoch=epoch, rank=rank, world_size=world_size, cursor=cursor) as batches:
...     for batch in batches:
...         step(batch)
...         checkpoint = {"model": model, "cursor": batches.cursor}

The order of an epoch depends on the dataset's content, the split, the seed and the epoch alone. Each of `world_size` workers gets the batches of its
`rank`: disjoint, complete, and together the same order whatever their number. `cursor` is the place of all workers behind the batch given out last, so
workers that have had equally many batches hold the same text, and may go on from it in any number and with any batch size: each row that is left comes
exactly once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import _formats, results, tables
from . import _anabranch as native
from .errors import InvalidArgument

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

__all__ = ["AsyncBatches", "AsyncSavedDataset", "Batches", "SavedDataset"]

PREFETCH_BYTES = 8 << 20

T = TypeVar("T")


class _Handle(results.SavedDataset):
    """What the blocking and the asyncio handle of a saved dataset have in common."""

    _client: native.Client

    def __init__(self, client: native.Client, saved: results.SavedDataset) -> None:
        for name, value in vars(saved).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_client", client)

    @property
    def content_digest(self) -> str:
        """Names the content: the same for the same rows."""
        return str(self.manifest["spec"]["content_digest"])

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in their order."""
        return [column["name"] for column in self.manifest["spec"]["columns"]]

    def __len__(self) -> int:
        return int(self.manifest["spec"]["rows"])

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, results.SavedDataset) and (self.name, self.manifest) == (other.name, other.manifest)

    def __hash__(self) -> int:
        return hash((self.name, self.content_digest))

    def _fetch(self, columns: Sequence[str], split: str) -> native.Call:
        return self._client.fetch_dataset(self.name, list(columns), split, self.content_digest)

    def _batches(
        self,
        batch_size: int,
        seed: int | None,
        epoch: int | None,
        rank: int,
        world_size: int,
        cursor: str | None,
        drop_last: bool,
        columns: Sequence[str],
        split: str,
        prefetch_bytes: int,
    ) -> native.Call:
        for name, number, least, most in (
            ("batch_size", batch_size, 1, 2**32 - 1),
            ("world_size", world_size, 1, 2**32 - 1),
            ("rank", rank, 0, world_size - 1),
            ("seed", seed or 0, 0, 2**64 - 1),
            ("epoch", epoch or 0, 0, 2**64 - 1),
            ("prefetch_bytes", prefetch_bytes, 1, 2**40),
        ):
            if not least <= number <= most:
                raise InvalidArgument(f"{name} is {number}: it must be from {least} to {most}")
        return self._client.dataset_batches(
            self.name,
            list(columns),
            split,
            self.content_digest,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            cursor=cursor or "",
            drop_last=drop_last,
            prefetch_bytes=prefetch_bytes,
        )


class SavedDataset(_Handle):
    """A dataset saved under a name: what it takes to make it again, and its rows.

    It stays what it was when it was opened: where another dataset has its name by now, reading raises `FailedPrecondition`.
    """

    def to_table(self, columns: Sequence[str] = (), *, split: str = "") -> tables.Table:
        """Fetches all rows, or those of a split, over several streams at a time."""
        return tables.Table(self._fetch(columns, split).wait())

    def to_arrow(self, columns: Sequence[str] = (), *, split: str = "") -> pyarrow.Table:
        """As a `pyarrow.Table`."""
        return self.to_table(columns, split=split).to_arrow()

    def to_pandas(self, columns: Sequence[str] = (), *, split: str = "") -> pandas.DataFrame:
        """As a `pandas.DataFrame`."""
        return self.to_table(columns, split=split).to_pandas()

    def to_polars(self, columns: Sequence[str] = (), *, split: str = "") -> polars.DataFrame:
        """As a `polars.DataFrame`."""
        return self.to_table(columns, split=split).to_polars()

    def to_numpy(self, columns: Sequence[str] = (), *, split: str = "") -> dict[str, Any]:
        """The columns as NumPy arrays; nulls as `Table.to_numpy` says."""
        return self.to_table(columns, split=split).to_numpy()

    def to_torch(self, columns: Sequence[str] = (), *, split: str = "") -> dict[str, Any]:
        """The columns as PyTorch tensors; what cannot become one is refused as `Table.to_torch` says."""
        return self.to_table(columns, split=split).to_torch()

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        cursor: str | None = None,
        drop_last: bool = False,
        columns: Sequence[str] = (),
        split: str = "",
        format: str = "arrow",
        prefetch_bytes: int = PREFETCH_BYTES,
    ) -> Batches:
        """The batches of one worker in an epoch, fetched ahead: an iterator, and a context manager that ends the stream.

        With a `seed` all rows are shuffled, differently in each `epoch` (0 where none is given); without one they keep their order. `rank` says which of
        `world_size` workers this is. With a `cursor` the epoch goes on where that was taken, with its seed and epoch unless others are given, which are
        refused with `FailedPrecondition`, as is the cursor of another dataset or split. `drop_last` leaves out a last batch that is not full, for all
        workers alike. Batches are `pyarrow.RecordBatch`es, or what `format` says: `numpy` and `torch` (a dictionary of columns), `pandas`, `polars`. About
        `prefetch_bytes` are fetched ahead, or four batches where these are larger.
        """
        convert = _formats.convert(format)
        call = self._batches(batch_size, seed, epoch, rank, world_size, cursor, drop_last, columns, split, prefetch_bytes)
        return Batches(call.wait(), convert)


class _Epoch:
    """What both kinds of batches have in common."""

    def __init__(self, batches: native.Batches, convert: Callable[[Any], Any]) -> None:
        self._native = batches
        self._convert = convert
        self._cursor = batches.cursor

    @property
    def cursor(self) -> str:
        """Where all workers stand behind the batch given out last; where the epoch was begun, before the first."""
        return self._cursor

    @property
    def epoch(self) -> int:
        """The epoch."""
        return self._native.epoch

    @property
    def seed(self) -> int | None:
        """What shuffles the rows; `None` where they keep their order."""
        return self._native.seed

    @property
    def num_rows(self) -> int:
        """How many rows the epoch has for all workers together, those before the cursor too."""
        return self._native.rows

    def __len__(self) -> int:
        """How many batches this worker gets, from where it began."""
        return self._native.batches

    def __bool__(self) -> bool:
        return True


class Batches(_Epoch):
    """The batches of one worker in an epoch. Made by `SavedDataset.batches`."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        found = self._native.next().wait()
        if found is None:
            raise StopIteration
        batch, cursor = found
        batch = self._convert(batch)
        self._cursor = cursor
        return batch

    def close(self) -> None:
        """Ends the stream, here and at the server. There are no more batches then."""
        self._native.close().wait()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncSavedDataset(_Handle):
    """A dataset saved under a name, for asyncio. See `SavedDataset`."""

    async def to_table(self, columns: Sequence[str] = (), *, split: str = "") -> tables.Table:
        """See `SavedDataset.to_table`; a table becomes data frames and arrays without further waiting."""
        return tables.Table(await _reply(self._fetch(columns, split)))

    async def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        cursor: str | None = None,
        drop_last: bool = False,
        columns: Sequence[str] = (),
        split: str = "",
        format: str = "arrow",
        prefetch_bytes: int = PREFETCH_BYTES,
    ) -> AsyncBatches:
        """See `SavedDataset.batches`."""
        convert = _formats.convert(format)
        call = self._batches(batch_size, seed, epoch, rank, world_size, cursor, drop_last, columns, split, prefetch_bytes)
        return AsyncBatches(await _reply(call), convert)


class AsyncBatches(_Epoch):
    """The batches of one worker in an epoch, to be awaited. Made by `AsyncSavedDataset.batches`."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        found = await _reply(self._native.next())
        if found is None:
            raise StopAsyncIteration
        batch, cursor = found
        batch = self._convert(batch)
        self._cursor = cursor
        return batch

    async def close(self) -> None:
        """See `Batches.close`."""
        await _reply(self._native.close())

    async def __aenter__(self) -> AsyncBatches:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


async def _reply(call: native.Call) -> Any:
    from .aio import _reply

    return await _reply(call)
