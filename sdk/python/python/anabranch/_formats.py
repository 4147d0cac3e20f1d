"""Rows in the forms that trainers work with: Arrow, NumPy, PyTorch, pandas, polars.

Whatever speaks the Arrow PyCapsule interface goes in. Nothing is imported before it is needed, so that only what is asked for must be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import InvalidArgument

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FORMATS", "convert", "to_numpy", "to_torch"]


def to_numpy(data: pyarrow.RecordBatch | pyarrow.Table) -> dict[str, Any]:
    """The columns as arrays.

    Numbers and times without nulls are views of Arrow's memory, not to be written to; a vector is a row of a matrix. Nulls of floats and vectors become
    NaN, those of whole numbers and booleans are masked (`numpy.ma`), those of times become NaT; strings, bytes and lists are objects, null ones `None`.
    """
    return {name: _array(column) for name, column in zip(data.schema.names, data.columns)}


def to_torch(data: pyarrow.RecordBatch | pyarrow.Table) -> dict[str, Any]:
    """The columns as tensors of their own memory: numbers and booleans as they are, times as microseconds, vectors as rows of a matrix.

    Nulls of floats and vectors become NaN. Raises `InvalidArgument` for what no tensor can hold: strings, bytes, lists, and nulls of other types.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError('tensors need PyTorch, which is not installed: install "torch", or take format="numpy"') from error
    import numpy

    tensors = {}
    for name, array in to_numpy(data).items():
        if array.dtype.kind == "M":
            if numpy.isnat(array).any():
                raise InvalidArgument(f"column {name!r} has nulls, which a tensor of times cannot hold: leave the column out, or take format=\"numpy\"")
            array = array.astype("datetime64[us]").view(numpy.int64)
        if array.dtype.kind == "O":
            raise InvalidArgument(f"column {name!r} holds no numbers, so it cannot become a tensor: name the columns that are wanted, without it")
        if isinstance(array, numpy.ma.MaskedArray):
            raise InvalidArgument(f"column {name!r} has nulls, which a tensor of {array.dtype} cannot hold: leave it out, or take format=\"numpy\"")
        # A tensor may be written to, Arrow's memory may not.
        tensors[name] = torch.from_numpy(numpy.array(array, copy=True))
    return tensors


def _array(column: Any) -> Any:
    import numpy
    import pyarrow
    import pyarrow.types as types

    if isinstance(column, pyarrow.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pyarrow.ChunkedArray):
            column = pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)
    of = column.type
    if types.is_fixed_size_list(of):
        size = of.list_size
        matrix = column.values.slice(column.offset * size, len(column) * size).to_numpy(zero_copy_only=False).reshape(len(column), size)
        if column.null_count:
            matrix = matrix.copy()
            matrix[column.is_null().to_numpy(zero_copy_only=False)] = numpy.nan
        return matrix
    if column.null_count and (types.is_integer(of) or types.is_boolean(of)):
        values = column.fill_null(False if types.is_boolean(of) else 0).to_numpy(zero_copy_only=False)
        return numpy.ma.MaskedArray(values, mask=column.is_null().to_numpy(zero_copy_only=False))
    return column.to_numpy(zero_copy_only=False)


def _arrow(batch: Any) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError('rows in Arrow need pyarrow, which is not installed: install "anabranch[arrow]"') from error
    return pyarrow.record_batch(batch)


def _polars(batch: Any) -> Any:
    import polars

    return polars.DataFrame(batch)


FORMATS: dict[str, Callable[[Any], Any]] = {
    "arrow": _arrow,
    "numpy": lambda batch: to_numpy(_arrow(batch)),
    "torch": lambda batch: to_torch(_arrow(batch)),
    "pandas": lambda batch: _arrow(batch).to_pandas(),
    "polars": _polars,
}


def convert(format: str) -> Callable[[Any], Any]:
    """What makes batches of a format; what it needs is imported now, so that it is missed before the first batch."""
    if format not in FORMATS:
        raise InvalidArgument(f"there is no format {format!r}: there are {', '.join(FORMATS)}")
    if format == "torch":
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise ImportError('format="torch" needs PyTorch, which is not installed: install "torch", or take format="numpy"') from error
    return FORMATS[format]
