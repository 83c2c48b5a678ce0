"""Hostile programs against the sandbox, in both tiers and as both kinds of user. `programs/` has them."""

import json
import os
import secrets
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from attacks.aftermath import NUM_PROGRAMS
from attacks.catalogue import Attack, Unisolated, load
from attacks.outside import KEY
from turnwise.env.sandbox.isolation import Tier
from turnwise.types import ToolStatus

ROOT = Path(__file__).parents[2]
ATTACKS = load()
PLACES = [(tier, user) for tier in (Tier.A, Tier.B) for user in ("root", "ordinary")]
PLACE_IDS = [f"{tier}-{user}" for tier, user in PLACES]
RUN_S = 240.0


@cache
def findings(tier: Tier, user: str, *kinds: str) -> list[dict[str, Any]]:
    """What a run printed; where it could not be had, or broke, the only line says why."""
    if user == "root" and os.getuid() != 0:
        return [{"lacking": "root: the tests run as somebody else"}]
    to_become = ["-m", "attacks.ordinary_user"] if user == "ordinary" and os.getuid() == 0 else []
    command = [sys.executable, *to_become, "-m", "attacks.runner", tier.value, *kinds]
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "tests"))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", KEY: secrets.token_hex(16)}
    try:
        run = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=RUN_S)
    except subprocess.TimeoutExpired as error:
        return [{"broken": str(error)}]
    if run.returncode != 0:
        return [{"broken": run.stderr}]
    return [json.loads(line) for line in run.stdout.splitlines()]


def found(tier: Tier, user: str, **wanted: str) -> dict[str, Any]:
    """The line of a run that has these values; skips where the run could not be had."""
    kinds = ("attacks",) if tier is Tier.unsafe else ()
    lines = findings(tier, user, *kinds)
    if reason := lines[0].get("lacking"):
        pytest.skip(f"tier {tier} as {user} needs {reason}")
    assert "broken" not in lines[0], lines[0]["broken"]
    (line,) = (one for one in lines if all(one.get(name) == value for name, value in wanted.items()))
    return line


def named(attack: Attack) -> str:
    return f"{attack.family}: {attack.name}"


@pytest.mark.parametrize(("tier", "user"), PLACES, ids=PLACE_IDS)
@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_an_attack_does_no_harm(attack: Attack, tier: Tier, user: str):
    line = found(tier, user, family=attack.family, name=attack.name)
    if reason := line.get("hindrance"):
        pytest.skip(reason)
    assert not line["failures"], line["results"]


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_an_attack_is_known_to_be_one_where_nothing_is_in_its_way(attack: Attack):
    """What is said to succeed without isolation must: a program that can do no harm anywhere proves nothing."""
    if attack.unisolated not in (Unisolated.succeeds, Unisolated.holds):
        return
    line = found(Tier.unsafe, "ordinary", family=attack.family, name=attack.name)
    if reason := line.get("hindrance"):
        pytest.skip(reason)
    assert bool(line["failures"]) == (attack.unisolated is Unisolated.succeeds), line


@pytest.mark.parametrize(("tier", "user"), PLACES, ids=PLACE_IDS)
@pytest.mark.parametrize("kind", ["attacks", "mixture"])
def test_nothing_is_left(kind: str, tier: Tier, user: str):
    """No process, mount, file, descriptor, control group or shared memory: neither at rest nor at the end."""
    line = found(tier, user, kind=kind)
    assert (line["left"], line["left after close"]) == ({}, {})


@pytest.mark.parametrize(("tier", "user"), PLACES, ids=PLACE_IDS)
def test_a_thousand_mixed_programs_all_end_through_their_own_doing(tier: Tier, user: str):
    line = found(tier, user, kind="mixture")
    assert line["failures"] == []
    assert sum(line["statuses"].values()) >= NUM_PROGRAMS
    assert set(line["statuses"]) >= {ToolStatus.ok, ToolStatus.user_error, ToolStatus.blocked, "cancelled"}


@pytest.mark.parametrize(("tier", "user"), PLACES, ids=PLACE_IDS)
def test_no_program_outlives_a_broker_or_a_zygote_that_is_killed(tier: Tier, user: str):
    line = found(tier, user, kind="bereavement")
    assert line["survivors"] == {"BROKER": [], "ZYGOTES": []}
    assert line["next"] == []
    assert line["left after close"] == {}


def test_there_are_attacks_of_every_family():
    assert len(ATTACKS) >= 200
    assert len({(one.family, one.name) for one in ATTACKS}) == len(ATTACKS)
    proven = sum(one.unisolated is Unisolated.succeeds for one in ATTACKS)
    assert proven >= 60
