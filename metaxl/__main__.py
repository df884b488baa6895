"""python -m metaxl --method evograd --target quy --seed 1 --preset quick"""

from common.cli import parse_settings
from common.command import run_command
from metaxl.config import PRESETS

DESCRIPTION = "Learns to transform a source language's representations for a target language."


def main() -> None:
    config = parse_settings(PRESETS, DESCRIPTION)
    # The transformers library takes seconds to import: only a run needs it.
    from metaxl.train import run

    record = run(config)
    final = ", ".join(f"{name} {value:.4g}" for name, value in record.final.items())
    print(f"{config.run_name()}: {final}")


if __name__ == "__main__":
    run_command(main)
