"""The recurrence and a QRNN's pooling, each as one operator with several forms. Nothing here knows a model."""

from weft.ops.gates import GATES, Pooling
from weft.ops.pooling import can_fuse, fused_pooling
from weft.ops.recurrence import linear_recurrence
from weft.ops.reference import linear_recurrence_reference, pooling_reference

__all__ = [
    "GATES",
    "Pooling",
    "can_fuse",
    "fused_pooling",
    "linear_recurrence",
    "linear_recurrence_reference",
    "pooling_reference",
]
