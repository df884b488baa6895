"""python -m toy_1d"""

from common.cli import parse_settings, run_command
from toy_1d.config import PRESETS
from toy_1d.train import run

DESCRIPTION = "EvoGrad's hypergradient beside the exact one, in one dimension. Takes seconds."


def main() -> None:
    record = run(parse_settings(PRESETS, DESCRIPTION))
    for name, value in record.final.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    run_command(main)
