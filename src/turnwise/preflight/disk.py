"""What a run will write fits on the disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from turnwise.preflight.finding import Finding

GIB = 2**30
BUNDLE_BYTES_PER_TOKEN = 12
"""Of a compressed bundle, for each token of a trajectory: ids, log-probs of sampler and trainer, text."""
TIGHT = 0.8
"""Share of what is left that may be needed without a word."""


@dataclass(frozen=True, kw_only=True)
class Writes:
    """Bytes that a run writes at most into its folder."""

    checkpoint: int
    num_checkpoints: int
    """That lie there at one time, the one that is being written included."""
    bundles: int

    @property
    def total(self) -> int:
        """Of all together."""
        return self.checkpoint * self.num_checkpoints + self.bundles


def num_checkpoints(*, num_steps: int, save_every: int, keep: int) -> int:
    """How many checkpoints lie in a run's folder at one time: those kept, the best, and one that is being written."""
    written = -(-num_steps // save_every)
    return max(1, min(written, keep + 2) if keep else written)


def check_disk(folder: Path, writes: Writes, finding: Finding, *, is_here: bool = True) -> None:
    """Compares what a run writes at most with what is left where it writes it.

    Args:
        folder: Of the run; exists.
        writes: Estimated.
        finding: Where to say it.
        is_here: Whether the run will be on this machine; if not, only what it needs is said.
    """
    left = shutil.disk_usage(folder).free
    finding.note(
        f"at most {writes.total / GIB:.2f} GiB: {writes.num_checkpoints} checkpoints of {writes.checkpoint / GIB:.2f}, "
        f"bundles and evaluations {writes.bundles / GIB:.2f}"
    )
    if not is_here:
        finding.note("the run is meant for another machine: see that its disk has as much")
        return
    line = f"{folder} has {left / GIB:.2f} GiB left"
    remedy = (
        "another hydra.run.dir, or less to write: smaller trainer.keep_checkpoints (0 keeps all), "
        "larger tracker.save_groups_every"
    )
    if writes.total > left:
        finding.fail(f"{line}, which is not enough", remedy)
    elif writes.total > TIGHT * left:
        finding.warn(f"{line}, which is hardly more", remedy)
    else:
        finding.note(line)
