"""The command line: `python -m anabranch` is `anabranch`."""

import sys

from ._anabranch import main as _main


def main() -> None:
    """Runs the command line with the process's arguments and ends the process."""
    sys.exit(_main(["anabranch", *sys.argv[1:]], sys.executable))


if __name__ == "__main__":
    main()
