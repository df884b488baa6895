"""python -m metaweightnet --method evograd --seed 1 --preset quick"""

from common.cli import parse_settings
from common.command import run_command
from metaweightnet.config import PRESETS
from metaweightnet.train import run

DESCRIPTION = "Learns the weights of noisily labelled CIFAR images from a few clean ones."


def main() -> None:
    config = parse_settings(PRESETS, DESCRIPTION)
    record = run(config)
    final = ", ".join(f"{name} {value:.4g}" for name, value in record.final.items())
    print(f"{config.run_name()}: {final}")


if __name__ == "__main__":
    run_command(main)
