"""What a sandboxed program may not succeed in. Its text is run as a program by `turnwise.env.sandbox.canaries`."""

import ctypes
import fcntl
import json  # noqa: F401 -- what is appended to this text prints with it
import os
import socket
from pathlib import Path
from typing import Any


def escapes(bait: dict[str, Any]) -> list[str]:
    """The names of the attempts that succeed; each is made after the one before failed."""
    libc, secret = ctypes.CDLL(None, use_errno=True), Path(bait["secret"])

    def connect(family: int, address: Any) -> None:
        with socket.socket(family) as one:
            one.settimeout(1)
            one.connect(address)

    def fork() -> None:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def run_another_program() -> None:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

    def write_at_home() -> None:
        """The one thing that must succeed."""
        Path("allowed").write_text("x")
        Path("folder").mkdir()

    def call_succeeds(number: int) -> None:
        ctypes.set_errno(0)
        if libc.syscall(number, -1, -1, -1, -1, -1, -1) == -1 and ctypes.get_errno() == bait["refusal"]:
            raise PermissionError

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)

    def send_a_datagram() -> None:
        for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
            with one:
                one.sendto(b"x", bait["datagrams"])

    def own_an_alarm(process: int) -> None:
        with Path(os.devnull).open() as file:
            fcntl.fcntl(file, fcntl.F_SETOWN, process)

    def mount() -> None:
        call("mount", b"none", b"folder", b"tmpfs", 0, b"")
        call("umount", b"folder")

    def become_root() -> None:
        if os.getuid() == 0:
            os.chroot(".")
        os.setuid(0)

    def find_an_open_file() -> None:
        for number in range(4, 64):
            try:
                os.fstat(number)
            except OSError:
                continue
            return
        raise OSError

    write_at_home()
    attempts = {
        "reading a file": secret.read_text,
        "listing a folder": lambda: list(secret.parent.iterdir()),
        "writing a file": lambda: secret.with_name("new").write_text("x"),
        "changing a file": lambda: os.truncate(secret, 0),
        "changing a file's mode": lambda: secret.chmod(0o600),
        "changing a file's times": lambda: os.utime(secret),
        "removing a file": secret.unlink,
        "a hard link": lambda: os.link(secret, "linked"),
        "a TCP connection": lambda: connect(socket.AF_INET, ("127.0.0.1", bait["port"])),
        "an abstract socket": lambda: connect(socket.AF_UNIX, bait["socket_name"]),
        "a datagram": send_a_datagram,
        "outliving the zygote": lambda: call("prctl", 1, 0, 0, 0, 0),
        "a signal to the trainer": lambda: os.kill(bait["trainer"], 0),
        "a signal to the zygote": lambda: os.kill(os.getppid(), 0),
        "a signal that the kernel sends": lambda: own_an_alarm(bait["trainer"]),
        "the trainer's environment": lambda: Path(f"/proc/{bait['trainer']}/environ").read_bytes(),
        "the zygote's memory": lambda: Path(f"/proc/{os.getppid()}/mem").open("rb").close(),
        "a kernel setting": lambda: Path("/proc/sys/kernel/core_pattern").open("r+").close(),
        "a fork": fork,
        "another program": run_another_program,
        "memory without a limit": lambda: os.memfd_create("x"),
        "shared memory": lambda: call("shmget", 0, 4096, 0o1600),
        "a mount": mount,
        "a namespace": lambda: call("unshare", 0x10000000),
        "becoming root": become_root,
        "an inherited file": find_an_open_file,
        **{name: lambda number=number: call_succeeds(number) for name, number in bait["calls"].items()},
        "tracing": lambda: call("ptrace", 0, 0, 0, 0),  # last: who is traced stops at the next signal
    }
    succeeded = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        succeeded.append(name)
    return succeeded
