"""The recurrence, as one operator. Nothing here knows a model."""

from weft.ops.recurrence import linear_recurrence
from weft.ops.reference import linear_recurrence_reference

__all__ = ["linear_recurrence", "linear_recurrence_reference"]
