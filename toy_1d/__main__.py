"""python -m toy_1d"""

from common.cli import run_command
from toy_1d.config import EXPERIMENT

if __name__ == "__main__":
    run_command(EXPERIMENT.main)
