"""python -m rotation --method evograd --seed 1 --preset quick"""

from common.cli import parse_settings, run_command
from rotation.config import PRESETS
from rotation.train import run

DESCRIPTION = "Learns to rotate MNIST's training images so that they fit a rotated validation set."


def main() -> None:
    config = parse_settings(PRESETS, DESCRIPTION)
    record = run(config)
    final = ", ".join(f"{name} {value:.2f}" for name, value in record.final.items())
    print(f"{config.run_name()}: {final}")


if __name__ == "__main__":
    run_command(main)
