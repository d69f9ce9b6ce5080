"""Run as `python jobs/tune.py ...` or `ray job submit -- python jobs/tune.py ...`."""

import sys

from fattr.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("tune", sys.argv[1:]))
