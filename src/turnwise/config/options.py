"""The config groups as a user sees them: the YAML files below `conf/`."""

from pathlib import Path
from textwrap import fill

from omegaconf import OmegaConf

CONF_DIR = Path(__file__).resolve().parents[3] / "conf"
"""The folder of the groups, beside `src/`."""


def option_groups() -> dict[str, list[str]]:
    """Every config group with its options, in alphabetical order: `{"reward": ["outcome", "turn_level"], ...}`."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONF_DIR.rglob("*.yaml")):
        if group := path.parent.relative_to(CONF_DIR).as_posix().removeprefix("."):
            groups.setdefault(group, []).append(path.stem)
    return groups


def about_option(group: str, option: str) -> str:
    """What an option says of itself: the first comment of its file that is none of Hydra's; may be empty."""
    path = CONF_DIR / group / f"{option}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")), "")


def _groups_page() -> str:
    return "\n".join(
        fill(", ".join(options), width=100, initial_indent=f"  {group:18} ", subsequent_indent=" " * 21)
        for group, options in option_groups().items()
    )


def register_help() -> None:
    """Lets the help template in `conf/config.yaml` list the groups: `${option_groups:}`."""
    OmegaConf.register_new_resolver("option_groups", _groups_page, replace=True)
