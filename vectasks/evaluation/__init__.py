"""Evaluation that survives interruption: batches of jobs, and exactly so many episodes."""

from vectasks._util.extras import require

require("pydantic", "evaluation", "vectasks.evaluation")  # before our modules ask for it

from vectasks.evaluation.batch_runner import BatchProgress, BatchRunner  # noqa: E402
from vectasks.evaluation.exact_episodes import (  # noqa: E402
    EpisodeResult,
    EvaluationReport,
    evaluate,
)
from vectasks.evaluation.job_records import (  # noqa: E402
    BatchJob,
    BatchRunRecord,
    RunStatus,
    read_jobs,
)
from vectasks.evaluation.manifest import BatchManifest  # noqa: E402
from vectasks.evaluation.report import write_report  # noqa: E402
from vectasks.evaluation.statistics import Aggregate, Interval, aggregate  # noqa: E402

__all__ = [
    "Aggregate",
    "BatchJob",
    "BatchManifest",
    "BatchProgress",
    "BatchRunRecord",
    "BatchRunner",
    "EpisodeResult",
    "EvaluationReport",
    "Interval",
    "RunStatus",
    "aggregate",
    "evaluate",
    "read_jobs",
    "write_report",
]
