import os
import signal
import threading
from multiprocessing import process
from multiprocessing.connection import Client
from multiprocessing.resource_sharer import DupFd

from common.workers import end_workers, find_worker_failure, watch_workers

import pytest
import torch
from torch.utils.data import DataLoader


def start_workers():
    """An iterator with two workers, both at work."""
    iterator = iter(DataLoader(torch.arange(1000), batch_size=2, num_workers=2, prefetch_factor=2))
    assert next(iterator).tolist() == [0, 1]
    return iterator


def kill_and_wait(worker) -> None:
    """Kill a worker, and come back when the signal of its end is there (but has not been looked at)."""
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


class KillsAnother:
    """Stands among the workers of one iterator: when it is killed, a worker of another one dies just then."""

    def __init__(self, worker):
        self.worker, self.is_killed = worker, False

    def kill(self):
        if not self.is_killed:
            self.is_killed = True
            kill_and_wait(self.worker)


def list_living(*iterators) -> list[int]:
    workers = [worker for iterator in iterators for worker in iterator._workers if not isinstance(worker, KillsAnother)]
    for worker in workers:
        worker.join(10)
    return [worker.pid for worker in workers if worker.exitcode is None]


def test_the_workers_are_ended_and_the_error_is_given_back():
    iterator, error = start_workers(), ValueError("x")
    assert end_workers(error) is error
    assert list_living(iterator) == []


def test_a_broken_connection_to_a_worker_that_dies_is_told_as_its_death():
    iterator = start_workers()
    pid = iterator._workers[1].pid
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    failure = end_workers(ConnectionResetError(104, "Connection reset by peer"))
    assert f"(pid {pid}) is killed by signal: Killed" in find_worker_failure(failure)
    assert failure.__context__ is None
    assert list_living(iterator) == []


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_broken_connection_of_something_else_stays_what_it_is(error):
    iterator = start_workers()
    assert end_workers(error) is error
    assert list_living(iterator) == []


def test_a_worker_that_dies_while_the_others_are_ended_is_told_and_keeps_nothing_alive():
    one, other = start_workers(), start_workers()
    pids = {one._workers[0].pid, other._workers[0].pid}
    one._workers.append(KillsAnother(other._workers[0]))
    other._workers.append(KillsAnother(one._workers[0]))
    told = find_worker_failure(end_workers(ValueError("x")))
    assert any(f"(pid {pid}) is killed by signal: Killed" in told for pid in pids)
    assert list_living(one, other) == []


class Handles(list):
    """Rows that a worker hands over as it does the memory of a tensor: whoever reads one asks a thread of it."""

    def __getitem__(self, index):
        return DupFd(0)


def test_a_worker_whose_reader_breaks_off_prints_no_traceback_but_that_of_other_errors(capfd):
    loader = DataLoader(Handles([0, 1]), batch_size=None, num_workers=1)
    watch_workers(loader, 0)
    iterator = iter(loader)
    address, key = next(iterator)._id
    with Client(address, authkey=process.current_process().authkey) as asked:
        asked.send((key + 1000, os.getpid()))  # nothing has this key
    Client(address, authkey=process.current_process().authkey).close()  # as where a signal ends the reading
    os.close(next(iterator).detach())  # the thread has done the others by now
    said = capfd.readouterr().err
    assert f"KeyError: {key + 1000}" in said
    assert "EOFError" not in said and said.count("Traceback") == 1
