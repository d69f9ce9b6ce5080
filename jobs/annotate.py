"""Run as `python jobs/annotate.py ...` or `ray job submit -- python jobs/annotate.py ...`."""

import sys

from fattr.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("annotate", sys.argv[1:]))
