"""One run at a time in an output_dir."""

import atexit
import fcntl
import os
import socket
import time
from pathlib import Path

from common.console import say
from common.errors import UserError

LOCK = "_lock"  # push_to_hub leaves out what begins with _
PATIENCE = 10  # seconds: a job that was killed may still be ending
_held: dict[str, int] = {}  # the open file of each directory that this process holds


def hold_directory(output_dir: Path, patience: float = PATIENCE) -> None:
    """Keep other runs out of `output_dir` until this process ends; UserError where one is at work in it already.

    A lock of the operating system on a file in it: it ends with the process, however that ends, and is not inherited
    by the processes that load data.
    """
    name = str(output_dir.resolve())
    if name in _held:
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        descriptor = os.open(output_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(descriptor, output_dir / LOCK):
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.read(descriptor, 200).decode(errors="replace").strip()
                raise UserError(
                    f"{output_dir} is in use by another run ({holder or 'unknown'}): wait for its end, or choose "
                    "another output_dir."
                ) from None
            time.sleep(0.2)
        except OSError as error:  # file systems without locks
            say(f"{output_dir} cannot be locked ({error.strerror}): start no other run in it.")
            break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held[name] = descriptor
    atexit.register(release_directory, output_dir)


def release_directory(output_dir: Path) -> None:
    """Let others into `output_dir`."""
    descriptor = _held.pop(str(output_dir.resolve()), None)
    if descriptor is not None:
        (output_dir / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of this name: the run before deletes it when it ends."""
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
