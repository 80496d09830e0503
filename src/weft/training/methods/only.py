"""Lightweight tuning of matrix products (as in MPOP, Liu et al. 2021, arXiv 2106.02205): most parameters stay.

Of the blocks everything learns but the central tensors, which hold most of the parameters; nothing outside
the blocks learns.
"""

from __future__ import annotations

from typing import Literal

from weft.errors import UserError
from weft.language_model import LanguageModel
from weft.layers.matrix_product import is_central
from weft.training.hooks import Hook
from weft.training.methods import MethodConfig
from weft.training.parallel import Processes


class OnlyConfig(MethodConfig):
    """Which parameters learn: ``auxiliary``, of blocks all but the central tensors of matrix products."""

    parameters: Literal["auxiliary"]

    def build(self, model: LanguageModel, processes: Processes) -> Only:
        """Return the hook; UserError for a model without matrix products."""
        del processes
        return Only(model)


class Only(Hook):
    """Freezes all parameters but the auxiliary ones."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        if not any(is_central(name) for name, _ in model.named_parameters()):
            raise UserError(
                "training.methods.only is for matrix products, and this model has none: start from what weft tensorise "
                "makes, or leave it out."
            )

    def prepare(self) -> None:
        """Let only the auxiliary parameters have gradients."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith("blocks.") and not is_central(name))
