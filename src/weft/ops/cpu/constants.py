"""Numbers that the kernels and who calls them agree on; nothing here imports Numba."""

from weft.ops.cpu.processor import vector

VECTOR = vector()  # float32 numbers of a register, worked on at once: 8 or 16
CHUNK = 16  # steps between the cells that pooling keeps for its backward pass
KINDS = {"f": 0, "fo": 1, "ifo": 2}  # of pooling
EVENING = 0.05  # the weight of a new mean square in NorMuon's v
LEAST_NORM = 1e-7  # of a matrix whose norm is divided by
