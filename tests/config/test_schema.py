"""Schemas derived from dataclasses."""

import os
import subprocess
import sys
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol

import pytest
from hydra.utils import instantiate
from omegaconf import MISSING, OmegaConf, ValidationError
from omegaconf.errors import ConfigKeyError

from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.config.options import CONF_DIR
from turnwise.config.schema import schema_of
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.task.arithmetic import Arithmetic


class Colour(StrEnum):
    red = "red"
    blue = "blue"


class Taste(Protocol):
    def __call__(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Crust:
    depth_mm: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Sweet:
    def __call__(self) -> str:
        return "sweet"


@dataclass(frozen=True, kw_only=True)
class Pie:
    name: str
    taste: Taste = Sweet()
    colour: Colour = Colour.red
    label: str | None = None
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    crust: Crust = Crust(depth_mm=9.0)
    made_crust: Crust = field(default_factory=lambda: Crust(depth_mm=7.0))
    plain_crust: Crust = field(default_factory=Crust)


def test_fields_defaults_and_targets() -> None:
    config = OmegaConf.structured(schema_of(Pie))
    assert OmegaConf.to_container(config) == {
        "_target_": f"{__name__}.Pie",
        "name": MISSING,
        "taste": MISSING,  # a protocol: its own group fills it, whatever the dataclass's default
        "colour": Colour.red,
        "label": None,
        "sizes": [1, 2],
        "crust": {"_target_": f"{__name__}.Crust", "depth_mm": 9.0},
        "made_crust": {"_target_": f"{__name__}.Crust", "depth_mm": 7.0},
        "plain_crust": {"_target_": f"{__name__}.Crust", "depth_mm": 4.0},
    }


def test_schema_is_writable_and_typed() -> None:
    config = OmegaConf.structured(schema_of(Pie))
    config.colour = "blue"
    config.crust.depth_mm = 3
    assert config.colour is Colour.blue
    with pytest.raises(ValidationError, match=r"expected one of \[red, blue\]"):
        config.colour = "green"
    with pytest.raises(ValidationError, match="could not be converted to Integer"):
        config.sizes = ["many"]
    with pytest.raises(ConfigKeyError, match="'colr' not in 'Pie'"):
        OmegaConf.merge(config, {"colr": "blue"})


def test_defaults_are_not_shared() -> None:
    schema = schema_of(Pie)
    first, second = OmegaConf.structured(schema), OmegaConf.structured(schema)
    first.sizes.append(3)
    first.crust.depth_mm = 1.0
    assert second.sizes == [1, 2]
    assert second.crust.depth_mm == 9.0


@pytest.mark.parametrize("component", [TurnReturnAdvantage, LocalSandbox, Arithmetic])
def test_schema_makes_the_component(component: type) -> None:
    assert instantiate(OmegaConf.structured(schema_of(component)), _convert_="all") == component()


def test_mappings_take_new_keys_from_the_command_line(composed) -> None:
    task = composed("task=reasoning_gym", "task.options={gcd:{max_value:9}}", "task.options.lcm.max_value=8").task
    assert task.options == {"gcd": {"max_value": 9}, "lcm": {"max_value": 8}}


def test_only_dataclasses_have_schemas() -> None:
    with pytest.raises(TypeError, match="Colour is not a dataclass"):
        schema_of(Colour)


def test_schemas_arrive_whole_in_another_process() -> None:
    """As the launchers of a multirun send them; cloudpickle before 3.1 alone would lose their fields."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs the extra sweep")
    sent = cloudpickle.dumps(schema_of(TurnReturnAdvantage))
    receive = "import dataclasses, pickle, sys; print(len(dataclasses.fields(pickle.load(sys.stdin.buffer))))"
    queue_again = """
import cloudpickle, pickle, sys
schema = pickle.load(sys.stdin.buffer)
import turnwise.config.schema  # a job does so as it begins
sys.stdout.buffer.write(cloudpickle.dumps(schema))
"""
    environment = {**os.environ, "PYTHONPATH": str(CONF_DIR.parent / "src")}

    def in_a_process(code: str, given: bytes) -> bytes:
        done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, env=environment)
        assert done.stderr == b""
        return done.stdout

    expected = len(fields(TurnReturnAdvantage)) + 1  # and `_target_`
    assert int(in_a_process(receive, sent)) == expected
    assert int(in_a_process(receive, in_a_process(queue_again, sent))) == expected
