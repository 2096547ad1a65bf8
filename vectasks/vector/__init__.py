"""The vectors of task samplers that users hold, and their public methods."""

from vectasks.vector.api import BaseVectorSampledTasks
from vectasks.vector.classes import SingleProcessVectorSampledTasks, VectorSampledTasks

__all__ = ["BaseVectorSampledTasks", "SingleProcessVectorSampledTasks", "VectorSampledTasks"]
