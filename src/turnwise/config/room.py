"""What can never fit, whatever else a run takes, is refused before anything loads; `mode=doctor` estimates the rest."""

import shutil
from pathlib import Path

import torch

from turnwise.config.doctor.sizing import Sized
from turnwise.config.errors import ConfigError
from turnwise.config.parts import Components
from turnwise.model.memory import FLOAT32_BYTES, GIB
from turnwise.preflight.memory import total_bytes
from turnwise.ranks import Ranks
from turnwise.trainer_settings import ShardedTrainerSettings


def check_room(components: Components, run_dir: Path, device: torch.device, ranks: Ranks) -> None:
    """Compares what is known exactly with all that there is: weights, gradients and moments; one checkpoint.

    Raises:
        ConfigError: The device's memory, or the disk of `run_dir`, holds less.
    """
    sized, trainer = Sized.of(components), components.trainer
    estimate = sized.memory(components)
    is_sharded = isinstance(trainer, ShardedTrainerSettings)
    if not (is_sharded and trainer.cpu_offload):
        num_shards = (trainer.shard_size or ranks.count) if is_sharded else 1
        trained = (estimate.weights + estimate.gradients + estimate.optimiser + estimate.reference) / num_shards
        needed = trained * (ranks.local_count if device.type == "cpu" else 1)  # whose ranks have one memory
        if needed > (has := total_bytes(device)):
            raise ConfigError(
                f"model.path={components.model.path}: weights, gradients and optimiser alone take {needed / GIB:.1f} "
                f"GiB, and this {device.type} has {has / GIB:.1f}: mode=doctor names settings that fit"
            )
    num_trained = sized.shape.num_parameters if sized.num_trained is None else sized.num_trained
    checkpoint = (sized.shape.num_parameters + 2 * num_trained) * FLOAT32_BYTES
    if ranks.is_first and checkpoint > (left := shutil.disk_usage(run_dir).free):
        raise ConfigError(
            f"hydra.run.dir={run_dir}: a checkpoint takes {checkpoint / GIB:.3f} GiB, and its disk has "
            f"{left / GIB:.3f} left"
        )
