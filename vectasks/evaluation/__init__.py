"""Evaluation that survives interruption: batches of jobs, and exactly so many episodes."""

from vectasks.extras import require

require("pydantic", "evaluation", "vectasks.evaluation")
