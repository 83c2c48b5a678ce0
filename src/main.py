"""Entry point: `python src/main.py algo=gtpo reward.shaping=true`; `--help` lists the groups and their options."""

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Everything is imported inside the functions: the process that grades answers imports this file too, and needs
# nothing of it.


def job(config: "DictConfig") -> None:
    """One run; Hydra calls it once, or once for every combination of a multirun."""
    from turnwise.config.errors import clean_exit
    from turnwise.config.launch import launch

    with clean_exit():
        launch(config)


def main() -> None:
    """Composes the configuration from `conf/` and the command line, then runs it."""
    heeds_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeds_ctrl_c:
        signal.signal(signal.SIGINT, _end)
    import hydra

    from turnwise.config.errors import clean_exit
    from turnwise.config.label import register_label
    from turnwise.config.options import CONF_DIR, register_help
    from turnwise.config.schema import register_schemas
    from turnwise.ranks import joined

    with clean_exit(job=job.__code__), joined() as ranks:
        register_label(ranks.started)
        register_help()
        register_schemas()
        if heeds_ctrl_c:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job)()


def _end(*_: object) -> None:
    """Ctrl-C while packages are imported, some of which turn KeyboardInterrupt into errors of their own."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
