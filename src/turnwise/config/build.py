"""From a composed configuration to the objects that it names, checked one by one and against each other."""

import dataclasses
import re
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from turnwise.config.errors import ConfigError, explain, known_keys
from turnwise.config.options import option_groups
from turnwise.config.parts import Components, Mode
from turnwise.config.relations import check_relations
from turnwise.config.schema import HAS_GROUP


def build_components(config: DictConfig, label: str) -> Components:
    """Makes the components and checks the relations between them.

    Raises:
        ConfigError: A value is missing, out of range, or does not go with another one; the keys are named.
    """
    _check_keys(config)
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed}: expected >= 0")
    keys = [str(key) for key in config if key not in ("seed", "mode")]
    for key in keys:  # all of them first, because parts take values from one another
        _check_is_part(config, key)
    parts = {key: _build(config, key) for key in keys}
    values = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    components = Components(seed=config.seed, label=label, config=cast(dict[str, Any], values), **parts)
    check_relations(components)
    return components


def build_mode(config: DictConfig) -> Mode:
    """Makes the mode.

    Raises:
        ConfigError: A value of it is missing or out of range.
    """
    _check_is_part(config, "mode")
    return _build(config, "mode")


def _check_keys(node: DictConfig) -> None:
    """Refuses what Hydra lets pass: keys that no schema has (by `+key=value`), a plain value in place of a part."""
    schema, full_key = OmegaConf.get_type(node), node._get_full_key("")
    prefix = f"{full_key}." if full_key else ""
    fields = {field.name: field for field in dataclasses.fields(cast(type, schema)) if field.name != "_target_"}
    keys = sorted(fields)
    for name in node:
        if name not in keys and name != "_target_":
            raise ConfigError(f"{prefix}{name}: no such key; {known_keys(full_key, keys)}")
    for name in keys:
        if name in node and HAS_GROUP in fields[name].metadata and not OmegaConf.is_dict(node[name]):
            group = f"{prefix}{name}".replace(".", "/")
            choices = " or ".join(f"{group}={option}" for option in option_groups().get(group, []))
            raise ConfigError(f"{prefix}{name}={node[name]}: this part is chosen with a slash: {choices}")
        has_value = name in node and not OmegaConf.is_interpolation(node, name)
        if has_value and dataclasses.is_dataclass(OmegaConf.get_type(node, name)):
            _check_keys(node[name])


def _check_is_part(config: DictConfig, key: str) -> None:
    if not (OmegaConf.is_missing(config, key) or OmegaConf.is_dict(config[key])):
        raise ConfigError(f"{key}={config[key]}: expected values of its own, {key}.NAME=VALUE")


def _build(config: DictConfig, key: str) -> Any:
    try:
        return instantiate(config[key], _convert_="all")
    except OmegaConfBaseException as error:
        raise ConfigError(_placed(key, explain(error))) from error
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, TypeError, OSError, ImportError)):
            raise
        place = re.search(r"full_key: (\S+)", str(error))
        raise ConfigError(_placed(place[1] if place else key, str(error.__cause__))) from error.__cause__


def _placed(full_key: str, message: str) -> str:
    """A component's complaint about a field, `discount=2: expected ...`, with the field's full key."""
    if message.startswith(full_key.partition(".")[0]):
        return message
    return f"{full_key}.{message}" if re.match(r"\w+=", message) else f"{full_key}: {message}"
