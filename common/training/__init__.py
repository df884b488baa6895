"""Parts of a training: device, seeds, batches, meta step, states, cost."""

from common.training.batches import EndlessBatches, EpochBatches
from common.training.cost import Cost, TensorMemory, live_tensor_bytes, measure
from common.training.device import choose_device, configure, new_generator, seed_everything
from common.training.meta import MetaStep
from common.training.state import Best, Part, restore, state_of

__all__ = [
    "Best", "Cost", "EndlessBatches", "EpochBatches", "MetaStep", "Part", "TensorMemory",
    "choose_device", "configure", "live_tensor_bytes", "measure",
    "new_generator", "restore", "seed_everything", "state_of",
]  # fmt: skip
