"""Look inside a model, and change what flows through it: sites, traces, edits, shifted states."""

from weft.inside.states import shift_state as shift_state
from weft.layers.sites import Edits as Edits
from weft.model import WeftModel
from weft.tracing import Piece as Piece
from weft.tracing import Site as Site


def sites(model: WeftModel) -> list[Site]:
    """Return what can be looked at in ``model``: name, depth, shape and block of each site, by depth."""
    return model.sites()
