"""A model and everything that changes it: what :func:`weft.training.step.train_step` works on.

Training makes one (:mod:`weft.training.trainer`), and so does whoever times a step
(:mod:`weft.training.throughput`).
Shapes: B rows of the batch, T positions of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from weft.errors import UserError
from weft.language_model import LanguageModel, Scorer
from weft.layers.state import tensors
from weft.pretrained import check_fit
from weft.training.checkpoint import Checkpoint, Tensors, load_optimizer, optimizer_tensors
from weft.training.compilation import training_loss
from weft.training.hooks import Hook
from weft.training.methods import with_standing
from weft.training.objective import ForwardPass, LanguageModelling, Loss, Objective, rebuild
from weft.training.optimizer import make_optimizers
from weft.training.parallel import Processes, like, whole
from weft.training.precision import use_bf16
from weft.training.recipe import TrainingConfig


class Learner:
    """A model on its device with its objective, hooks, optimizers and the state that the rows of its batch carry.

    It is complete once it is made: the model has what the hooks add to it, and is wrapped for several
    processes. ``config.batch`` is that of each process. ``say`` hears what takes long. UserError where a
    method does not fit.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: TrainingConfig,
        processes: Processes,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.config = config
        self.processes = processes
        self.device = processes.device
        self.bf16 = use_bf16(config.precision, self.device)
        self.objective, self.hooks = _methods(model, config, processes)
        model.to(self.device)
        self.objective.to(self.device)
        for hook in self.hooks.values():
            hook.prepare()
        model.checkpoint_activations = config.checkpoint_activations
        with self.autocast():
            self.empty = self.objective.empty_state(config.batch.batch_size, self.device)
        self.state = self.empty  # of each row of the batch, behind the last segment
        loss = training_loss(
            self.objective,
            config.compile,
            device=self.device,
            sharded=processes.sharded,
            attempt=self._attempt,
            say=say,
        )
        self.module = processes.wrap(ForwardPass(model, loss, self.empty), model.blocks)
        groups = [group for hook in self.hooks.values() for group in hook.parameter_groups()]
        self.optimizers = make_optimizers(model, config, groups)
        for hook in self.hooks.values():
            hook.begin(self.optimizers)

    def autocast(self) -> torch.autocast:
        """Return the context in which the loss is computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _attempt(self, loss: Loss) -> None:
        """Take a loss forwards and backwards on nothing, and leave no trace."""
        shape = (self.config.batch.batch_size, self.config.batch.sequence_length)
        tokens, targets = torch.zeros(2, *shape, dtype=torch.long, device=self.device).unbind()
        forked = [self.device] if self.device.type == "cuda" else []  # dropout draws random numbers
        with torch.random.fork_rng(forked):
            self.model.train()
            with self.autocast():
                nats, _ = loss(tokens, targets, self.empty, tokens != 0)
            torch.autograd.backward(nats)
        self.model.zero_grad(set_to_none=True)

    @property
    def scorer(self) -> Scorer:
        """What :func:`weft.evaluation.scoring.score` takes: the model, or the module that gathers its shards."""
        return cast("Scorer", self.module) if self.processes.sharded else self.model

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Let the model be the one that is validated and saved: with averaged weights, say."""
        with ExitStack() as stack:
            for hook in self.hooks.values():
                stack.enter_context(hook.validating())
            yield

    def state_dict(self) -> Checkpoint:
        """Return all that training changes here; every process must call it, and all get the same.

        Groups of tensors: ``model``; ``optimizer-N``; ``method-NAME`` for each hook that has some; ``lanes``,
        the state of all rows of the batch, those of the first process first; ``random-N``, the generators of
        process N.
        """
        shared: dict[str, Tensors] = {"model": {name: p.detach() for name, p in self.model.named_parameters()}}
        for index, optimizer in enumerate(self.optimizers):
            shared[f"optimizer-{index}"] = optimizer_tensors(optimizer)
        methods: dict[str, Any] = {}
        for name, hook in self.hooks.items():
            of_hook: Tensors = {}
            values_of_hook: dict[str, Any] = {}
            for key, value in hook.state_dict().items():
                if isinstance(value, Tensor):
                    of_hook[key] = value
                else:
                    values_of_hook[key] = value
            if of_hook:
                shared[f"method-{name}"] = of_hook
            if of_hook or values_of_hook:
                methods[name] = values_of_hook

        # In one order on all processes: they gather each tensor together, and would wait for each other without end.
        groups: dict[str, Tensors] = {}
        for name, group in shared.items():
            groups[name] = {key: whole(group[key]) for key in sorted(group)}

        # What each process has of its own: its rows' state and its generators. Without carried state every segment
        # begins with an empty one.
        rows: Tensors = {}
        if self.config.carry_state:
            rows = {str(index): tensor.cpu() for index, tensor in enumerate(tensors(self.state))}
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        of_each = self.processes.gather((rows, random))
        groups["lanes"] = {key: torch.cat([theirs[key] for theirs, _ in of_each]) for key in rows}
        for rank, (_, generators) in enumerate(of_each):
            groups[f"random-{rank}"] = generators
        values = {
            "methods": methods,
            "processes": self.processes.count,
            "lanes": self.config.batch.batch_size * self.processes.count,
        }
        return Checkpoint(values, groups)

    def load_state_dict(self, saved: Checkpoint, path: Path) -> None:
        """Take up what :meth:`state_dict` returned, also in another number of processes with the same batch in all.

        With another number dropout and zoneout draw other numbers. UserError where the weights do not fit;
        ``path`` is where they were, for the message.
        """
        # Hooks first: one of them may change which parameters there are, as one whose guides had ended does.
        for name, hook in self.hooks.items():
            values = saved.progress["methods"].get(name, {})
            hook.load_state_dict(values | saved.groups.get(f"method-{name}", {}))
        weights = saved.groups["model"]
        check_fit(self.model, weights, path)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(like(weights[name], parameter))
        for index, optimizer in enumerate(self.optimizers):
            load_optimizer(optimizer, saved.groups[f"optimizer-{index}"])

        # The state of this process's rows of the whole batch.
        batch_size = self.config.batch.batch_size
        first = self.processes.rank * batch_size
        rows = saved.groups["lanes"]
        if rows:
            own = [rows[str(n)][first : first + batch_size].to(self.device) for n in range(len(rows))]
            self.state = rebuild(self.empty, own)

        # Generators, where each process finds its own.
        if saved.progress["processes"] != self.processes.count:
            return
        random = saved.groups[f"random-{self.processes.rank}"]
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)


def _methods(model: LanguageModel, config: TrainingConfig, processes: Processes) -> tuple[Objective, dict[str, Hook]]:
    """Build the methods that the recipe asks for: one objective at most, and hooks by the methods' names."""
    hooks: dict[str, Hook] = {}
    objectives: dict[str, Objective] = {}
    for name, settings in with_standing(config.methods).items():
        built = settings.build(model, processes)
        if isinstance(built, Objective):
            objectives[name] = built
        else:
            hooks[name] = built
    if len(objectives) > 1:
        raise UserError(f"A model learns one thing at a time: keep one of training.methods.{', '.join(objectives)}.")
    return next(iter(objectives.values()), LanguageModelling(model)), hooks
