"""Memory that every step of a CPU frees and takes again: the process keeps it meanwhile."""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD: mallopt(3)
KEPT = 2**31 - 1  # bytes at the end of the heap that are kept free at most
LARGEST = 2**27  # bytes of a tensor: larger ones are still given back, since gaps of their size would cost too much
OWN_SETTINGS = {"GLIBC_TUNABLES", *(f"MALLOC_{name}_" for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD", "MMAP_MAX"))}


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next step; whether it does.

    By default glibc gives the memory of a large tensor back to the system with the tensor, and the system fills each
    page with zeros when the next step asks for it. Without that a small encoder trains with less of the processor's
    time, and somewhat more memory (benchmarks/README.md). Settings of the user's own stay, as does any other C library.
    """
    if platform.libc_ver()[0] != "glibc" or OWN_SETTINGS & os.environ.keys():
        return False
    library = ctypes.CDLL(None)
    return library.mallopt(TRIM_THRESHOLD, KEPT) == 1 and library.mallopt(MMAP_THRESHOLD, LARGEST) == 1
