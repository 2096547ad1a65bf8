"""``python -m vectasks.experiment JOB_FOLDER ...``: execute a job. See ``runner.py``."""

import sys

from vectasks.experiment.runner import main

if __name__ == "__main__":
    sys.exit(main())
