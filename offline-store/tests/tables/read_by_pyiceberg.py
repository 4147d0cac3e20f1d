"""Prints the rows of an Iceberg table as sorted JSON lines: read_by_pyiceberg.py METADATA_JSON COLUMN..."""

import datetime
import json
import sys

from pyiceberg.table import StaticTable

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def plain(cell):
    if isinstance(cell, datetime.datetime):
        return (cell - EPOCH) // datetime.timedelta(microseconds=1)
    return cell


table = StaticTable.from_metadata(sys.argv[1])
rows = table.scan(selected_fields=tuple(sys.argv[2:])).to_arrow().select(sys.argv[2:]).to_pylist()
lines = [json.dumps([plain(row[name]) for name in sys.argv[2:]], separators=(",", ":")) for row in rows]
print("\n".join(sorted(lines)))
