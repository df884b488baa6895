"""python -m cross_domain_fewshot --method lft_evograd --unseen icons --seed 1 --preset quick"""

from common.cli import parse_settings
from common.command import run_command
from cross_domain_fewshot.config import PRESETS
from cross_domain_fewshot.train import run

DESCRIPTION = "Learns feature-wise transformations that carry a few-shot learner to a new domain."


def main() -> None:
    config = parse_settings(PRESETS, DESCRIPTION)
    record = run(config)
    final = ", ".join(f"{name} {value:.4g}" for name, value in record.final.items())
    print(f"{config.run_name()}: {final}")


if __name__ == "__main__":
    run_command(main)
