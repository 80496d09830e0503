"""Methods of training come in by their sections of a recipe: hooks beside the loss, and other losses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import warnings

import pytest
import torch
import yaml
from safetensors.torch import load_file

import weft
from tests.conftest import BIGRAMS, MAPS, small_model
from tests.training.freezing import FreezingConfig
from tests.training.test_run import StopAt, assert_same_run
from weft.errors import Interrupted, UserError
from weft.records import CHECKPOINTS
from weft.training import checkpoint as checkpoints
from weft.training import step, throughput, trainer
from weft.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from weft.training.hooks import Hook
from weft.training.learner import Learner
from weft.training.listener import Silent
from weft.training.methods import MethodConfig, registered
from weft.training.methods.distillation import Distillation
from weft.training.methods.guides import guide_share
from weft.training.objective import LanguageModelling
from weft.training.parallel import Processes
from weft.training.prefetch import Batch
from weft.training.recipe import TrainingConfig, load_recipe, make_recipe
from weft.training.result import read_result
from weft.training.run import train
from weft.training.run_folder import saved_recipe
from weft.training.throughput import seconds_per_token

FREEZING = {"freezing": {"after": 0.5}, "average": {"decay": 0.9}}


@pytest.fixture
def freezing():
    with registered("freezing", FreezingConfig):
        yield


class Killed(BaseException):
    """The process is no more."""


class KillAt(Silent):
    """Ends everything at a step, without a word to the trainer."""

    def __init__(self, number: int) -> None:
        self.number = number

    def status(self, status):
        if status.step == self.number:
            raise Killed


def test_a_method_of_one_file_and_one_line_trains_and_goes_on_bit_for_bit(tiny, tmp_path, freezing):
    values = tiny(training={"methods": FREEZING, "logging": {"checkpoint_every": 2, "samples": 0}})
    train(values, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(values, tmp_path / "stopped", listener=StopAt(3, signal.SIGINT))
    with pytest.raises(Killed):  # of what came after step 8 nothing is left
        train({}, tmp_path / "stopped", resume=True, listener=KillAt(9))
    train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    for run in ("straight", "stopped"):
        last, _ = read_checkpoint(tmp_path / run / CHECKPOINTS)
        assert last.progress["methods"]["freezing"] == {"steps": 12}
        frozen = last.groups["method-freezing"]["frozen"]
        assert torch.equal(frozen, last.groups["model"]["embedding.weight_VD"])
    plain = tiny(training={"methods": {"average": {"decay": 0.9}}, "logging": {"samples": 0}})
    train(plain, tmp_path / "plain")
    learnt, _ = read_checkpoint(tmp_path / "plain" / CHECKPOINTS)
    assert not torch.equal(frozen, learnt.groups["model"]["embedding.weight_VD"])


def test_a_recipe_keeps_the_settings_of_its_methods(tiny, tmp_path, freezing):
    train(tiny(training={"methods": FREEZING, "steps": 2}), tmp_path / "run")
    told = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["training"]["methods"]
    assert told == {"average": {"decay": 0.9}, "freezing": {"after": 0.5}}  # in the order of registration
    assert saved_recipe(tmp_path / "run").training.methods["freezing"] == FreezingConfig()
    with pytest.raises(UserError, match="training.methods.freezing.after .was 0.5, now 0.75."):
        train({"training": {"methods": {"freezing": {"after": 0.75}}}}, tmp_path / "run", resume=True)


class Calls(Hook):
    """Writes down when it is called, and looks at the weights and gradients."""

    def __init__(self, model):
        self.model = model
        self.calls = []
        self.before = None

    def note(self, what):
        self.calls.append(what)

    def prepare(self):
        self.note("prepare")

    def begin(self, optimizers):
        assert optimizers
        self.note("begin")

    def before_step(self, done):
        assert 0 <= done < 1
        self.before = self.weights()
        self.note("before_step")

    def after_segment(self, batch):
        assert batch.tokens_BT.shape == batch.reset_BT.shape
        self.note("after_segment")

    def after_backward(self):
        assert torch.equal(self.before, self.weights())
        assert all(parameter.grad is not None for parameter in self.model.parameters())
        self.note("after_backward")

    def after_step(self):
        assert not torch.equal(self.before, self.weights())
        assert all(parameter.grad is None for parameter in self.model.parameters())
        self.note("after_step")

    def validating(self):
        self.note("validating")
        return super().validating()

    def end(self):
        self.note("end")

    def weights(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


HOOKS: list[Calls] = []


class CallsConfig(MethodConfig):
    def build(self, model, processes):
        del processes
        HOOKS.append(Calls(model))
        return HOOKS[-1]


@pytest.fixture
def calls():
    HOOKS.clear()
    with registered("calls", CallsConfig):
        yield HOOKS


STEP = ["before_step", "after_segment", "after_segment", "after_backward", "after_step"]


def test_a_hook_is_called_where_its_page_says(tiny, tmp_path, calls):
    training = {
        "methods": {"calls": {}},
        "steps": 2,
        "batch": {"accumulation": 2},
        "logging": {"validations": 1, "samples": 0},
    }
    train(tiny(training=training), tmp_path / "run")
    (hook,) = calls
    assert hook.calls == ["prepare", "begin", *STEP, *STEP, "validating", "end"]


class Pruning(Hook):
    """Holds some weights at zero, as a mask does: no gradient, no momentum, no decay brings them back."""

    def __init__(self, model):
        self.weight = model.blocks[1].output.weight
        self.mask = torch.rand_like(self.weight) < 0.5

    def begin(self, optimizers):
        del optimizers
        self.after_step()

    def after_backward(self):
        self.weight.grad.mul_(self.mask)

    @torch.no_grad()
    def after_step(self):
        self.weight.mul_(self.mask)

    def state_dict(self):
        return {"mask": self.mask}

    def load_state_dict(self, state):
        self.mask = state["mask"]


class PruningConfig(MethodConfig):
    def build(self, model, processes):
        del processes
        return Pruning(model)


def test_a_run_is_read_where_its_method_is_not_registered(tiny, tmp_path):
    with registered("freezing", FreezingConfig):
        train(tiny(training={"methods": FREEZING}), tmp_path / "run")
    assert weft.evaluate(tmp_path / "run").bits_per_byte == read_result(tmp_path / "run").test.bits_per_byte
    assert weft.Run(tmp_path / "run").pack()


def test_a_mask_needs_no_more_than_a_hook(tiny, tmp_path):
    values = tiny(training={"methods": {"pruning": {}}, "logging": {"samples": 0}})
    with registered("pruning", PruningConfig):
        train(values, tmp_path / "straight")
        with pytest.raises(Interrupted):
            train(values, tmp_path / "stopped", listener=StopAt(5, signal.SIGINT))
        torch.manual_seed(99)  # a run that is resumed draws another mask, and takes that of the checkpoint
        train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    last, _ = read_checkpoint(tmp_path / "straight" / CHECKPOINTS)
    mask = last.groups["method-pruning"]["mask"]
    name = "blocks.1.output.weight"
    best = load_file(tmp_path / "straight" / "model.safetensors")
    for weight in (last.groups["model"][name], best[name]):
        assert mask.dtype == torch.bool
        assert not weight[~mask].any()
        assert weight[mask].any()


def test_training_and_timing_take_the_same_step():
    assert trainer.train_step is throughput.train_step is step.train_step


@pytest.fixture
def learners(monkeypatch):
    """The learners that are made for timing."""
    made = []

    def keep(*given):
        made.append(Learner(*given))
        return made[-1]

    monkeypatch.setattr(throughput, "Learner", keep)
    return made


def config_with(**methods) -> TrainingConfig:
    return TrainingConfig(batch={"batch_size": 2, "sequence_length": 16}, methods=methods)


def test_a_teacher_is_in_the_measured_time(tiny, tmp_path, learners, monkeypatch):
    train(tiny(training={"steps": 2}), tmp_path / "teacher")
    student = small_model("qf", vocab_size=258)
    asked = []
    assert seconds_per_token(student, config_with(distillation={"run": str(tmp_path / "teacher")}), Processes()) > 0
    (learner,) = learners
    assert isinstance(learner.objective, Distillation)
    hidden = learner.objective.teacher.hidden
    monkeypatch.setattr(learner.objective.teacher, "hidden", lambda *given: (asked.append(1), hidden(*given))[1])
    batch = Batch(*(torch.zeros(2, 16, dtype=torch.long) for _ in range(2)), torch.zeros(2, 16, dtype=torch.bool))
    step.train_step(learner, iter([batch]), learning_rate=1e-3, done=0.0)
    assert len(asked) == 1


def test_guides_averages_and_centroids_are_in_the_measured_time(learners):
    model = small_model("fqaf", {"maps": MAPS, "ngrams": BIGRAMS})
    before = model.ngrams.centroids_HKE.clone()
    config = config_with(guides={"until": 0.5}, average={"decay": 0.9})
    assert seconds_per_token(model, config, Processes()) > 0
    (learner,) = learners
    assert isinstance(learner.objective, LanguageModelling)
    assert list(learner.hooks) == ["ngrams", "guides", "average"]
    guides = learner.hooks["guides"]
    assert guides.active
    assert guides.share == guide_share(0.0, 0.5)
    assert not torch.allclose(guides.maps[0].guide_MN, guides.maps[0].dense_weight())  # it has learnt by itself
    assert learner.hooks["average"].updates >= 2
    assert not torch.equal(model.ngrams.centroids_HKE, before)


def test_hooks_of_several_processes_are_timed_in_one(learners):
    together = Processes()
    together.count = 2
    together.most = lambda *values: list(values)
    model = small_model("ff", {"maps": MAPS})
    assert seconds_per_token(model, config_with(guides={}), together) > 0
    assert learners[0].processes.count == 1
    assert together.count == 2


def test_two_objectives_are_refused(tiny, tmp_path):
    train(tiny(training={"steps": 2}), tmp_path / "teacher")

    class Other(MethodConfig):
        def build(self, model, processes):
            del processes
            return LanguageModelling(model)

    methods = {"distillation": {"run": str(tmp_path / "teacher")}, "other": {}}
    with registered("other", Other), pytest.raises(UserError, match="keep one of training.methods.distillation, other"):
        train(tiny(training={"methods": methods}), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # before anything was written


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ({"guidse": {}}, "Unknown key 'training.methods.guidse': did you mean 'guides'?"),
        (
            {"zzz": {}},
            "Unknown key 'training.methods.zzz': the methods are only, ngrams, guides, distillation, average.",
        ),
        ({"guides": {"untl": 1}}, "Unknown key 'training.methods.guides.untl': did you mean 'until'?"),
        ({"guides": {"until": 2}}, "'training.methods.guides.until' is 2: input should be less than or equal to 1."),
        ({"average": 0.9}, "The section 'training.methods.average' must hold keys and values, not 0.9."),
        ([], "'training.methods' is []: it must hold a section for each method."),
    ],
)
def test_what_is_wrong_with_a_method_is_told_in_one_sentence(methods, sentence):
    with pytest.raises(UserError) as told:
        make_recipe({"training": {"methods": methods}})
    assert str(told.value) == sentence


def test_a_method_is_left_out_by_null():
    layers = [{"training": {"methods": {"average": {"decay": 0.9}}}}, {"training": {"methods": {"average": None}}}]
    assert make_recipe(*layers).training.methods == {}


def test_a_recipe_is_read_without_torch():
    code = "import sys, weft.training.recipe as r; r.make_recipe({}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


OLDER = {
    "ema": (0.99, {"average": {"decay": 0.99}}),
    "guide": ({"until": 0.3}, {"guides": {"until": 0.3}}),
    "teacher": ({"run": "x"}, {"distillation": {"run": "x"}}),
    "only": ("auxiliary", {"only": {"parameters": "auxiliary"}}),
    "ngrams_rate": (2.0, {"ngrams": {"rate": 2.0}}),
}


@pytest.mark.parametrize("key", OLDER)
def test_the_keys_of_version_0_1_0_are_read_with_a_warning(tmp_path, key):
    value, methods = OLDER[key]
    with pytest.warns(FutureWarning, match=f"training.{key}"):
        older = make_recipe({"training": {key: value}})
    assert older == make_recipe({"training": {"methods": methods}})
    saved = {"training": {key: value}, "weft_version": "0.1.0"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(saved))
    with warnings.catch_warnings(action="error"):
        assert make_recipe(load_recipe(tmp_path / "recipe.yaml")) == older


@pytest.mark.parametrize("until", [0.1, 0.8], ids=["guides gone", "guides there"])
def test_a_checkpoint_of_version_0_1_0_goes_on_with_its_average_and_guides(tiny, tmp_path, monkeypatch, until):
    methods = {"average": {"decay": 0.9}, "guides": {"until": until}}
    values = tiny(model={"pattern": "fqaf", "maps": MAPS}, training={"methods": methods, "logging": {"samples": 0}})
    train(values, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(values, tmp_path / "run", listener=StopAt(5, signal.SIGINT))
    folder = tmp_path / "run" / CHECKPOINTS
    saved, _ = read_checkpoint(folder)
    groups = dict(saved.groups)
    groups["average"] = groups.pop("method-average")
    told = dict(saved.progress)
    told["average_updates"] = told.pop("methods")["average"]["updates"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", 1)
        del told["format"]
        write_checkpoint(folder, 5, Checkpoint(told, groups))
    assert json.loads((folder / "step-00000005" / "progress.json").read_text())["format"] == 1
    train({}, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "run")
