"""Run as `python jobs/train.py ...` or `ray job submit -- python jobs/train.py ...`."""

import sys

from fattr.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("train", sys.argv[1:]))
