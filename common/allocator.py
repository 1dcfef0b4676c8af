"""Memory that every step of a CPU frees and takes again: the process keeps it meanwhile, but not what lies in gaps."""

import ctypes
import os
import platform

import psutil

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD: mallopt(3)
KEPT = 2**31 - 1  # bytes at the end of the heap that are kept free at most
LARGEST = 2**27  # bytes of a tensor: larger ones are still given back, since gaps of their size would cost too much
MOST_KEPT = 1.25  # times what a step takes
LEAST_KEPT = 2**30  # bytes that are kept in any case: small models would give them back, and take them, all the time
PATIENCE = 32  # steps from one time to the next: the step after it has to take all of its memory from the system
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


class Gaps:
    """Kept memory that nothing fits into: given back beyond MOST_KEPT times what a step takes, and `least_kept` bytes.

    Batches of other lengths take blocks of other sizes, and what stays for longer, as the kernels that oneDNN prepares
    for each length, comes to lie between them: without a bound such gaps grow with every step. It is done once in
    `patience` steps at most, and after the first as many in any case, since only then is known what a step takes.
    """

    def __init__(self, least_kept: int = LEAST_KEPT, patience: int = PATIENCE):
        self.least_kept, self.patience = least_kept, patience
        self.process, self.trim = psutil.Process(), ctypes.CDLL(None).malloc_trim
        self.steps = 0  # since the last trim, or the start
        self.begun = None  # bytes of the process after the last trim, None before the first
        self.needed = 0  # bytes that a step took at most

    def give_back(self) -> None:
        """Count a step, look at the memory of the process at its end, and trim it if too much is kept."""
        self.steps += 1
        memory = self.process.memory_info().rss
        if self.begun is not None and self.steps == 1:
            self.needed = max(self.needed, memory - self.begun)
        if self.steps >= self.patience and self._is_too_much(memory):
            self.trim(0)
            self.steps, self.begun = 0, self.process.memory_info().rss

    def _is_too_much(self, memory: int) -> bool:
        return self.begun is None or memory > self.begun + max(MOST_KEPT * self.needed, self.least_kept)
