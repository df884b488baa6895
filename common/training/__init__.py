"""Training utilities: device, seeds, batches, the loop, checkpoints, cost."""

from common.training.batches import EndlessBatches, EpochBatches, GeneratorState
from common.training.checkpoints import check_same_settings, load_checkpoint, save_checkpoint
from common.training.cost import Cost, TensorMemory, live_tensor_bytes, measure
from common.training.device import autocast, choose_device, configure
from common.training.loop import History, Task, fit, metrics_lines
from common.training.meta import MetaStep
from common.training.seeds import derived_seed, new_generator, seed_everything
from common.training.state import Best, restore, state_of

__all__ = [
    "Best",
    "Cost",
    "EndlessBatches",
    "EpochBatches",
    "GeneratorState",
    "History",
    "MetaStep",
    "Task",
    "TensorMemory",
    "autocast",
    "check_same_settings",
    "choose_device",
    "configure",
    "derived_seed",
    "fit",
    "live_tensor_bytes",
    "load_checkpoint",
    "measure",
    "metrics_lines",
    "new_generator",
    "restore",
    "save_checkpoint",
    "seed_everything",
    "state_of",
]
