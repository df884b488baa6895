"""python -m rotation --method evograd --seed 1 --preset quick"""

from common.cli import run_command
from rotation.config import EXPERIMENT

if __name__ == "__main__":
    run_command(EXPERIMENT.main)
