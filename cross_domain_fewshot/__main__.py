"""python -m cross_domain_fewshot --method lft_evograd --unseen icons --seed 1 --preset quick"""

from common.command import run_command
from cross_domain_fewshot.config import EXPERIMENT

if __name__ == "__main__":
    run_command(EXPERIMENT.main)
