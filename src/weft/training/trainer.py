"""The training loop: segments in, a better model out.

Recurrent state is carried, detached, from each segment to the next of its row (Transformer-XL style); the
stream's resets say where a document begins. The best model by validation is written to the run directory as
it appears. Steps are queued (:mod:`weft.training.queue`): between two looks at their losses nothing waits for
the device.

What a step does is in :mod:`weft.training.step`; what may take part in it, in :mod:`weft.training.hooks`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from weft.data import PreparedData, TokenizedSplit, join_states, open_stream
from weft.errors import UserError
from weft.evaluation.metrics import unlike_training
from weft.evaluation.progress import Progress
from weft.generation import Sampling, generate
from weft.language_model import LanguageModel
from weft.layers.maps import is_guide
from weft.pretrained import WEIGHTS, save_weights
from weft.records import CHECKPOINTS
from weft.training.checkpoint import Checkpoint, write_checkpoint
from weft.training.learner import Learner
from weft.training.listener import Listener, MetricsWriter, Status
from weft.training.parallel import Processes, whole
from weft.training.prefetch import Prefetcher
from weft.training.queue import Queue, StepResult, longest_queue
from weft.training.recipe import TrainingConfig
from weft.training.schedule import learning_rate_factor, progress
from weft.training.step import train_step
from weft.training.throughput import ThroughputCheck
from weft.training.validation import Sample, announced, choose_sample, older_sample
from weft.words import valid_text

MOST_BAD_STEPS = 5
SAMPLE_TOKENS = 64

# What changes with every step and stands in a checkpoint as it is.
_COUNTERS = ("step", "tokens", "seconds", "bad_steps", "best_step", "recent")


class Trainer:
    """One run's moving parts: complete once it is made, and then as of step 0 or as :meth:`load_state_dict` takes it.

    With several processes, ``config.batch`` is that of each; all draw the same conclusions from the same sums.
    ``planned_tokens_per_second`` is what the plan of the run counts on, None where nothing was planned.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: LanguageModel,
        prepared: PreparedData,
        run: Path,
        listener: Listener,
        processes: Processes | None = None,
        *,
        planned_tokens_per_second: float | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.prepared = prepared
        self.folder = run
        self.listener = listener
        self.metrics = MetricsWriter(run, tensorboard=config.logging.tensorboard)
        self.processes = processes or Processes()
        self.main = self.processes.main
        torch.manual_seed(config.seed + 1000 * self.processes.rank)
        self.learner = Learner(model, config, self.processes, listener.message)
        self.device = self.learner.device
        self.stream = self._open_stream(None)
        self.queue = Queue(longest_queue(self.device, config.logging.log_every))

        # How far the run is.
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0  # of training alone
        self.recent: list[tuple[float, float]] = []  # (loss, seconds) of the steps since the last log line
        self.training_bits = math.nan  # their bits per byte, not in checkpoints
        self.bad_steps = 0  # in a row that were left out
        self.planned_tokens_per_second = planned_tokens_per_second
        self.stop_requested = False

        # What the validations have shown.
        self.validation = math.nan
        self.best = math.inf
        self.best_step = 0
        self.sample: Sample | None = None  # what is scored, once that is chosen
        self.validation_split: TokenizedSplit | None = None
        self.scoring_seconds_per_token = math.nan  # of the fastest validation
        self.saved_step = -1  # of the newest checkpoint

    def _open_stream(self, state: Any) -> Prefetcher:
        """Return the training segments from where ``state`` stands (None: from the start)."""
        stream = open_stream(
            self.prepared,
            batch_size=self.config.batch.batch_size,
            sequence_length=self.config.batch.sequence_length,
            seed=self.config.seed,
            predict_boundary=bool(self.config.predict_boundary),
            rank=self.processes.rank,
            world_size=self.processes.count,
            state=state,
        )
        return Prefetcher(stream, self.device, ahead=self.device.type == "cuda")

    def request_stop(self) -> None:
        """Let :meth:`run` end after the present step (on a GPU, after the steps that are queued)."""
        self.stop_requested = True

    def forget_best(self) -> None:
        """Let the best model be that of the next validation, as the file of the one so far is lost."""
        self.best = math.inf
        self.best_step = 0
        self.saved_step = -1

    @property
    def done(self) -> float:
        """The part of the budget that is used. The time of steps that are queued is estimated."""
        seconds = self.seconds + self.queue.expected_seconds
        return progress(self.config, steps=self.step, tokens=self.tokens, seconds=seconds)

    def run(self) -> bool:
        """Train until the budget is used (True) or a stop is requested (False); either way a checkpoint is left."""
        stop = False
        seen = self.done  # the part of the budget that was used at the last look
        check = ThroughputCheck(self.planned_tokens_per_second)
        self._check_throughput(check)
        self.queue.start_clock()
        try:
            if self.done >= 1 and not self.best_step:  # what was best is lost
                self._validate()
            while self.done < 1 and not stop:
                self._queue_step()
                if not self._must_look(seen):
                    continue
                self._look()
                self._check_throughput(check)
                stop = self.processes.most(float(self.stop_requested))[0] > 0  # all at the same step

                # What follows does not count as training: the clock is started again behind it.
                if _crossed(seen, self.done, self.config.logging.validations) or self.done >= 1:
                    self._validate()
                if _crossed(seen, self.done, self.config.logging.samples):
                    self._write_sample()
                if self.step % self.config.logging.checkpoint_every == 0 and self.done < 1:
                    self.save()
                seen = self.done
                self.queue.start_clock()
            self.save()  # before hooks end, so that a run that goes on finds them as they were in training
        finally:
            self.stream.close()
            for hook in self.learner.hooks.values():
                hook.end()
        return self.done >= 1

    def _queue_step(self) -> None:
        """Let the device take one optimizer step; what came of it is heard of at the next look."""
        rate = learning_rate_factor(self.config, self.done) * self.config.optimizer.learning_rate
        told = train_step(self.learner, self.stream, learning_rate=rate, done=self.done)
        self.step += 1
        self.tokens += self.config.batch.step_tokens * self.processes.count
        self.queue.add(told)

    def _must_look(self, seen: float) -> bool:
        """Tell whether to wait for the device: for news, or for something to do with the weights as they are now."""
        return (
            self.queue.full
            or len(self.recent) + len(self.queue) >= self.config.logging.log_every
            or self.step % self.config.logging.checkpoint_every == 0
            or self.done >= 1
            or _crossed(seen, self.done, self.config.logging.validations)
            or _crossed(seen, self.done, self.config.logging.samples)
        )

    def _look(self) -> None:
        """Wait for the device and hear of the steps that were queued; give up after several bad ones in a row."""
        steps, seconds = self.queue.read()
        taken = self.processes.most(seconds)[0]
        self.seconds += taken
        self.queue.seconds_per_step = taken / len(steps)
        for step, told in enumerate(steps, start=self.step - len(steps) + 1):
            self._hear(step, told)
        self._log(steps[-1].gradient_norm)

    def _hear(self, step: int, told: StepResult) -> None:
        """Take in what a step has come to."""
        if math.isfinite(told.loss):
            self.recent.append((told.loss, self.queue.seconds_per_step))
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
        """Tell the listener where the run stands, and every ``log_every`` steps the metrics file too."""
        if not self.recent:
            return
        per_step = self.config.batch.step_tokens * self.processes.count
        tokens_per_second = per_step * len(self.recent) / sum(taken for _, taken in self.recent)
        mean = sum(loss for loss, _ in self.recent) / len(self.recent)  # in nats a token
        train = self.prepared.train
        self.training_bits = mean * (train.scored_tokens / train.bytes / math.log(2))
        self.listener.status(
            Status(
                step=self.step,
                done=self.done,
                seconds=self.seconds,
                tokens_per_second=tokens_per_second,
                train=self.training_bits,
                validation=self.validation,
                best=self.best,
            )
        )
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
                "bits_per_byte": self.training_bits,
                "learning_rate": self.learner.optimizers[0].param_groups[0]["lr"],
                "tokens_per_second": round(tokens_per_second, 1),
                "gradient_norm": gradient_norm,
            }
        )
        self.recent.clear()

    def _check_throughput(self, check: ThroughputCheck) -> None:
        """Say it where the run turns out to be far off the plan."""
        news = check.news(self.config, done=self.done, tokens=self.tokens, seconds=self.seconds)
        if news:
            self.listener.message(news)

    def _validate(self) -> None:
        """Score the validation text; keep the model in the run directory if it is the best so far."""
        first = self.sample is None
        split = self._validation_text()
        timed = Progress(split.scored_tokens)
        boundary = self.prepared.tokenizer.boundary_id
        with self.learner.validating():
            scored = self.learner.objective.validate(self.learner.scorer, split, boundary_id=boundary, progress=timed)
            self.scoring_seconds_per_token = min(timed.seconds_per_token, self.scoring_seconds_per_token)
            if first:
                for line in announced(self.prepared, split, self.scoring_seconds_per_token):
                    self.listener.message(line)
            self.validation = self.processes.of_main(scored)
            if first and self.stream.epoch < 1:
                # What is read for the first time is not known by heart yet: it should cost what validation text costs.
                told = unlike_training(self.training_bits, self.validation)
                if told:
                    self.listener.message(told)

            best = self.validation < self.best
            if best:
                self.best = self.validation
                self.best_step = self.step
                weights = {}  # gathered by all processes, written by one
                for name, parameter in self.model.named_parameters():
                    if not is_guide(name):
                        weights[name] = whole(parameter.detach())
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

    def _validation_text(self) -> TokenizedSplit:
        """Return what is scored while training: chosen when it is first asked for, and the same from then on."""
        if self.sample is None:
            in_all = self.tokens / self.done  # the tokens that the run will train on
            self.sample = choose_sample(self.config, in_all, bf16=self.learner.bf16, processes=self.processes.count)
        if self.validation_split is None:
            self.validation_split = self.sample.of(self.prepared.validation, self.prepared.tokenizer)
        return self.validation_split

    def _write_sample(self) -> None:
        """Let the model write a little, from nothing (not from shards: each token would gather them all)."""
        if self.processes.sharded:
            return
        with self.learner.validating():
            (text,) = generate(
                self.model,
                self.prepared.tokenizer,
                [""],
                max_new_tokens=SAMPLE_TOKENS,
                sampling=Sampling(seed=1),
            )
        self._event({"event": "sample", "step": self.step, "prompt": "", "text": valid_text(text)})

    def _event(self, record: dict[str, Any]) -> None:
        """Write a record to the metrics file, and let the listener hear of it."""
        if self.main:
            self.metrics.write(record)
            self.listener.event(record)

    def save(self) -> None:
        """Write a checkpoint, unless that of this step stands; the main process writes for all."""
        if self.saved_step == self.step:
            return
        state = self.state_dict()
        if self.main:
            write_checkpoint(self.folder / CHECKPOINTS, self.step, state)
        self.saved_step = self.step
        self.processes.wait()

    def state_dict(self) -> Checkpoint:
        """Return all that :meth:`run` changes; every process must call it, and all get the same."""
        state = self.learner.state_dict()
        state.progress |= {name: getattr(self, name) for name in _COUNTERS}
        state.progress |= {
            "planned_pace": self.planned_tokens_per_second,  # the key's name in every checkpoint
            "best": _finite(self.best),
            "validation": _finite(self.validation),
            "sample": self.sample,
            "stream": join_states(self.processes.gather(self.stream.state)),
            "corpus": self.prepared.train.identity,
        }
        return state

    def load_state_dict(self, saved: Checkpoint) -> None:
        """Go on from ``saved`` as if the run had not been stopped, bit for bit in as many processes.

        In another number of them it is the same run up to rounding: each has what as many rows of the batch
        remembered. UserError where the texts are not those that it was trained on.
        """
        told = saved.progress
        if told["corpus"] != self.prepared.train.identity:
            raise UserError(
                "The texts have changed since this run began (or its tokenizer): restore them, or start again with "
                "overwrite=True."
            )
        for name in _COUNTERS:
            setattr(self, name, told.get(name, getattr(self, name)))
        self.planned_tokens_per_second = told.get("planned_pace", self.planned_tokens_per_second)
        self.recent = [(loss, seconds) for loss, seconds in self.recent]  # JSON made lists of the tuples
        self.best = math.inf if told["best"] is None else told["best"]
        self.validation = math.nan if told["validation"] is None else told["validation"]
        if "sample" not in told:  # written before version 0.1.0 told it
            self.sample = older_sample(self.config)
        elif told["sample"] is not None:  # it may not have been chosen yet
            self.sample = Sample(*told["sample"])
        self.stream = self._open_stream(told["stream"])
        self.learner.load_state_dict(saved, self.folder / CHECKPOINTS)
        self.saved_step = self.step


def _finite(value: float) -> float | None:
    """Return ``value``, or None for what JSON has no word for: infinity, and what is not a number."""
    return value if math.isfinite(value) else None


def _crossed(before: float, after: float, parts: int) -> bool:
    """Tell whether one of ``parts`` equal marks lies between ``before`` and ``after``."""
    return parts > 0 and math.floor(after * parts + 1e-9) > math.floor(before * parts + 1e-9)
