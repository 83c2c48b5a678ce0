"""Takes rights away from a process, by the kernel's own means."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import cache
from pathlib import Path

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWUTS = 0x20000000, 0x40000000, 0x4000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
MNT_DETACH, PIVOT_ROOT = 2, {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_CAPBSET_DROP = 1, 8, 22, 2, 24
PR_SET_CHILD_SUBREAPER = 36
CAPABILITY_VERSION_3, MAX_CAPABILITIES, CAP_DAC_READ_SEARCH = 0x20080522, 64, 2
CAP_CHOWN, CAP_SETGID, CAP_SETUID = 0, 6, 7

HOST_NAME = b"sandbox"
MAX_FILES = 4096
"""Files and folders that a program may have at a time, where its folder is a file system of its own."""
MAX_PROGRAMS = 2048
"""Programs and sessions that a broker has at a time: as many users are set apart for it."""
FIRST_USER, NUM_BROKERS = 1 << 30, 1 << 20
"""Programs of root run as users from this number on, each as its own: nobody else has such numbers."""
SYSTEM_FILES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/zero", "/dev/random")
"""What a program may read beside its interpreter."""
DEVICES = ("/dev/null", "/dev/urandom")


class Lacking(OSError):
    """This machine, or a container on it, has no means for a tier; the text says what is missing."""


class Tier(StrEnum):
    """How programs are kept apart from everything else."""

    A = "A"
    """Namespaces of their own, Landlock, seccomp, limits."""
    B = "B"
    """Landlock, seccomp and limits: what a container allows that forbids namespaces."""
    unsafe = "unsafe"
    """Limits alone: a program has its user's files, processes and network."""


def enter_namespaces() -> None:
    """Leaves this process in a network, host name and System V namespace of its own; its next child in a new PID one.

    Who is not root gets a user namespace first, in which that is allowed.

    Raises:
        OSError: The kernel, or a container around this process, does not allow it.
    """
    flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if os.geteuid() != 0:
        enter_user_namespace()
    _call("unshare", flags)
    _call("sethostname", HOST_NAME, len(HOST_NAME))


def enter_user_namespace() -> None:
    """Leaves this process in a user namespace of its own, as the user that it was.

    Raises:
        OSError: As `enter_namespaces`.
    """
    user, group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def enter_root(root: str, home: str) -> None:
    """Makes the empty folder `root` the root of this process and its children: nothing else of the host has a name.

    In it are the interpreter and `SYSTEM_FILES`, read-only and where they always are, `/proc`, and the empty folder
    `home`.

    Raises:
        OSError: As `enter_namespaces`.
    """
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("none", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in (*readable_files(), *DEVICES, "/proc"):
        _show(Path(path), Path(root + path))
    Path(root + home).mkdir(parents=True)
    os.chdir(root)
    _call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")  # the old root comes to lie upon the new one
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MS_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), size)


def _show(path: Path, shown: Path) -> None:
    """Makes `path` of the host appear at `shown`, unless it does already."""
    if shown.exists() or shown.is_symlink() or not path.exists():
        return
    shown.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and path.parent == Path("/"):  # /lib is a link to usr/lib on most
        shown.symlink_to(path.readlink())
        return
    shown.mkdir() if path.is_dir() else shown.touch()
    _mount(str(path), str(shown), None, MS_BIND | MS_REC)


def mount_own(home: str, *, scratch_mb: int, user: int | None) -> None:
    """Gives this process an empty file system at `home`, and a `/proc` of its own PID namespace, without the machine.

    Where a container hides parts of its own `/proc`, it is empty.

    Raises:
        OSError: As `enter_namespaces`.
    """
    _call("unshare", CLONE_NEWNS)
    owner = "" if user is None else f",uid={user},gid={user}"
    options = f"size={scratch_mb}m,nr_inodes={MAX_FILES},mode=700{owner}"
    _mount("none", home, "tmpfs", MS_NOSUID | MS_NODEV, options)
    try:
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid")
    except PermissionError:
        _mount("none", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,nr_inodes=1,mode=555")


def first_user() -> int | None:
    """The first of `MAX_PROGRAMS` users that the programs of this process may run as.

    None where it has one user alone: only root can choose, of the users that its namespace has.
    """
    if os.geteuid() != 0 or not all(map(has_capability, (CAP_CHOWN, CAP_SETGID, CAP_SETUID))):
        return None
    ranges = [[int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
    end = max(inside + size for inside, _, size in ranges)
    highest = end - 2 * MAX_PROGRAMS  # a namespace of 65,536 ends with `nobody`
    return min(FIRST_USER + os.getpid() % NUM_BROKERS * MAX_PROGRAMS, highest) if highest > MAX_PROGRAMS else None


def has_capability(number: int) -> bool:
    """Whether this process may do what a capability allows."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)


def others_can_enter(paths: Iterable[str]) -> bool:
    """Whether any user reaches what lies in `paths`."""
    places = {place for path in paths for place in (Path(path), *Path(path).parents)}
    return all(place.stat().st_mode & 1 for place in places)


def limit(kind: int, value: int) -> None:
    """Lowers a resource limit for good, never above what is allowed."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def become(user: int | None, *, may_enter: bool = False) -> None:
    """Takes on a user, and gives up every capability; but for that to enter and read any folder, where it `may_enter`.

    The user of a program needs that one where the interpreter lies in a folder that is shut to others. Landlock says
    then, as always, which files those are.
    """
    for capability in range(MAX_CAPABILITIES):
        libc().prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers that the kernel does not have
    if user is not None:
        libc().prctl(PR_SET_KEEPCAPS, int(may_enter), 0, 0, 0)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kept = 1 << CAP_DAC_READ_SEARCH if may_enter else 0
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)(kept, kept)))


def prepare_landlock() -> None:
    """Does what `restrict_files` needs once: the children of this process then start sooner.

    Raises:
        OSError: The kernel has no Landlock.
        ImportError: landlockpy is not installed.
    """
    from landlockpy import abi_version

    abi_version()


def readable_files() -> tuple[str, ...]:
    """What a program may read."""
    return (*SYSTEM_FILES, sys.prefix, sys.base_prefix)


def restrict_files(home: str, *, sees_processes: bool) -> None:
    """Landlock: `home` can be used, the interpreter and `SYSTEM_FILES` can be read, all else is out of reach.

    So are TCP and, where the kernel knows how, signals and abstract sockets beyond the processes restricted likewise.

    Raises:
        OSError: The kernel has no Landlock.
    """
    from landlockpy import AccessFS, Ruleset, Scope

    read = AccessFS.READ_FILE | AccessFS.READ_DIR
    everything = ~(AccessFS.EXECUTE | AccessFS.MAKE_CHAR | AccessFS.MAKE_BLOCK)
    readable = (*readable_files(), *(("/proc",) if sees_processes else ()))
    with Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as rules:
        for paths, access in ((readable, read), (DEVICES, read | AccessFS.WRITE_FILE), ((home,), everything)):
            for path in filter(Path.exists, map(Path, paths)):
                rules.allow_path(path, access if path.is_dir() else access & ~AccessFS.READ_DIR)
        rules.restrict()


def restrict_calls(program: bytes) -> None:
    """Loads a seccomp filter: a BPF program as `turnwise.env.sandbox.syscalls` makes it."""

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    loaded = Filter(len(program) // 8, program)
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent ends; a change of user undoes it."""
    _call("prctl", PR_SET_PDEATHSIG, number, 0, 0, 0)


def go_first_when_memory_runs_out() -> None:
    """Has the kernel end this process before the sandbox's own and the trainer."""
    with contextlib.suppress(OSError):  # where there is no /proc
        Path("/proc/self/oom_score_adj").write_text("1000")


@cache
def libc() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None, use_errno=True)


def fork_first(own: int) -> int:
    """Forks a child that is the first process of a PID namespace; its end is that of all in it. As `os.fork` otherwise.

    Args:
        own: A descriptor of the PID namespace of this process, which further children belong to again.
    """
    _call("unshare", CLONE_NEWPID)
    try:
        pid = os.fork()
    except OSError:
        _call("setns", own, CLONE_NEWPID)
        raise
    if pid != 0:
        _call("setns", own, CLONE_NEWPID)
    return pid


def kill_orphans(is_spared: Callable[[int], bool]) -> None:
    """Kills and reaps the children of this process that are not spared, and whatever comes to it from below them."""
    below = Path(f"/proc/self/task/{os.getpid()}/children")
    while orphans := [pid for pid in map(int, below.read_text().split()) if not is_spared(pid)]:
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(orphan, signal.SIGKILL)
                os.waitpid(orphan, 0)


def adopt_orphans() -> None:
    """Has the kernel bring orphans from below to this process and not to init."""
    libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = None if kind is None else kind.encode()
    _call("mount", source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), options.encode())


def _call(name: str, *arguments: object) -> None:
    if getattr(libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
