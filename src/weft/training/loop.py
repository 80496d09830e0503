"""The training loop: segments in, a better model out.

Recurrent state is carried, detached, from each segment to the next of its lane (Transformer-XL style); the stream's
resets say where a document begins. The best model by validation is written to the run directory as it appears.
Shapes: B lanes, T positions of a segment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weft.data import IGNORED, PreparedData, TrainingStream, open_stream
from weft.errors import UserError
from weft.evaluation.evaluate import total_nats
from weft.evaluation.figures import figures
from weft.evaluation.scoring import first_part, score
from weft.folder import WEIGHTS, save_weights
from weft.generation import Sampling, generate
from weft.layers.state import detach
from weft.model import ModelState, WeftModel
from weft.peers import LanguageModel
from weft.training.listener import Listener, Metrics, Status
from weft.training.optimizer import ExponentialAverage, make_optimizers, set_learning_rate
from weft.training.parallel import Processes, whole
from weft.training.precision import use_bf16
from weft.training.recipe import TrainingConfig
from weft.training.schedule import learning_rate_factor, progress
from weft.training.snapshot import save_snapshot

MOST_BAD_STEPS = 5
SAMPLE_TOKENS = 64


@dataclass
class _Carried:
    """Holds the state on its way through a wrapper, which would take tuples of tensors apart."""

    state: ModelState | None


class _Step(nn.Module):
    """The loss as a forward pass, which is what wrappers for several processes synchronise."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, reset: Tensor, carried: _Carried) -> Tensor:
        loss, carried.state = self.model.loss(tokens, targets, carried.state, reset)
        return loss

    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: ModelState | None, reset: Tensor
    ) -> tuple[Tensor, ModelState]:
        """Score with the model, whose parameters may be in shards."""
        assert isinstance(self.model, WeftModel), "a peer is scored by its own method"
        return self.model.surprisal(tokens, targets, state, reset)


class Trainer:
    """One run's moving parts. All that :meth:`run` changes is in its checkpoints (:mod:`weft.training.snapshot`).

    With several processes, ``config.lanes`` are those of each; all draw the same conclusions from the same sums.
    Call :meth:`wrap` once the model has the weights to start from.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: LanguageModel,
        prepared: PreparedData,
        run: Path,
        listener: Listener,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.model, self.prepared, self.folder = config, model, prepared, run
        self.listener, self.metrics = listener, Metrics(run, tensorboard=config.tensorboard)
        self.processes = processes or Processes()
        self.main, self.device = self.processes.main, self.processes.device
        self.bf16 = use_bf16(config.precision, self.device)
        torch.manual_seed(config.seed + 1000 * self.processes.rank)
        self.stream = self.open_stream(None)
        self.state: ModelState | None = None
        self.step = self.tokens = self.bad_steps = self.best_step = 0
        self.seconds, self.best, self.validation = 0.0, math.inf, math.nan
        self.gradient_norm = 0.0
        self.validation_split = first_part(prepared.validation, config.validation_tokens, prepared.tokenizer)
        self.recent: list[tuple[float, float]] = []  # (loss, seconds) since the last log line
        self.stop_requested = False

    def request_stop(self) -> None:
        """Let :meth:`run` end after the present step."""
        self.stop_requested = True

    def open_stream(self, state: Any) -> TrainingStream:
        """Return the training segments from where ``state`` stands (None: from the start)."""
        return open_stream(
            self.prepared,
            lanes=self.config.lanes,
            length=self.config.length,
            seed=self.config.seed,
            predict_boundary=self.config.predict_boundary,
            rank=self.processes.rank,
            world_size=self.processes.count,
            state=state,
        )

    def wrap(self) -> None:
        """Put the model on its device and make optimizers and averages of the parameters that it now has."""
        self.module = self.processes.wrap(_Step(self.model), self.model.blocks)
        self.optimizers = make_optimizers(self.model, self.config)
        self.average = ExponentialAverage(self.model, self.config.ema) if self.config.ema else None

    @property
    def scorer(self) -> nn.Module:
        """What :func:`weft.evaluation.scoring.score` takes: the model, or the module that gathers its shards."""
        return self.module if self.processes.sharded else self.model

    @property
    def done(self) -> float:
        """The part of the budget that is used."""
        return progress(self.config, steps=self.step, tokens=self.tokens, seconds=self.seconds)

    @property
    def bits_per_nat(self) -> float:
        """From nats per token to bits per byte of the training text."""
        train = self.prepared.train
        return train.scored_tokens / train.bytes / math.log(2)

    def run(self) -> bool:
        """Train until the budget is used (True) or a stop is requested (False); either way a checkpoint is left."""
        stop = False
        while self.done < 1 and not stop:
            before = self.done
            started = time.perf_counter()
            loss = self._update(learning_rate_factor(self.config, before) * self.config.learning_rate)
            taken = self.processes.most(time.perf_counter() - started)[0]
            self.seconds += taken
            self._log(loss, taken)
            stop = self.processes.most(float(self.stop_requested))[0] > 0  # all at the same step
            if _crossed(before, self.done, self.config.validations) or self.done >= 1:
                self._validate()
            if _crossed(before, self.done, self.config.samples):
                self._sample()
            if self.step % self.config.checkpoint_every == 0 and self.done < 1:
                save_snapshot(self)
        save_snapshot(self)
        return self.done >= 1

    def _update(self, learning_rate: float) -> float:
        """Take one optimizer step over ``accumulation`` segments; return the mean loss."""
        set_learning_rate(self.optimizers, learning_rate)
        self.module.train()
        total = 0.0
        for _ in range(self.config.accumulation):
            loss = self._segment_loss() / self.config.accumulation
            torch.autograd.backward(loss)
            total += self.processes.total(loss.item())[0] / self.processes.count
        self.gradient_norm = float(whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)))
        if math.isfinite(total) and math.isfinite(self.gradient_norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self.bad_steps = 0
        else:
            self._skip(total)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model)
        self.step += 1
        return total

    def _segment_loss(self) -> Tensor:
        """Return the loss of the next segment; its mean over the processes is that of all their targets."""
        segment = next(self.stream)
        tokens, targets, reset = (torch.from_numpy(part).to(self.device) for part in segment)
        self.tokens += tokens.numel() * self.processes.count
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            carried = _Carried(self.state)
            loss = self.module(tokens, targets, reset, carried)
        self.state = detach(carried.state) if self.config.carry_state else None
        assert isinstance(loss, Tensor)
        if self.processes.count == 1:
            return loss
        scored = float((segment.targets_BT != IGNORED).sum())
        share = scored * self.processes.count / max(1.0, self.processes.total(scored)[0])
        return loss.mul(share)

    def _skip(self, loss: float) -> None:
        """Leave the weights alone after a loss or gradient that is not finite; give up after several in a row."""
        self.state = None
        self.bad_steps += 1
        self._event({"event": "skipped", "step": self.step + 1, "loss": str(loss)})
        if self.bad_steps >= MOST_BAD_STEPS:
            raise UserError(
                f"The loss was not finite {MOST_BAD_STEPS} times in a row at step {self.step}: start again with a "
                f"lower learning rate (--set training.learning_rate={self.config.learning_rate / 3:.2g}) or more "
                "warm-up; the best model so far is kept."
            )

    def _log(self, loss: float, seconds: float) -> None:
        if math.isfinite(loss):
            self.recent.append((loss, seconds))
        if not self.recent:
            return
        per_step = self.config.lanes * self.config.length * self.config.accumulation * self.processes.count
        speed = per_step * len(self.recent) / sum(taken for _, taken in self.recent)
        mean = sum(loss for loss, _ in self.recent) / len(self.recent)
        bits = mean * self.bits_per_nat
        self.listener.status(Status(self.step, self.done, self.seconds, speed, bits, self.validation, self.best))
        if len(self.recent) < self.config.log_every and self.done < 1:
            return
        self._event(
            {
                "event": "train",
                "step": self.step,
                "tokens": self.tokens,
                "seconds": round(self.seconds, 3),
                "epoch": round(self.stream.epoch, 4),
                "loss": mean,
                "bits_per_byte": bits,
                "learning_rate": self.optimizers[0].param_groups[0]["lr"],
                "tokens_per_second": round(speed, 1),
                "gradient_norm": self.gradient_norm,
            }
        )
        self.recent.clear()

    def _validate(self) -> None:
        """Score the validation text; keep the model in the run directory if it is the best so far."""
        split = self.validation_split
        with self._averaged():
            nats = score(self.scorer, split, boundary_id=self.prepared.tokenizer.boundary_id)
            self.validation = self.processes.of_main(figures(total_nats(nats), split, 0.0).bits_per_byte)
            best = self.validation < self.best
            if best:
                self.best, self.best_step = self.validation, self.step
                weights = {name: whole(parameter.detach()) for name, parameter in self.model.named_parameters()}
                if self.main:
                    save_weights(weights, self.folder / WEIGHTS)
            self._event(
                {
                    "event": "validation",
                    "step": self.step,
                    "tokens": self.tokens,
                    "seconds": round(self.seconds, 3),
                    "bits_per_byte": self.validation,
                    "best": best,
                }
            )

    def _sample(self) -> None:
        """Let the model write a little, from nothing (not from shards: each token would gather them all)."""
        if self.processes.sharded:
            return
        how = Sampling(seed=1)
        with self._averaged():
            text = generate(self.model, self.prepared.tokenizer, [""], max_new_tokens=SAMPLE_TOKENS, sampling=how)[0]
        self._event({"event": "sample", "step": self.step, "prompt": "", "text": text})

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the averaged weights, where there are any."""
        if self.average:
            self.average.swap(self.model)
        try:
            yield
        finally:
            if self.average:
                self.average.swap(self.model)

    def _event(self, record: dict[str, Any]) -> None:
        if self.main:
            self.metrics.write(record)
            self.listener.event(record)


def _crossed(before: float, after: float, parts: int) -> bool:
    """Tell whether one of ``parts`` equal marks lies between ``before`` and ``after``."""
    return parts > 0 and math.floor(after * parts + 1e-9) > math.floor(before * parts + 1e-9)
