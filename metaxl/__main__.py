"""python -m metaxl --method evograd --target quy --seed 1 --preset quick"""

from common.command import run_command
from common.experiment import load_experiment

if __name__ == "__main__":
    run_command(lambda: load_experiment("metaxl").main())
