"""Training utilities: device, seeds, batches, the loop, checkpoints, cost."""

from common.training.batches import EndlessBatches, EpochBatches
from common.training.checkpoints import (
    CHECKPOINT,
    check_same_settings,
    checkpoint_threads,
    load_checkpoint,
    save_checkpoint,
)
from common.training.cost import Cost, TensorMemory, live_tensor_bytes, measure
from common.training.device import autocast, choose_device, configure
from common.training.loop import History, Task, fit
from common.training.meta import MetaStep
from common.training.metrics_log import METRICS, metrics_lines, progress
from common.training.seeds import derived_seed, new_generator, seed_everything
from common.training.state import Best, Part, restore, state_of

__all__ = [
    "CHECKPOINT", "METRICS", "Best", "Cost", "EndlessBatches", "EpochBatches", "History",
    "MetaStep", "Part", "Task", "TensorMemory", "autocast", "check_same_settings",
    "checkpoint_threads", "choose_device", "configure", "derived_seed", "fit",
    "live_tensor_bytes", "load_checkpoint", "measure", "metrics_lines", "new_generator", "progress",
    "restore", "save_checkpoint", "seed_everything", "state_of",
]  # fmt: skip
