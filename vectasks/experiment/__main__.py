"""``python -m vectasks.experiment JOB_FOLDER ...``: execute a job. See ``job_process.py``."""

import sys

from vectasks.experiment.job_process import main

if __name__ == "__main__":
    sys.exit(main())
