"""Writes to two gigabytes of memory, in large pages where the system has them, and frees them.

The host of a virtual machine may take back what the machine does not use. Whoever writes to it first then waits some milliseconds for each megabyte: a run
of a join would pay for how long ago others used the memory that it is given.
"""

import contextlib
import mmap

BYTES = 2 << 30

with mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    for place in range(0, BYTES, mmap.PAGESIZE):
        memory[place] = 1
