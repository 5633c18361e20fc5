"""Trains a reward model: `python train.py model=gptj loss=bt strategy=deepspeed`. The same as `rmlab train ...`."""

import sys

from rmlab.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
