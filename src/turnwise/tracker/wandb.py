"""Weights & Biases beside the run's own files; offline where there is no login."""

import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from turnwise.protocols import PGK, Metrics, Tracker
from turnwise.tracker.external import beside_files, keep_run_id, kept_run_id
from turnwise.tracker.files import Files, FilesTracker
from turnwise.types import ScoredGroup


class WandbMode(StrEnum):
    """Where the figures go: `auto` is online with a login and offline without; offline runs wait for `wandb sync`."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Sends a run's figures to Weights & Biases as well; the run's own files are written all the same."""

    project: str = "turnwise"
    """Project that the run appears in."""
    entity: str | None = None
    """User or team that owns the project; None is the login's own default."""
    mode: WandbMode = WandbMode.auto
    """Online, offline, disabled, or whichever of the first two fits this machine."""
    finish_timeout_s: int = 300
    """Seconds that the end of a run waits for its last figures to arrive; they stay on disk for `wandb sync`."""
    save_groups_every: int = 1
    """Steps between trajectory bundles in the run's folder; 0 keeps none."""

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("tracker.project is empty: expected the name of a wandb project")
        if self.finish_timeout_s < 1:
            raise ValueError(f"tracker.finish_timeout_s={self.finish_timeout_s}: expected >= 1")
        Files(save_groups_every=self.save_groups_every)

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        """Opens the run's files and the wandb run `label` with the resolved `config`."""
        mode = resolve_mode(self.mode)
        if mode is WandbMode.disabled:
            return FilesTracker(run_dir, first_step, self.save_groups_every)
        is_online = mode is WandbMode.online
        return beside_files(
            "wandb",
            lambda: WandbTracker(
                run_dir, first_step, self.project, self.entity, is_online, self.finish_timeout_s, label, config
            ),
            run_dir,
            first_step,
            self.save_groups_every,
        )


class WandbTracker:
    """Logs figures to one wandb run, whose files lie under `run_dir`/wandb.

    Its id is drawn once and kept in `run_dir`/wandb/run_id, so that a resumed run continues the same one; wandb
    ignores steps that it already holds. Trajectories are not uploaded.

    Args:
        run_dir: The run's folder; must exist.
        first_step: The first step that this start will log; above 0, the earlier wandb run goes on.
        project: The wandb project.
        entity: Its owner; None is the login's default.
        is_online: Whether it goes to the server at once; otherwise `wandb sync` takes it there later.
        finish_timeout_s: Seconds to wait at the end for what has not arrived.
        label: The run's name; runs of the same label form a wandb group.
        config: The resolved configuration.
    """

    def __init__(
        self,
        run_dir: Path,
        first_step: int,
        project: str,
        entity: str | None,
        is_online: bool,
        finish_timeout_s: int,
        label: str,
        config: Mapping[str, Any],
    ) -> None:
        import wandb

        id_file = run_dir / "wandb" / "run_id"
        kept = kept_run_id(id_file, first_step)
        self.run_id = kept or uuid.uuid4().hex[:12]
        keep_run_id(id_file, self.run_id)
        self._run = wandb.init(
            dir=run_dir,
            project=project,
            entity=entity,
            mode="online" if is_online else "offline",
            id=self.run_id,
            resume="allow" if kept and is_online else None,
            name=label,
            group=label,
            config=dict(config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                finish_timeout=finish_timeout_s,
                finish_timeout_raises=True,
            ),
        )

    def log(self, metrics: Metrics, step: int) -> None:
        """Records the figures of a step; those of several calls for one step are merged."""
        self._run.log(dict(metrics), step=step)

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Does nothing: trajectories stay in the run's folder."""

    def close(self) -> None:
        """Writes what is pending and ends the run, as failed inside the handling of an error; safe to call twice."""
        import wandb

        try:
            self._run.finish(exit_code=int(isinstance(sys.exception(), Exception)))
        except ConnectionError:  # its process is gone: neither the next run nor the end of ours may look for it
            with suppress(ConnectionError):
                wandb.teardown()
            raise


def resolve_mode(mode: WandbMode) -> WandbMode:
    """What `auto` stands for on this machine: WANDB_MODE when set, else online with a login and offline without."""
    if mode is not WandbMode.auto:
        return mode
    if wish := os.environ.get("WANDB_MODE"):
        if wish not in set(WandbMode) - {WandbMode.auto}:
            raise ValueError(f"WANDB_MODE={wish}: expected online, offline or disabled")
        return WandbMode(wish)
    return WandbMode.online if _has_login() else WandbMode.offline


def _has_login() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        logins = netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser())
    except (OSError, NetrcParseError):
        return False
    return host is not None and logins.authenticators(host) is not None
