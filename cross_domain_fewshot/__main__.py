"""python -m cross_domain_fewshot --method lft_evograd --unseen icons --seed 1 --preset quick"""

from common.command import run_command
from common.experiment import load_experiment

if __name__ == "__main__":
    run_command(lambda: load_experiment("cross_domain_fewshot").main())
