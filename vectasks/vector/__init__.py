"""What users hold: vectors of task samplers, and their public methods."""

from vectasks.vector.api import BaseVectorSampledTasks
from vectasks.vector.classes import SingleProcessVectorSampledTasks, VectorSampledTasks

__all__ = ["BaseVectorSampledTasks", "SingleProcessVectorSampledTasks", "VectorSampledTasks"]
