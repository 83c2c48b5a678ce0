"""The seccomp filter of sandboxed programs: which calls of the kernel they are refused."""

import errno
import fcntl
from functools import cache
from tempfile import TemporaryFile

from turnwise.env.sandbox.isolation import Lacking

FORBIDDEN = (
    # programs and processes
    "fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise",
    "process_mrelease", "kcmp", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kill", "tkill", "tgkill",
    "rt_sigqueueinfo", "rt_tgsigqueueinfo", "sched_setscheduler", "sched_setattr", "sched_setparam", "ioprio_set",
    "migrate_pages", "move_pages",
    # network, and memory that no limit counts
    "socket", "connect", "bind", "listen", "accept", "accept4", "memfd_create", "memfd_secret", "shmget", "shmat",
    "shmctl", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink",
    # file systems and namespaces
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick",
    "mount_setattr", "unshare", "setns", "name_to_handle_at", "open_by_handle_at", "quotactl", "fanotify_init",
    # what Landlock lets happen to the files of one's own user
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "utimensat",
    "futimesat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr",
    "removexattrat", "file_setattr", "open_tree_attr",
    # the kernel itself
    "bpf", "io_uring_setup", "io_uring_enter", "io_uring_register", "perf_event_open", "userfaultfd", "keyctl",
    "add_key", "request_key", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    "reboot", "swapon", "swapoff", "acct", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex",
    "sethostname", "setdomainname", "sync", "syncfs", "vhangup", "personality", "iopl", "ioperm", "modify_ldt",
    "lookup_dcookie",
    # what Landlock does not look at, and what all users together have a fixed number of
    "inotify_init", "inotify_init1", "inotify_add_watch", "io_setup",
)  # fmt: skip
"""Refused with EPERM, so that the program gets an exception. What an architecture does not have is left out."""

NUMBERS = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447, "process_mrelease": 448,
    "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467, "file_setattr": 469,
}  # fmt: skip
"""Calls from 424 on, whose numbers are those of every architecture: an older libseccomp may not know them."""
FUTURE = range(470, 512)
"""Numbers of calls that nobody knew when this was written: a program finds that there are none."""

HARMLESS_TO_TRY = (
    "bpf", "file_setattr", "io_uring_setup", "keyctl", "perf_event_open", "process_vm_readv", "setns", "setxattrat",
    "userfaultfd",
)  # fmt: skip
"""Some of them that do nothing when they are called with arguments of -1, for the canaries."""

INT, CLONE_THREAD, PRIO_PROCESS, PR_SET_PDEATHSIG = 0xFFFFFFFF, 0x10000, 0, 1
F_SETOWN_EX, FIOSETOWN, SIOCSPGRP = 15, 0x8901, 0x8902
FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR = 0x40086602, 0x40046602, 0x401C5820
AF_UNIX, SOCKET_TYPES, SOCK_DGRAM, SOCK_RAW = 1, 0xF, 2, 3


@cache
def filter_program() -> bytes:
    """The filter in BPF, as the kernel loads it. Threads can be started, processes cannot.

    Raises:
        Lacking: libseccomp is missing.
    """
    seccomp = _seccomp()
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for number in numbers(*FORBIDDEN).values():
        rules.add_rule(seccomp.ERRNO(errno.EPERM), number)
    for number in FUTURE:
        rules.add_rule(seccomp.ERRNO(errno.ENOSYS), number)
    # A filter cannot look at clone3's flags; without it libraries fall back on clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "clone", seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_THREAD, 0))
    # Limits and priorities of its own alone: 0 stands for the caller.
    for name in ("prlimit64", "sched_setaffinity"):
        rules.add_rule(seccomp.ERRNO(errno.EPERM), name, seccomp.Arg(0, seccomp.NE, 0))
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "setpriority", seccomp.Arg(1, seccomp.NE, 0))
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "setpriority", seccomp.Arg(0, seccomp.NE, PRIO_PROCESS))
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "socketpair", seccomp.Arg(0, seccomp.NE, AF_UNIX))
    # A pair of datagram sockets can be sent on to any socket in the file system; a pair of streams cannot.
    for kind in (SOCK_DGRAM, SOCK_RAW):
        rules.add_rule(seccomp.ERRNO(errno.EPERM), "socketpair", seccomp.Arg(1, seccomp.MASKED_EQ, SOCKET_TYPES, kind))
    # It would outlive a zygote that is killed. (The kernel reads 32 bits of what the filter sees 64 of: `INT`.)
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "prctl", seccomp.Arg(0, seccomp.MASKED_EQ, INT, PR_SET_PDEATHSIG))
    # The kernel would send signals in its place to the process that it names; a lease holds up who opens the file.
    for command in (fcntl.F_SETOWN, F_SETOWN_EX, fcntl.F_SETLEASE):
        rules.add_rule(seccomp.ERRNO(errno.EPERM), "fcntl", seccomp.Arg(1, seccomp.MASKED_EQ, INT, command))
    for request in (FIOSETOWN, SIOCSPGRP, FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR):
        rules.add_rule(seccomp.ERRNO(errno.EPERM), "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, INT, request))
    with TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def numbers(*names: str) -> dict[str, int]:
    """The numbers of calls on this architecture, without those that it does not have."""
    seccomp = _seccomp()
    found = {name: NUMBERS[name] for name in names if name in NUMBERS}
    for name in set(names) - found.keys():
        try:
            found[name] = seccomp.resolve_syscall(seccomp.system_arch(), name)
        except (OSError, ValueError):
            continue
    return {name: number for name, number in found.items() if number >= 0}


def _seccomp():
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise Lacking(f"libseccomp is missing: install libseccomp2 and pyseccomp ({error})") from error
    return pyseccomp
