"""The training loop: segments in, a better model out.

Recurrent state is carried, detached, from each segment to the next of its lane (Transformer-XL style); the stream's
resets say where a document begins. The best model by validation is written to the run directory as it appears.
Steps are queued (:mod:`weft.training.queue`): between two looks at their losses nothing waits for the device.
Shapes: B lanes, T positions of a segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from weft.data import IGNORED, PreparedData, TokenizedSplit, open_stream
from weft.errors import UserError
from weft.evaluation.evaluate import total_nats
from weft.evaluation.metrics import compute_metrics, unlike_training
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import score
from weft.generation import Sampling, generate
from weft.language_model import LanguageModel, Scorer, State
from weft.layers.maps import is_guide
from weft.layers.state import tensors
from weft.pretrained import WEIGHTS, save_weights
from weft.training.compilation import training_loss
from weft.training.listener import Listener, MetricsWriter, Status
from weft.training.methods.distillation import make_distillation
from weft.training.methods.guides import Guides
from weft.training.optimizer import ExponentialAverage, make_optimizers, set_learning_rate, train_auxiliaries
from weft.training.parallel import Processes, whole
from weft.training.precision import use_bf16
from weft.training.prefetch import Feed
from weft.training.queue import Queue, StepResult, longest_queue
from weft.training.recipe import TrainingConfig
from weft.training.schedule import learning_rate_factor, progress
from weft.training.snapshot import save_snapshot
from weft.training.step import (
    Loss,
    Step,
    apply_gradients,
    clear_if_,
    rebuild,
)
from weft.training.throughput import PaceCheck
from weft.training.validation import Sample, announced, choose_sample
from weft.words import valid_text

MOST_BAD_STEPS = 5
SAMPLE_TOKENS = 64


class Trainer:
    """One run's moving parts. All that :meth:`run` changes is in its checkpoints (:mod:`weft.training.snapshot`).

    With several processes, ``config.batch`` is that of each; all draw the same conclusions from the same sums.
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
        self.listener, self.metrics = listener, MetricsWriter(run, tensorboard=config.logging.tensorboard)
        self.processes = processes or Processes()
        self.main, self.device = self.processes.main, self.processes.device
        self.bf16 = use_bf16(config.precision, self.device)
        torch.manual_seed(config.seed + 1000 * self.processes.rank)
        self.stream = self.open_stream(None)
        self.step = self.tokens = self.bad_steps = self.best_step = 0
        self.saved_step = -1  # of the newest checkpoint
        self.seconds, self.best, self.validation = 0.0, math.inf, math.nan
        self.training_bits = math.nan  # of the steps since the last log line, not in checkpoints
        self.sample: Sample | None = None  # what is scored while training, once that is chosen
        self.validation_split: TokenizedSplit | None = None
        self.scoring_pace = math.nan  # seconds a token, of the fastest validation
        self.planned_pace: float | None = None  # tokens a second that the dial counted on
        self.recent: list[tuple[float, float]] = []  # (loss, seconds) since the last log line
        self.guides = Guides(model, config.guide, self.processes.count)
        self.distillation = make_distillation(model, config.teacher)
        self.queue = Queue(longest_queue(self.device, config.logging.log_every))
        self.stop_requested = False

    def request_stop(self) -> None:
        """Let :meth:`run` end after the present step (on a GPU, after the steps that are queued)."""
        self.stop_requested = True

    def forget_best(self) -> None:
        """Let the best model be that of the next validation, as the file of the one so far is lost."""
        self.best, self.best_step, self.saved_step = math.inf, 0, -1

    def open_stream(self, state: Any) -> Feed:
        """Return the training segments from where ``state`` stands (None: from the start)."""
        stream = open_stream(
            self.prepared,
            lanes=self.config.batch.batch_size,
            length=self.config.batch.sequence_length,
            seed=self.config.seed,
            predict_boundary=bool(self.config.predict_boundary),
            rank=self.processes.rank,
            world_size=self.processes.count,
            state=state,
        )
        return Feed(stream, self.device, ahead=self.device.type == "cuda")

    def wrap(self) -> None:
        """Put the model on its device and make optimizers and averages of the parameters that it now has."""
        self.model.to(self.device)
        if self.step == 0:
            self.guides.begin(self.device)
        if self.config.only == "auxiliary":
            train_auxiliaries(self.model)
        self.model.checkpoint_activations = self.config.checkpoint_activations
        self.empty = self.state = self._empty()
        loss: Loss = self.distillation.loss if self.distillation else self._own_loss()
        self.module = self.processes.wrap(Step(self.model, loss, self.empty), self.model.blocks)
        self.optimizers = make_optimizers(self.model, self.config)
        self.average = ExponentialAverage(self.model, self.config.ema) if self.config.ema else None

    def _empty(self) -> State:
        """Return the state at a text's start: the model's, or its and its teacher's."""
        with self._autocast():
            own = self.model.empty_state(self.config.batch.batch_size, self.device)
            if self.distillation is None:
                return own
            teacher = self.distillation.teacher.to(self.device)
            return own, teacher.empty_state(self.config.batch.batch_size, self.device)

    def _own_loss(self) -> Loss:
        """Return the model's loss, compiled where that is wanted."""
        return training_loss(
            self.model,
            self.config.compile,
            device=self.device,
            sharded=self.processes.sharded,
            attempt=self._attempt,
            say=self.listener.message,
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _attempt(self, loss: Loss) -> None:
        """Take a loss forwards and backwards on nothing, and leave no trace."""
        shape = (self.config.batch.batch_size, self.config.batch.sequence_length)
        tokens, targets = torch.zeros(2, *shape, dtype=torch.long, device=self.device).unbind()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self.model.train()
            with self._autocast():
                nats, _ = loss(tokens, targets, self.empty, tokens != 0)
            torch.autograd.backward(nats)
        self.model.zero_grad(set_to_none=True)

    @property
    def scorer(self) -> Scorer:
        """What :func:`weft.evaluation.scoring.score` takes: the model, or the module that gathers its shards."""
        return cast("Scorer", self.module) if self.processes.sharded else self.model

    @property
    def done(self) -> float:
        """The part of the budget that is used. The time of steps that are queued is estimated."""
        seconds = self.seconds + self.queue.expected_seconds
        return progress(self.config, steps=self.step, tokens=self.tokens, seconds=seconds)

    @property
    def bits_per_nat(self) -> float:
        """From nats per token to bits per byte of the training text."""
        train = self.prepared.train
        return train.scored_tokens / train.bytes / math.log(2)

    def run(self) -> bool:
        """Train until the budget is used (True) or a stop is requested (False); either way a checkpoint is left."""
        stop, seen = False, self.done  # what was used at the last look
        pace = PaceCheck(self.planned_pace)
        self._tell_pace(pace)
        self.queue.start_clock()
        try:
            if self.done >= 1 and not self.best_step:  # what was best is lost
                self._validate()
            while self.done < 1 and not stop:
                self._update(learning_rate_factor(self.config, self.done) * self.config.optimizer.learning_rate)
                if self._due(seen):
                    self._look()
                    self._tell_pace(pace)
                    stop = self.processes.most(float(self.stop_requested))[0] > 0  # all at the same step
                    self._pause(seen)
                    seen = self.done
                    self.queue.start_clock()
        finally:
            self.stream.close()
        save_snapshot(self)
        return self.done >= 1

    def _tell_pace(self, pace: PaceCheck) -> None:
        """Say it where the run turns out to be far off the plan."""
        news = pace.news(self.config, done=self.done, tokens=self.tokens, seconds=self.seconds)
        if news:
            self.listener.message(news)

    def _pause(self, seen: float) -> None:
        """Do what is due now that ``seen`` of the budget has become ``self.done``; it does not count as training."""
        if _crossed(seen, self.done, self.config.logging.validations) or self.done >= 1:
            self._validate()
        if _crossed(seen, self.done, self.config.logging.samples):
            self._sample()
        if self.step % self.config.logging.checkpoint_every == 0 and self.done < 1:
            save_snapshot(self)

    def _due(self, seen: float) -> bool:
        """Tell whether to wait for the device: for news, or for something to do with the weights as they are now."""
        return (
            self.queue.full
            or len(self.recent) + len(self.queue) >= self.config.logging.log_every
            or self.step % self.config.logging.checkpoint_every == 0
            or self.done >= 1
            or _crossed(seen, self.done, self.config.logging.validations)
            or _crossed(seen, self.done, self.config.logging.samples)
        )

    def _update(self, learning_rate: float) -> None:
        """Queue one optimizer step over ``accumulation`` segments."""
        set_learning_rate(self.optimizers, learning_rate)
        self.guides.advance(self.done, self.optimizers)
        self.module.train()
        total = torch.zeros((), device=self.device)
        for _ in range(self.config.batch.accumulation):
            loss = self._segment_loss() / self.config.batch.accumulation
            torch.autograd.backward(loss)
            total += loss.detach()
        total = self.processes.summed(total) / self.processes.count
        told = apply_gradients(self.model, self.optimizers, total, self.config.optimizer.clip)
        clear_if_(told[2], self.state)
        if self.average:
            self.average.update(self.model)
        self.step += 1
        self.queue.add(told)

    def _segment_loss(self) -> Tensor:
        """Return the loss of the next segment; its mean over the processes is that of all their targets."""
        batch = next(self.stream)
        self.tokens += batch.tokens_BT.numel() * self.processes.count
        with self._autocast():
            loss, *state = self.module(*batch, *tensors(self.state))
        self.model.observe(batch.tokens_BT, self.processes.summed)
        if self.config.carry_state:
            self.state = rebuild(self.empty, state)
        assert isinstance(loss, Tensor)
        if self.processes.count == 1:
            return loss
        scored = (batch.targets_BT != IGNORED).sum().to(torch.float32)
        share = scored * self.processes.count / self.processes.summed(scored).clamp(min=1)
        return loss.mul(share)

    def _look(self) -> None:
        """Wait for the device and hear of the steps that were queued."""
        steps, seconds = self.queue.read()
        taken = self.processes.most(seconds)[0]
        self.seconds += taken
        self.queue.pace = taken / len(steps)
        for step, told in enumerate(steps, start=self.step - len(steps) + 1):
            self._hear(step, told)
        self._log(steps[-1].gradient_norm)

    def _hear(self, step: int, told: StepResult) -> None:
        """Take a step's loss in; give up after several in a row that were left out."""
        if math.isfinite(told.loss):
            self.recent.append((told.loss, self.queue.pace))
        if not told.skipped:
            self.bad_steps = 0
            return
        self.bad_steps += 1
        self._event({"event": "skipped", "step": step, "loss": str(told.loss)})
        if self.bad_steps >= MOST_BAD_STEPS:
            lower = self.config.optimizer.learning_rate / 3
            raise UserError(
                f"The loss was not finite {MOST_BAD_STEPS} times in a row at step {step}: start again with a "
                f"lower training.optimizer.learning_rate, such as {lower:.2g}, or more training.schedule.warmup; the "
                "best model so far is kept."
            )

    def _log(self, gradient_norm: float) -> None:
        if not self.recent:
            return
        per_step = self.config.batch.step_tokens * self.processes.count
        speed = per_step * len(self.recent) / sum(taken for _, taken in self.recent)
        mean = sum(loss for loss, _ in self.recent) / len(self.recent)
        bits = mean * self.bits_per_nat
        self.training_bits = bits
        self.listener.status(Status(self.step, self.done, self.seconds, speed, bits, self.validation, self.best))
        if len(self.recent) < self.config.logging.log_every and self.done < 1:
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
                "gradient_norm": gradient_norm,
            }
        )
        self.recent.clear()

    def _validation_text(self) -> TokenizedSplit:
        """Return what is scored while training: chosen when it is first asked for, and the same from then on."""
        if self.sample is None:
            trained = self.tokens / self.done  # at the end
            self.sample = choose_sample(self.config, trained, bf16=self.bf16, processes=self.processes.count)
        if self.validation_split is None:
            self.validation_split = self.sample.of(self.prepared.validation, self.prepared.tokenizer)
        return self.validation_split

    def _validate(self) -> None:
        """Score the validation text; keep the model in the run directory if it is the best so far."""
        first = self.sample is None
        split = self._validation_text()
        timed = Progress(split.scored_tokens)
        with self._averaged():
            nats = score(self.scorer, split, boundary_id=self.prepared.tokenizer.boundary_id, progress=timed)
            self.scoring_pace = min(timed.seconds_per_token, self.scoring_pace)
            for line in announced(self.prepared, split, self.scoring_pace) if first else ():
                self.listener.message(line)
            self.validation = self.processes.of_main(compute_metrics(total_nats(nats), split, 0.0).bits_per_byte)
            # What is read for the first time cannot be known by heart, so it should cost what validation text costs.
            if first and self.stream.epoch < 1 and (told := unlike_training(self.training_bits, self.validation)):
                self.listener.message(told)
            best = self.validation < self.best
            if best:
                self.best, self.best_step = self.validation, self.step
                named = {name: parameter for name, parameter in self.model.named_parameters() if not is_guide(name)}
                weights = {name: whole(parameter.detach()) for name, parameter in named.items()}
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
        self._event({"event": "sample", "step": self.step, "prompt": "", "text": valid_text(text)})

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
