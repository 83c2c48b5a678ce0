"""Takes rights away from a process, by the kernel's own means."""

import ctypes
import os
import resource
import signal
import sys
from enum import StrEnum
from functools import cache
from pathlib import Path

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWUTS = 0x20000000, 0x40000000, 0x4000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_CAPBSET_DROP = 1, 22, 2, 24
CAPABILITY_VERSION_3, MAX_CAPABILITIES = 0x20080522, 64

MAX_FILES = 4096
"""Files and folders that a program may have at a time, where its folder is a file system of its own."""
FIRST_USER = 1 << 30
"""Programs of root run as users from this number on, each worker's as its own: nobody else has such numbers."""
SYSTEM_FILES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/zero", "/dev/random")
"""What a program may read beside its interpreter."""
DEVICES = ("/dev/null", "/dev/urandom")


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
    user, group, is_root = os.geteuid(), os.getegid(), os.geteuid() == 0
    flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    _call("unshare", flags if is_root else flags | CLONE_NEWUSER)
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def close_files(folder: str, scratch_mb: int) -> None:
    """Makes every file read-only for this process and its children but for `folder`, empty and of bounded size.

    `/proc` shows the processes of their own namespace alone, or nothing where it cannot be mounted anew.

    Raises:
        OSError: As `enter_namespaces`.
    """
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MS_NOSUID, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    _call("syscall", MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), ctypes.c_size_t(size))
    try:
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except PermissionError:  # where a container hides parts of its own
        _mount("none", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,nr_inodes=1,mode=555")
    _mount("none", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={scratch_mb}m,nr_inodes={MAX_FILES},mode=755")


def program_user(folder: str) -> int | None:
    """The user that programs run as; None for the one that this process has.

    Only root can choose, and does unless another user could not reach `folder` or the interpreter.
    """
    paths = {place for path in (folder, sys.prefix, sys.base_prefix) for place in (Path(path), *Path(path).parents)}
    is_root = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    return FIRST_USER + os.getpid() if is_root and all(path.stat().st_mode & 1 for path in paths) else None


def limit(kind: int, value: int, *, spare: int = 0) -> None:
    """Lowers a resource limit for good, to `value` and, beyond that, `spare`; never above what is allowed."""
    _, hard = resource.getrlimit(kind)
    soft, end = ((one if hard == resource.RLIM_INFINITY else min(one, hard)) for one in (value, value + spare))
    resource.setrlimit(kind, (soft, end))


def become(user: int | None) -> None:
    """Takes on a user, and gives up every capability."""
    for capability in range(MAX_CAPABILITIES):
        libc().prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers that the kernel does not have
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def prepare_landlock() -> None:
    """Does what `restrict_files` needs once: the children of this process then start sooner.

    Raises:
        OSError: The kernel has no Landlock.
        ImportError: landlockpy is not installed.
    """
    from landlockpy import abi_version

    abi_version()


def restrict_files(folder: str, *, sees_processes: bool) -> None:
    """Landlock: `folder` can be used, the interpreter and `SYSTEM_FILES` can be read, all else is out of reach.

    So are TCP and, where the kernel knows how, signals and abstract sockets beyond the processes restricted likewise.

    Raises:
        OSError: The kernel has no Landlock.
    """
    from landlockpy import AccessFS, Ruleset, Scope

    read = AccessFS.READ_FILE | AccessFS.READ_DIR
    everything = ~(AccessFS.EXECUTE | AccessFS.MAKE_CHAR | AccessFS.MAKE_BLOCK)
    readable = (*SYSTEM_FILES, sys.prefix, sys.base_prefix, *(("/proc",) if sees_processes else ()))
    with Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as rules:
        for paths, access in ((readable, read), (DEVICES, read | AccessFS.WRITE_FILE), ((folder,), everything)):
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


@cache
def libc() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = None if kind is None else kind.encode()
    _call("mount", source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), options.encode())


def _call(name: str, *arguments: object) -> None:
    if getattr(libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
