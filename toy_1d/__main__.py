"""python -m toy_1d"""

from common.command import run_command
from common.experiment import load_experiment

if __name__ == "__main__":
    run_command(lambda: load_experiment("toy_1d").main())
