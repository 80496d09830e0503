"""The benchmark's harness: ratios, bars, contenders that fail, files that are merged. No claim about any speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import models, results
from benchmarks.default_step import step_of_today
from benchmarks.harness import Bar, Line, Options, Ratio, Seconds, Sheet, Times, reason
from benchmarks.moved import moved
from benchmarks.plot import draw
from benchmarks.products import model_maps
from benchmarks.profile_step import kind_of, measure
from benchmarks.revisions import StepProcess
from benchmarks.rounding import batches_of, differences
from benchmarks.rows import ROWS, rows_of
from benchmarks.rows.decoding import _text, _weft, adapter, generated, native_stream
from benchmarks.rows.training import training_operations
from benchmarks.speed import main, run_row
from benchmarks.tables import cells, markdown

from tests.conftest import small_config
from weft.data.tokenizers import NUM_SPECIAL
from weft.model import WeftModel

ROOT = Path(__file__).parents[1]
QUICK = Options(quick=True, threads=1, rounds=2, least=2)


def line(**changes):
    return Line(what="a over b", **{"ratio": Ratio(2.0, 1.5, 2.5), "bar": Bar("at least", 1.8), **changes})


def test_a_ratio_is_one_of_medians_within_its_interval():
    times = Times({"slow": [4.0, 2.0, 2.0, 2.1, 1.9], "fast": [1.0, 1.0, 1.1, 0.9, 9.0]})
    ratio = times.ratio("slow", "fast")
    assert ratio.value == pytest.approx(2.0)
    assert ratio.low <= ratio.value <= ratio.high
    assert times.fastest(["slow", "fast", "missing"]) == "fast"
    assert times.ratio("slow", "missing") is None
    assert times.ratio(None, "fast") is None


@pytest.mark.parametrize(("bar", "met"), [(Bar("at least", 1.8), True), (Bar("at most", 1.8), False)])
def test_a_line_says_whether_its_bar_is_met(bar, met):
    assert line(bar=bar).met is met
    assert line(bar=bar, ratio=None).met is None
    assert line(bar=bar, met=not met).met is not met


def test_a_bar_inside_the_interval_is_met_closely_or_missed_closely():
    assert cells(line())[-1] == "yes, closely"
    assert cells(line(bar=Bar("at least", 2.2)))[-1] == "**no**, closely"
    assert cells(line(bar=Bar("at least", 1.2)))[-1] == "yes"
    assert cells(line(ratio=None))[2:] == ("not measured", "at least 1.8", "")


def test_contenders_take_turns_and_one_that_fails_stops_nobody():
    called, sheet = [], Sheet(QUICK)
    race = sheet.race("turns")

    def missing():
        raise ModuleNotFoundError("No module named 'peer'")

    def fails_later():
        if len(called) > 6:
            raise ValueError("broke\nhere")

    race.enter("a", lambda: lambda: called.append("a"))
    race.enter("missing", missing)
    race.enter("later", lambda: fails_later)
    race.enter("told", lambda: lambda: Seconds(3.0))
    times = race.run()
    assert len(times.seconds["a"]) == 2
    assert times.seconds["told"] == [3.0, 3.0]
    assert times.failures["missing"] == "not installed here (No module named 'peer')"
    assert times.failures["later"].endswith("broke here")
    assert "later" not in times


def test_a_reason_is_one_line_that_says_where():
    try:
        torch.ones(2) + torch.ones(3)
    except RuntimeError as error:
        told = reason(error)
    assert told.startswith("RuntimeError at test_benchmarks.py:")
    assert "\n" not in told


def record(ratio):
    sheet = Sheet(QUICK)
    sheet.lines.append(line(ratio=ratio))
    sheet.notes.append("a note")
    sheet.races["race"] = Times({"a": [1.0, 2.0]}, {"b": "not installed here"})
    about = {
        "title": "Title",
        "date": "today",
        "command": "make",
        "took_seconds": 1.0,
        "seed": 0,
        "steal_percent": None,
    }
    machine = {"cpu": "one", "cores": 2, "threads": 1, "native_bf16": False, "governor": "x", "revision": "y"}
    return results.row_record(sheet, **about, machine=machine | {"versions": {"torch": "2"}})


def test_results_are_merged_by_row_and_told(tmp_path):
    path = tmp_path / "speed-cpu.json"
    results.merge(path, {"train": record(Ratio(1.0, 0.9, 1.1))}, list(ROWS))
    merged = results.merge(path, {"block": record(None), "train": record(Ratio(2.0, 1.9, 2.1))}, list(ROWS))
    assert merged == json.loads(path.read_text())
    assert list(merged["rows"]) == ["block", "train"]
    assert results.read_line(merged["rows"]["train"]["lines"][0]) == line(ratio=Ratio(2.0, 1.9, 2.1))
    told = markdown(merged, "cpu", picture=True)
    assert "| a over b | " in told
    assert "2 (1.9 to 2.1) | at least 1.8 | yes |" in told
    assert "b did not take part: not installed here" in told
    assert draw(merged, "cpu", tmp_path / "speed-cpu.png")
    assert (tmp_path / "speed-cpu.png").stat().st_size > 1000


def test_a_gpu_has_all_rows_but_those_whose_bars_are_a_cpus():
    assert set(rows_of("cpu")) - set(rows_of("cuda")) == {"help", "loss", "step"}


def test_operations_agree_with_the_description():
    import weft

    scale = models.SCALES["cpu"][0]
    config = weft.sized("hybrid", parameters=scale.size, vocab_size=scale.vocab_size)
    described = weft.describe(config).flops_per_token  # with the recurrence, which is no matrix product
    assert 0.97 * 3 * described < training_operations(scale) < 3 * described


def test_sizes_are_checked():
    scale = models.SCALES["cpu"][0]
    with pytest.raises(ValueError, match="are not 2M within 1 %"):
        models.sizes(torch.nn.Linear(10, 10), scale)


def test_x_transformers_has_as_many_parameters():
    pytest.importorskip("x_transformers")
    scale = models.SCALES["cpu"][0]
    with torch.device("meta"):
        sizes = models.sizes(models.x_transformers(scale), scale)
    assert sizes["without embedding"] < sizes["parameters"]


def test_the_native_loop_writes_what_generate_writes():
    scale = models.QUICK[0]
    model, text = _weft(scale, QUICK), _text(scale, 40, QUICK)
    written = native_stream(model, text, 8)
    assert [next(written) for _ in range(8)] == generated(adapter(model), text, 8).tokens
    assert text.shape == (1, 40)
    assert int(text[0, 0]) == scale.vocab_size - NUM_SPECIAL


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::mm", "aten::linear"], "matrix products"),
        (["aten::mm", "_ChunkedCrossEntropy"], "softmax and loss"),
        (["aten::mul", "Optimizer.step#AdamW.step"], "optimizer"),
        (["weft::pooling"], "recurrence and pooling"),
        (["aten::add"], "other element-wise"),
        (["aten::copy_", "aten::to", "weft::cross_entropy"], "casts and copies"),
        (["aten::bmm", "aten::matmul", "Optimizer.step#Muon.step"], "products of the optimizer"),
        (["aten::bmm"], "matrix products"),
        (["kernel _softmax_loss", "weft.layers.cross_entropy._OnCPU"], "softmax and loss"),
        (["weft.ops.pooling._OnCPUBackward"], "recurrence and pooling"),
        (["aten::mm", "weft.layers.dense._Product"], "matrix products"),
        (["weft.layers.shell._Enter"], "norms, gates and activations"),
        (["aten::view"], "the rest"),
    ],
)
def test_operators_count_as_what_they_are_for(names, kind):
    assert kind_of(names) == kind


def test_the_command_measures_a_row_and_writes_it(tmp_path):
    arguments = ["--quick", "--threads", "1", "--only", "recurrence", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads((tmp_path / "speed-cpu.json").read_text())["rows"]["recurrence"]
    assert row["machine"]["threads"] == 1
    assert not row["failures"]
    assert len(row["seconds"]["recurrence 2x16x32 fp32"]["forward"]["all"]) == 2
    assert (tmp_path / "speed-cpu.md").read_text().startswith("# Speed on a CPU")
    assert (tmp_path / "speed-cpu.png").is_file()


def test_training_is_measured_whatever_peers_are_there():
    row = run_row("train", QUICK)
    for precision in models.precisions(QUICK):
        assert {"hybrid", "transformer", "hybrid with Muon"} <= set(row["seconds"][f"training 100k, {precision}"])
    assert row["lines"][0]["what"].startswith("training hybrid 100k, ")
    assert row["facts"]["hybrid 100k"]["parameters"] > row["facts"]["hybrid 100k"]["without embedding"]


@pytest.mark.parametrize("name", ["block", "loss"])
def test_work_is_measured_over_its_products_in_each_precision(name):
    row = run_row(name, QUICK)
    assert not row["failures"]
    assert [line["what"][-4:] for line in row["lines"]] == models.precisions(QUICK)
    assert all(line["ratio"]["value"] > 0 for line in row["lines"])


def test_the_default_step_is_measured_beside_another_revision(monkeypatch):
    monkeypatch.setattr(models, "precisions", lambda _: ["fp32"])
    here = Options(quick=True, threads=1, rounds=2, least=2, against="here", tree=str(ROOT))
    row = run_row("step", here)
    assert {"default step", "products", "here"} <= set(row["seconds"]["step 100k, fp32"])
    assert row["lines"][-2]["what"].endswith("over its own at here")
    assert row["lines"][-1]["ratio"]["value"] > 0


def test_products_are_those_of_all_maps_and_the_softmax():
    config = small_config("qf", vocab_size=30)
    with torch.device("meta"):
        model = WeftModel(config)
    maps = model_maps(model)
    assert maps[-1] == (16, 30)
    assert sum(inputs * outputs for inputs, outputs in maps) == sum(
        p.numel() for p in model.parameters() if p.dim() == 2
    )


def test_two_processes_take_the_steps_that_this_one_takes():
    batches = batches_of(b"a text, read again and again. ", steps=2, batch=2, context=16)
    settings = {"size": "100k", "vocab_size": 300, "precision": "fp32"}
    step, _ = step_of_today(batches, **settings)
    with StepProcess(ROOT, batches, settings, threads=1) as process:
        told = process.take(2)
    assert told["losses"] == [step(), step()]
    assert min(told["seconds"]) > 0


def test_a_process_of_another_revision_says_why_it_ends(tmp_path):
    (tmp_path / "src" / "weft").mkdir(parents=True)
    (tmp_path / "src" / "weft" / "__init__.py").write_text("raise RuntimeError('too old')\n")
    batches = batches_of(b"text", steps=1, batch=2, context=4)
    with pytest.raises(RuntimeError, match="its process ended: RuntimeError: too old"):
        StepProcess(tmp_path, batches, {}, threads=1)


def test_segments_follow_each_other_in_each_row():
    text = bytes(range(100))
    (first, targets, _), (second, _, _) = batches_of(text, steps=2, batch=2, context=10)
    assert first[0].tolist() == list(range(10))
    assert targets[0].tolist() == list(range(1, 11))
    assert second[0].tolist() == list(range(10, 20))
    assert first[1, 0] == 21


def test_differences_are_relative():
    assert differences([2.0, 4.0], [2.0, 3.0]) == [0.0, 0.25]


def test_a_revision_that_is_not_there_is_one_sentence(capsys):
    assert main(["--quick", "--only", "step", "--against", "no-such-revision"]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "no-such-revision" in told or "git" in told
    assert main(["--quick", "--only", "loss", "--against", "HEAD"]) == 2
    assert "name it in --only" in capsys.readouterr().err


def test_a_profile_has_milliseconds_bytes_and_calls():
    profile = measure(QUICK, architecture="hybrid", size="100k", vocab_size=300, shape=(2, 16), precision="fp32")
    for part in ("milliseconds", "megabytes", "calls"):
        assert {"matrix products", "optimizer", "softmax and loss"} <= set(profile[part])
    assert sum(profile["calls"].values()) > 100


def test_bytes_moved_are_inputs_and_outputs_once():
    with torch.profiler.profile(record_shapes=True, profile_memory=True) as profiler:
        x = torch.ones(1000, 64)
        x.t().to(torch.bfloat16)
        x.neg_()
        torch.nn.functional.linear(x, x[:8])
    found = moved(profiler.profiler.kineto_results.experimental_event_tree(), lambda names: names[0])
    assert found["aten::copy_"] == 1000 * 64 * (4 + 2)
    assert found["aten::neg_"] == 2 * 1000 * 64 * 4
    product = found["aten::linear"] + found["aten::addmm"] + found["aten::mm"] + found["aten::matmul"]
    assert product == 4 * (1000 * 64 + 8 * 64 + 1000 * 8)


def test_an_unknown_row_is_refused(capsys):
    assert main(["--only", "nothing"]) == 2
    assert "There is no row 'nothing'" in capsys.readouterr().err
