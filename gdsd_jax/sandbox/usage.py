"""What a program has used of the machine, as the kernel tells it from outside.

Standard library only; it runs inside the jail beside `worker.py`.
"""

import os
import time
from typing import NamedTuple

POLL_S = 0.02
HIDES_S = 2.5 * POLL_S  # a process or thread that has ended may have hidden as much
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Task(NamedTuple):
    """A thread, as the scheduler sees it."""

    ran_s: float  # on a core
    waited_s: float  # for a core; a wait is told when it has ended
    is_ready: bool  # runs, or waits for a core
    slept: int  # how often it has given a core up of itself; of one that is ready


class Usage:
    """What a program has used; `read` is called every few milliseconds.

    Attributes:
      cpu_s: CPU seconds of the program and its descendants: what the kernel tells of those that
        live, or what was seen of all, where children end uncounted.
      resident: bytes of all of them.
      judge_s: CPU seconds of a judge in a process of its own.
      idle_s: seconds of real time in which nobody of program and judge ran or waited for a core.
      blocked: whether a process of the program waits for the kernel, such as for a disk.
    """

    def __init__(self, pid, own, judge_pid, jailed):
        self._pid, self._own, self._judge, self._jailed = pid, own, judge_pid, jailed
        self.cpu_s, self.judge_s, self.resident, self.idle_s = 0.0, 0.0, 0, 0.0
        self.blocked = False
        self._ran_s = {}  # process -> CPU seconds when it was last seen
        self._tasks, self._then = _myself(), time.monotonic()
        self._sure_s = self._added_s = 0.0  # of the idle seconds: what none can take back; the last
        self._first_process = newest_process()

    @property
    def hidden_s(self):
        """Seconds that processes and threads may have run unseen, as they ended soon."""
        return HIDES_S * abs(newest_process() - self._first_process) if self._jailed else 0.0

    def read(self):
        self.cpu_s, self.resident, self.blocked = 0.0, 0, False
        tasks = _myself()
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) in self._own:
                continue
            try:
                fields = stat_of(name)
                is_judge = int(name) == self._judge
                # In a jail every other process is the program's.
                if not (self._jailed or is_judge or int(fields[3]) == self._pid):
                    continue
                found = tasks_of(name, fields)
            except OSError:
                continue  # gone meanwhile
            tasks |= found
            self.blocked = self.blocked or fields[0] == b"D"
            cpu_s = sum(map(int, fields[11:15])) / TICKS_PER_S
            if is_judge:
                self.judge_s = cpu_s
            else:
                self._ran_s[name] = sum(task.ran_s for task in found.values())
                self.cpu_s += cpu_s
                self.resident += int(fields[21]) * PAGE_BYTES
        self.cpu_s = max(self.cpu_s, sum(self._ran_s.values()))
        now = time.monotonic()
        # Not more, lest a program pays for a machine that was stopped.
        self._count_idle(tasks, min(now - self._then, 5 * POLL_S))
        self._then = now

    def _count_idle(self, tasks, elapsed_s):
        """Adds the time since the last look that neither running nor waiting for a core covers.

        That somebody is ready at the moment of a look says nothing of the time before: a program
        can see to that. Who was ready at both looks and did not sleep between them was ready all
        along. Anybody else who is ready may have waited for a while that will be told later: then
        it is taken back. Who has ended meanwhile will not tell.
        """
        before, self._tasks = self._tasks, tasks
        nobody = Task(0.0, 0.0, False, -1)
        spent_s, was_ready = 0.0, False
        is_told = tasks[0].ran_s > 0  # else the state at the look is all that is known
        for number, task in tasks.items():
            last = before.get(number, nobody)
            spent_s += max(0.0, task.ran_s - last.ran_s) + max(0.0, task.waited_s - last.waited_s)
            stayed = last.is_ready and task.slept == last.slept
            was_ready |= task.is_ready and (stayed or not is_told)
        has_ended = any(task.is_ready for number, task in before.items() if number not in tasks)
        idle_s = elapsed_s - spent_s
        if was_ready or has_ended:
            idle_s = min(0.0, idle_s)
        if has_ended:
            idle_s -= self._added_s
        idle_s = max(self._sure_s, self.idle_s + idle_s)
        self._added_s = max(0.0, idle_s - self.idle_s)
        self.idle_s = idle_s
        if not any(task.is_ready for task in tasks.values()):
            self._sure_s = idle_s


def _myself():
    """The worker as a task: while it works, others may wait for it."""
    return {0: Task(*scheduled_s("self"), False, 0)}


def tasks_of(name, fields):
    """The threads of a process by number; of one alone without a look into its folder."""
    if int(fields[17]) <= 1:
        return {int(name): task_of(name, fields)}
    found = {}
    for number in os.listdir(f"/proc/{name}/task"):
        try:
            path = f"{name}/task/{number}"
            found[int(number)] = task_of(path, stat_of(path))
        except OSError:
            continue  # gone meanwhile
    return found


def task_of(path, fields):
    is_ready = fields[0] == b"R"
    return Task(*scheduled_s(path), is_ready, times_slept(path) if is_ready else 0)


def stat_of(path):
    """The fields of a process or thread from its state on."""
    with open(f"/proc/{path}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def scheduled_s(path):
    """Seconds that a thread (ran, waited for a core); 0 where nobody counts."""
    try:
        with open(f"/proc/{path}/schedstat", "rb") as file:
            ran, waited = file.read().split()[:2]
        return int(ran) / 1e9, int(waited) / 1e9
    except OSError:
        return 0.0, 0.0


def times_slept(path):
    """How often a thread has given its core up to wait for something, of its own will."""
    with open(f"/proc/{path}/status", "rb") as file:
        return int(file.read().partition(b"\nvoluntary_ctxt_switches:")[2].split(None, 1)[0])


def newest_process():
    """The number of the process or thread that was started last, in this namespace."""
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[-1])
