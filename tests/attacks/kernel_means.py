"""Asks the kernel, without the sandbox's own code, whether it has what a tier needs."""

import ctypes
import os
import platform

from turnwise.env.sandbox.isolation import Tier

LANDLOCK_CREATE_RULESET, LANDLOCK_CREATE_RULESET_VERSION = 444, 1
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000


def lacking(tier: Tier) -> str:
    """What is missing here for a tier; empty where nothing is."""
    if platform.system() != "Linux":
        return f"Linux: this is {platform.system()}"
    if tier is Tier.unsafe:
        return ""
    version = ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return "Landlock"
    return "" if tier is Tier.B or _can_enter_namespaces() else "namespaces that this user may enter"


def _can_enter_namespaces() -> bool:
    if (pid := os.fork()) == 0:
        flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | (CLONE_NEWUSER if os.geteuid() else 0)
        os._exit(ctypes.CDLL(None).unshare(flags) != 0)
    return os.waitpid(pid, 0)[1] == 0
