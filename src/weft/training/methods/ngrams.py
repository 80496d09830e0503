"""What latent bigrams (:mod:`weft.layers.ngrams`) need beside the gradient: moving centroids, and a rate of their own.

Centroids follow the vectors of the tokens that are read. Most rows of the tables are read rarely: they do not
decay, and learn at ``rate`` times the learning rate. Without latent bigrams in the model there is nothing to
do.
"""

from __future__ import annotations

from typing import Any

from weft.language_model import LanguageModel
from weft.numbers import Rate
from weft.training.hooks import Hook
from weft.training.methods import MethodConfig
from weft.training.optimizer import RATE
from weft.training.parallel import Processes
from weft.training.prefetch import Batch


class NGramsTrainingConfig(MethodConfig):
    """How latent bigrams learn: ``rate`` is the learning rate of their tables, by that of the rest."""

    rate: Rate = 1.0

    def build(self, model: LanguageModel, processes: Processes) -> NGrams:
        """Return the hook."""
        return NGrams(model, self, processes)


class NGrams(Hook):
    """Moves the centroids of ``model`` and gives its tables a parameter group."""

    def __init__(self, model: LanguageModel, config: NGramsTrainingConfig, processes: Processes) -> None:
        self.model = model
        self.config = config
        self.processes = processes

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the group of the tables."""
        return [{"params": self.model.lookup_tables(), "weight_decay": 0.0, RATE: self.config.rate}]

    def after_segment(self, batch: Batch) -> None:
        """Move the centroids towards the tokens that all processes have read."""
        self.model.observe(batch.tokens_BT, self.processes.summed)
