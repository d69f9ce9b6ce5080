"""Run as `python jobs/evaluate.py ...` or `ray job submit -- python jobs/evaluate.py ...`."""

import sys

from fattr.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("evaluate", sys.argv[1:]))
