"""The Linux side of the jail: namespaces, mounts, limits, privileges, filter.

Standard library only (system calls through ctypes): it runs inside the jail beside `worker.py`.
Every function raises OSError, with the name of the refused call, where the kernel does not allow a
step.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from typing import NamedTuple

CLONE_NEWNS, CLONE_NEWPID, CLONE_ANY_NEW = 0x00020000, 0x20000000, 0x7E020000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MNT_DETACH = 2, 4, 4096, 16384, 2
PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 22, 38, 47
CAP_AMBIENT_CLEAR_ALL, SECCOMP_MODE_FILTER = 4, 2
SYS_MOUNT_SETATTR, AT_RECURSIVE, ATTR_RDONLY, ATTR_NOSUID = 442, 0x8000, 1, 2

SYS_CLONE3 = 435


class SystemCalls(NamedTuple):
    """Numbers of one machine type."""

    audit: int  # how the filter sees the machine
    clone: int
    socket: int
    pivot_root: int
    # Namespaces (unshare, setns), ptrace, key rings, kernel attack surface (bpf, perf_event_open,
    # userfaultfd, io_uring_setup), memory that outlives or escapes the address-space limit
    # (shmget, msgget, semget, mq_open, memfd_*), and lower priorities or a busy core of its own
    # choice, by which a program would blame the load (setpriority, ioprio_set, sched_setparam,
    # sched_setscheduler, sched_setattr, sched_setaffinity).
    denied: tuple[int, ...]


X86_DENIED = (272, 308, 101, 248, 249, 250, 321, 298, 323, 425, 29, 68, 64, 240, 319, 447)
X86_DENIED += (141, 251, 142, 144, 314, 203)
ARM_DENIED = (97, 268, 117, 217, 218, 219, 280, 241, 282, 425, 194, 186, 190, 180, 279, 447)
ARM_DENIED += (140, 30, 118, 119, 274, 122)
SYSTEM_CALLS = {
    "x86_64": SystemCalls(0xC000003E, clone=56, socket=41, pivot_root=155, denied=X86_DENIED),
    "aarch64": SystemCalls(0xC00000B7, clone=220, socket=198, pivot_root=41, denied=ARM_DENIED),
}


class Jail(NamedTuple):
    """What a worker needs to shut its programs in."""

    libc: ctypes.CDLL
    pid_namespace: int  # file descriptor of the worker's own
    filter: ctypes.Array  # seccomp program
    uid: int  # of programs, where the worker is root; their judge has the next one


def open_jail(uid):
    """What `fork_program` and `confine` need, made once per worker.

    No program that is started from here on gains a capability; what the worker has it keeps.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        if prctl(libc, PR_CAPBSET_DROP, capability) < 0:
            break  # past the last capability this kernel knows
    return Jail(libc, os.open("/proc/self/ns/pid", os.O_RDONLY), make_filter(), uid)


def check(result, call):
    """Raises OSError naming the failed C library call."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
    return result


def prctl(libc, option, *values):
    padding = [0] * (4 - len(values))
    return libc.prctl(option, *map(ctypes.c_ulong, [*values, *padding]))


def mount(libc, source, target, kind=None, flags=0, data=None):
    names = [None if x is None else x.encode() for x in (source, target, kind)]
    options = None if data is None else data.encode()
    check(libc.mount(*names, ctypes.c_ulong(flags), options), f"mount {target}")


def make_filter():
    """A seccomp program as an array of bytes; OSError on an unknown machine."""
    machine = platform.machine()
    if machine not in SYSTEM_CALLS:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    calls = SYSTEM_CALLS[machine]
    allow, deny = 0x7FFF0000, 0x00050000 | errno.EPERM
    absent, kill = 0x00050000 | errno.ENOSYS, 0x80000000

    def load(offset):
        return (0x20, 0, 0, offset)

    def equal(value, yes, no):
        return (0x15, yes, no, value)

    def ret(action):
        return (0x06, 0, 0, action)

    code = [load(4), equal(calls.audit, 1, 0), ret(kill), load(0)]
    # The second x86 ABI (x32) would reach the same calls by other numbers.
    code += [(0x35, 0, 1, 0x40000000), ret(kill)]
    for number in calls.denied:
        code += [equal(number, 0, 1), ret(deny)]
    # clone3 passes its flags in memory, out of the filter's sight; ENOSYS makes the C library fall
    # back to clone.
    code += [equal(SYS_CLONE3, 0, 1), ret(absent)]
    code += [equal(calls.clone, 0, 4), load(16)]
    code += [(0x45, 0, 1, CLONE_ANY_NEW), ret(deny), ret(allow)]
    # Some families (vsock) ignore network namespaces: only AF_UNIX remains.
    code += [equal(calls.socket, 0, 4), load(16), equal(1, 0, 1), ret(allow), ret(deny)]
    code += [ret(allow)]
    packed = b"".join(struct.pack("<HBBI", *line) for line in code)
    return ctypes.create_string_buffer(packed, len(packed))


def drop_privileges(jail):
    """No capability, no way to regain one, no root: for good."""
    libc = jail.libc
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(jail.uid, jail.uid, jail.uid)
        os.setresuid(jail.uid, jail.uid, jail.uid)
    check(prctl(libc, PR_CAP_AMBIENT, CAP_AMBIENT_CLEAR_ALL), "clear ambient capabilities")
    header = struct.pack("<Ii", 0x20080522, 0)
    check(libc.capset(header, bytes(24)), "capset")
    check(prctl(libc, PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    address = ctypes.addressof(jail.filter)
    program = ctypes.create_string_buffer(struct.pack("@HP", len(jail.filter) // 8, address))
    check(prctl(libc, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program)), "seccomp")


def limit_resources(limits):
    """The limits of the calling process and of those it starts."""

    def bound(kind, soft, hard=None):
        # Nobody but root may go beyond what the process was started with.
        most = resource.getrlimit(kind)[1]
        wanted = (soft, hard or soft)
        if most != resource.RLIM_INFINITY:
            wanted = tuple(min(limit, most) for limit in wanted)
        resource.setrlimit(kind, wanted)

    # Whole seconds only: a net under the exact watch kept by the worker.
    seconds = int(limits["cpu_s"]) + 1
    bound(resource.RLIMIT_CPU, seconds, seconds + 1)
    bound(resource.RLIMIT_AS, limits["memory_bytes"])
    bound(resource.RLIMIT_FSIZE, limits["memory_bytes"] // 4)
    bound(resource.RLIMIT_NOFILE, 128)
    bound(resource.RLIMIT_CORE, 0)
    bound(resource.RLIMIT_MEMLOCK, 0)
    # Without root the jail's other processes share the user: tool, worker, runner and judge.
    bound(resource.RLIMIT_NPROC, limits["processes"] + (2 if os.geteuid() == 0 else 4))


def confine(jail, limits):
    """Shuts the calling process in; OSError where the kernel refuses a step."""
    libc = jail.libc
    check(libc.unshare(CLONE_NEWNS), "unshare mount namespace")
    check(libc.umount2(b"/proc", MNT_DETACH), "umount /proc")
    options = f"size={limits['memory_bytes'] // 4},nr_inodes=4096,mode=1777"
    mount(libc, "tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)
    os.chdir("/tmp")
    limit_resources(limits)
    drop_privileges(jail)


def fork_program(jail):
    """os.fork, the child being process 1 of a new PID namespace."""
    if jail is None:
        return os.fork()
    check(jail.libc.unshare(CLONE_NEWPID), "unshare PID namespace")
    pid = -1
    try:
        pid = os.fork()
    finally:
        # unshare works once per process unless it first returns to its own.
        if pid != 0:
            check(jail.libc.setns(jail.pid_namespace, CLONE_NEWPID), "setns")
    return pid


def enter_root(config):
    """Builds the read-only root with its mounts, moves into it and restarts."""
    libc = ctypes.CDLL(None, use_errno=True)
    root = config["root"]
    os.umask(0o022)  # programs, another user, must be able to walk the tree
    mount(libc, "tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for kind, source, path in config["mounts"]:
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if kind == "symlink":
            os.symlink(source, target)
            continue
        if kind == "empty":
            mount(libc, "tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
            continue
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:
            open(target, "x").close()
        mount(libc, source, target, flags=MS_BIND | MS_REC)
    for name in ("proc", "tmp"):
        os.makedirs(f"{root}/{name}")
    mount(libc, "proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV)
    os.chdir(root)
    pivot_root = SYSTEM_CALLS[platform.machine()].pivot_root
    check(libc.syscall(pivot_root, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")
    attributes = struct.pack("<QQQQ", ATTR_RDONLY | ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    result = libc.syscall(SYS_MOUNT_SETATTR, -1, b"/", AT_RECURSIVE, attributes, size)
    check(result, "mount_setattr")
    os.execv(config["command"][0], config["command"])
