"""A thread that lets others go first, and comes back."""

from __future__ import annotations

import os
import threading

import pytest

from model_server.priority import BACK_NICE, may_come_back, stepping_back


def scheduled() -> tuple[int, int]:
    thread = threading.get_native_id()
    return os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)


def in_a_thread(work) -> None:
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if wrong:
        raise wrong[0]


def test_it_steps_back_where_it_may_come_back_and_nowhere_else() -> None:
    def work() -> None:
        before = scheduled()
        with stepping_back():
            assert scheduled()[1] == (min(19, before[1] + BACK_NICE) if may_come_back() else before[1])
        assert scheduled() == before
        with stepping_back(False):
            assert scheduled() == before

    in_a_thread(work)


def test_real_time_is_given_up_and_taken_again() -> None:
    def work() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
        except PermissionError:
            pytest.skip("needs CAP_SYS_NICE")
        with stepping_back():
            assert scheduled()[0] == os.SCHED_OTHER
        assert scheduled()[0] == os.SCHED_FIFO and os.sched_getparam(0).sched_priority == 5

    in_a_thread(work)
