"""The attacks as data: `programs/FAMILY.toml`, one file for each family."""

import inspect
import platform
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from attacks import tools
from attacks.outside import CHECKS
from turnwise.env.sandbox.syscalls import numbers
from turnwise.types import Isolation, ToolStatus

PROGRAMS = Path(__file__).parent / "programs"
TOOLS = inspect.getsource(tools)
SHOWN = ("ok", "user_error", "blocked")


class Unisolated(StrEnum):
    """What becomes of an attack where nothing but the limits is in its way."""

    succeeds = "succeeds"
    """Something that must hold does not: so the attack is known to be one."""
    holds = "holds"
    """It is the limits, or the processes of the sandbox, that withstand it."""
    varies = "varies"
    """Some kernels have nothing to attack there: what becomes of it says nothing."""
    dangerous = "dangerous"
    """Nobody tries: it would harm the machine, or it needs rights that an ordinary user does not have."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A program, or the programs of a session one after the other, and what must hold afterwards."""

    family: str
    name: str
    turns: tuple[str, ...]
    """The programs: Python with the names of `Bait` and of `tools.py`. More than one: a session."""
    ends: tuple[frozenset[ToolStatus], ...]
    """For each program, how it may end."""
    ends_without_namespaces: frozenset[ToolStatus]
    """How any of them may end besides in a tier without namespaces, which sees less of what a program did."""
    holds: tuple[str, ...]
    """What must hold outside, beside what holds after every program: names of `outside.CHECKS`."""
    prints: str | None
    """What the last program prints in full."""
    unisolated: Unisolated
    machine: str
    """The machine whose code it has; empty: any."""
    why: str
    """What it is after, where that is not plain."""

    @property
    def is_session(self) -> bool:
        return len(self.turns) > 1

    @property
    def needs_sibling(self) -> bool:
        return "sibling unharmed" in self.holds or any("SIBLING" in code for code in self.turns)

    @property
    def hindrance(self) -> str:
        """Why it cannot be tried here; empty where it can."""
        other = self.machine not in ("", platform.machine())
        return f"it is machine code of {self.machine}, this is {platform.machine()}" if other else ""

    def may_end(self, turn: int, isolation: Isolation) -> frozenset[ToolStatus]:
        """How one of its programs may end."""
        return self.ends[turn] | (frozenset() if isolation is Isolation.A else self.ends_without_namespaces)

    def program(self, turn: int, bait: dict[str, Any]) -> str:
        """The text of one of its programs, with all that it may name."""
        code = self.turns[turn]
        names = {**bait, "CALLS": numbers(*re.findall(r'kernel\("(\w+)"', code))}
        tools_text = TOOLS if re.search(r"\b(kernel|machine_code|attempt)\(", code) else ""
        told = tools_text + code
        values = "".join(f"{name} = {value!r}\n" for name, value in names.items() if re.search(rf"\b{name}\b", told))
        return tools_text + values + code


def load() -> list[Attack]:
    """All attacks, family by family.

    Raises:
        ValueError: A field is unknown, or names what does not exist.
    """
    return [
        _attack(path.stem, dict(entry))
        for path in sorted(PROGRAMS.glob("*.toml"))
        for entry in tomllib.loads(path.read_text())["attack"]
    ]


def _attack(family: str, entry: dict[str, Any]) -> Attack:
    name = entry.pop("name")
    codes = entry.pop("turns", None) or [entry.pop("code")]
    ends = entry.pop("ends", list(SHOWN))
    per_turn = ends if isinstance(ends[0], list) else [ends] * len(codes)
    attack = Attack(
        family=family,
        name=name,
        turns=tuple(codes),
        ends=tuple(frozenset(map(ToolStatus, one)) for one in per_turn),
        ends_without_namespaces=frozenset(map(ToolStatus, entry.pop("ends_without_namespaces", []))),
        holds=tuple(entry.pop("holds", [])),
        prints=entry.pop("prints", None),
        unisolated=Unisolated(entry.pop("unisolated", "succeeds")),
        machine=entry.pop("machine", ""),
        why=entry.pop("why", ""),
    )
    if unknown := [*entry, *(check for check in attack.holds if check not in CHECKS)]:
        raise ValueError(f"{family}: {name}: {unknown}: expected fields of an attack and checks of {list(CHECKS)}")
    if len(attack.ends) != len(attack.turns):
        raise ValueError(f"{family}: {name}: ends={ends}: expected one list for each of {len(codes)} programs")
    return attack
