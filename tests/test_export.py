"""Export: the programs say what the model says, to anyone who reads export.json, and nothing half-done is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command import run_weft
from tests.conftest import BIGRAMS, MAPS, small_config, small_model
from weft.data import train_tokenizer
from weft.errors import UserError
from weft.export import export
from weft.layers import window_attention as attention
from weft.model import WeftModel, build
from weft.pretrained import load_model, save_model

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")

ROOT = Path(__file__).parents[1]
VOCABULARY = 270
# Together every kind of block with each of its settings; pattern, settings, preset.
VARIANTS = {
    "repeated": ("[q]2af", {"attention": {"num_kv_heads": 1}, "feed_forward": {"activation": "swiglu"}}, "modern"),
    "classic": (
        "ax",
        {
            "tie_embeddings": False,
            "attn_qrnn": {"positions": "rotary"},
            "qrnn": {"pooling": "ifo", "zoneout": 0.1},
        },
        "classic",
    ),
    "bare": (
        "aqf",
        {
            "attention": {"positions": "none"},
            "qrnn": {"kernel_size": 3, "pooling": "f", "output_projection": False, "cell_size": 16},
            "feed_forward": {"activation": "gelu"},
        },
        "modern",
    ),
    "structured": ("fqaxf", {"maps": MAPS}, "modern"),
    "shared": ("{qaf}2", {}, "modern"),
    "bigrams": ("qa", {"ngrams": BIGRAMS}, "modern"),
    "stateless": ("f", {"token_shift": False, "adaptive": {"cutoffs": (20, 100), "div_val": 2}}, "modern"),
}


def save(folder: Path, model: WeftModel) -> Path:
    tokenizer = train_tokenizer("bpe", ["the weaver, the weft and the warp: Ruoŧŧa ".encode() * 20], VOCABULARY)
    save_model(model, tokenizer, folder)
    return folder


def variant(name: str) -> WeftModel:
    """A model in which nothing is zero."""
    pattern, settings, preset = VARIANTS[name]
    if "adaptive" not in settings:
        return small_model(pattern, settings, preset, vocab_size=VOCABULARY)
    model = build(small_config(pattern, settings, preset, vocab_size=VOCABULARY), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return model


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Export the cheapest variant as people do, in a process of its own: the run and what was printed."""
    run = save(tmp_path_factory.mktemp("stateless") / "run", variant("stateless"))
    command, environment = [sys.executable, "-m", "weft", "export", str(run)], os.environ | {"COLUMNS": "100"}
    return run, subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


@pytest.fixture(scope="module")
def exports(tmp_path_factory, command):
    """Give the run of a variant with its export in `onnx`, made when it is first asked for."""
    made: dict[str, Path] = {"stateless": command[0]}

    def exported(name: str) -> Path:
        if name not in made:
            run = save(tmp_path_factory.mktemp(name) / "run", variant(name))
            export(run)
            made[name] = run
        return made[name]

    return exported


@pytest.fixture
def exported(exports):
    """The cheapest variant."""
    return exports("stateless")


@pytest.fixture
def no_translation(monkeypatch):
    """Let the command go through the motions: each program is a file with nothing in it, and passes."""
    pytest.importorskip("weft.export.folder")
    monkeypatch.setattr("weft.export.folder.write_program", lambda *arguments: arguments[-1].write_bytes(b""))
    monkeypatch.setattr("weft.export.folder.check_program", lambda name, *_: [done(name)])


def done(name, difference=0.0):
    from weft.export.check import Check

    return Check(program=name, what="nothing", batch=1, tokens=1, largest_difference=difference)


class Program:
    """A reader who knows export.json and nothing else."""

    def __init__(self, folder: Path, name: str) -> None:
        self.about = json.loads((folder / "export.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = folder / self.about["programs"][name]["file"]
        self.session = onnxruntime.InferenceSession(str(path), options)

    def start(self, batch: int) -> list[np.ndarray]:
        return [np.full([batch, *t["shape"][1:]], t["initial"], dtype=t["dtype"]) for t in self.about["state"]]

    def __call__(self, tokens, state, **further):
        names = [tensor["input"] for tensor in self.about["state"]]
        feed = {"tokens": tokens.numpy(), **further, **dict(zip(names, state, strict=True))}
        wanted = ["logits", *(tensor["output"] for tensor in self.about["state"])]
        logits, *after = self.session.run(wanted, feed)
        return torch.from_numpy(logits), after


def tokens_and_reset(batch: int, time: int):
    generator = torch.Generator().manual_seed(time)
    tokens = torch.randint(VOCABULARY, (batch, time), generator=generator)
    return tokens, torch.rand(batch, time, generator=generator) < 0.1


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_sequence_program_is_the_model(exports, name):
    run = exports(name)
    model, program = load_model(run), Program(run / "onnx", "sequence")
    for batch, time in [
        (1, 1),
        (3, 1),
        (2, 4),
        (1, 40),
        (2, attention.QUERY_BLOCK),
        (1, 2 * attention.QUERY_BLOCK + 1),
    ]:
        tokens, reset = tokens_and_reset(batch, time)
        expected, end = model(tokens, None, reset)
        actual, state = program(tokens, program.start(batch), reset=reset.numpy())
        close(actual, expected)
        again, never = tokens_and_reset(batch, 9)[0], np.zeros((batch, 9), bool)
        close(program(again, state, reset=never)[0], model(again, end)[0])


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_step_program_is_the_model(exports, name):
    """Beyond the memory of five tokens, and on from the state that either program left."""
    run = exports(name)
    model, step, sequence = load_model(run), Program(run / "onnx", "step"), Program(run / "onnx", "sequence")
    for batch in (1, 3):
        tokens, _ = tokens_and_reset(batch, 17)
        expected, _ = model(tokens)
        states = [step.start(batch), sequence(tokens[:, :3], step.start(batch), reset=np.zeros((batch, 3), bool))[1]]
        for first, state in zip((0, 3), states, strict=True):
            for place in range(first, 17):
                logits, state = step(tokens[:, place : place + 1], state)
                close(logits[:, 0], expected[:, place])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_files_are_portable_and_described(exports, name):
    run = exports(name)
    assert sorted(path.name for path in (run / "onnx").iterdir()) == [
        "export.json",
        "sequence.onnx",
        "step.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for file in ("step.onnx", "sequence.onnx"):
        loaded = onnx.load(run / "onnx" / file)
        onnx.checker.check_model(loaded, full_check=True)
        assert {opset.domain for opset in loaded.opset_import} == {""}  # nothing but standard operators
        assert not any(node.metadata_props for node in loaded.graph.node)
        shapes = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in [*loaded.graph.input, *loaded.graph.output]
        }
        assert shapes["tokens"] == ["batch", 1 if file == "step.onnx" else "time"]
        about = json.loads((run / "onnx" / "export.json").read_text())
        assert all(shapes[t["input"]] == shapes[t["output"]] == t["shape"] for t in about["state"])


def test_names_and_shapes_of_the_state(exports):
    def described(name):
        about = json.loads((exports(name) / "onnx" / "export.json").read_text())
        return about, {tensor["input"].removeprefix("state."): tensor["shape"][1:] for tensor in about["state"]}

    window = {"keys": [5, 2, 8], "values": [5, 2, 8], "valid": [5]}
    narrow = {"keys": [5, 2, 4], "values": [5, 2, 4], "valid": [5]}
    _, shapes = described("bare")
    of_qrnn = {"1.cell": [16], "1.inputs": [2, 16], "1.last": [16]}
    assert {key: shape for key, shape in shapes.items() if key.startswith("1.")} == of_qrnn
    about, shapes = described("classic")
    assert shapes == (
        {f"0.{key}": shape for key, shape in window.items()}
        | {f"1.attention.{key}": shape for key, shape in narrow.items()}
        | {"1.cell": [12]}
    )
    assert (about["boundary_id"], about["padding_id"], about["vocab_size"], about["window"]) == (268, 269, 270, 5)
    assert all(0 < program["largest_difference"] < 1e-4 for program in about["programs"].values())


def run_example(folder: Path, *arguments) -> str:
    """Run the example in a process of its own, in which torch and weft must not be loaded."""
    script = str(ROOT / "examples" / "onnx_generate.py")
    code = (
        f"import runpy, sys; sys.argv = {[script, str(folder), *map(str, arguments)]!r}\n"
        f"runpy.run_path({script!r}, run_name='__main__')\n"
        "assert not {'torch', 'weft', 'transformers'} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_example_writes_what_weft_generate_writes(exports):
    run, prompt = exports("repeated"), "Ruoŧŧa <|boundary|> the weft"
    options = ["--prompt", prompt, "--max-new-tokens", 40, "--temperature", 0]
    text = run_example(run / "onnx", *options)
    assert text == run_weft("generate", run, *options).out
    assert len(text) > len(prompt) + 10
    warm = ["--prompt", "a", "--max-new-tokens", 20, "--temperature", 50, "--top-k", 50]
    assert run_example(run / "onnx", *warm, "--seed", 1) != run_example(run / "onnx", *warm, "--seed", 2)


def test_the_command_prints_the_differences_and_nothing_else(command):
    run, ran = command
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert "Logits, onnxruntime and weft" in lines[0]
    assert [line.split("│")[1].strip() for line in lines if "│" in line] == ["step"] * 2 + ["sequence"] * 4
    assert lines[-1].startswith(f"{run / 'onnx'}: ")


def test_json_for_programs(tmp_path, no_translation):
    run = save(tmp_path / "run", variant("stateless"))
    told = json.loads(run_weft("export", run, "--json").out)
    assert told["folder"] == str(run / "onnx")
    assert [check["program"] for check in told["checks"]] == ["step", "sequence"]
    assert set(told["files"]) == {path.name for path in (run / "onnx").iterdir()}


def test_a_program_that_differs_is_not_left(tmp_path, exported, monkeypatch):
    """The model is changed between translation and check."""
    from weft.export import folder

    def spoil(name, model, layout, path):
        path.write_bytes((exported / "onnx" / path.name).read_bytes())
        if name == "sequence":
            model.embedding.clusters_KE.add_(0.01)

    monkeypatch.setattr(folder, "write_program", spoil)
    run = save(tmp_path / "run", load_model(exported))
    ran = run_weft("export", run)
    assert ran.code == 2
    assert "Nothing was exported: the logits of sequence.onnx are up to" in " ".join(ran.err.split())
    assert not (run / "onnx").exists()
    assert not any(path.name.startswith(".") for path in run.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_export_leaves_the_earlier_one(tmp_path, no_translation, monkeypatch, error):
    run = save(tmp_path / "run", variant("stateless"))
    export(run)
    before = {path.name: path.read_bytes() for path in (run / "onnx").iterdir()}

    def stop(name, model, layout, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("weft.export.folder.write_program", stop)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError):
        export(run)
    assert {path.name: path.read_bytes() for path in (run / "onnx").iterdir()} == before
    assert not any(path.name.startswith(".") for path in run.iterdir())


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path, no_translation):
    run, out = save(tmp_path / "run", variant("stateless")), tmp_path / "out"
    out.mkdir()
    export(run, out)  # an empty folder
    first = (out / "export.json").stat().st_ino
    export(run, out)
    assert (out / "export.json").stat().st_ino != first
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"something else than an export \('notes.txt'\): choose another folder"):
        export(run, out)
    with pytest.raises(UserError, match="something else"):
        export(run, run)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file: choose a folder"):
        export(run, file)


def test_large_weights_lie_beside_the_program_each_once(tmp_path, monkeypatch):
    """Weights that are tied or repeated are not copied (the exporter does copy those of a few kilobytes)."""
    monkeypatch.setattr("weft.export.programs.LARGEST_FILE", 100)
    settings = {"hidden_size": 64, "feed_forward": {"inner_size": 256}, "token_shift": False}
    model = build(small_config("[f]2", settings, vocab_size=VOCABULARY), seed=0)
    told = export(save(tmp_path / "run", model))
    assert {"step.onnx.data", "sequence.onnx.data"} <= set(told.files)
    size = 4 * model.parameter_count
    assert all(size * 0.95 < told.files[file] < size * 1.05 for file in ("step.onnx.data", "sequence.onnx.data"))
    assert told.files["step.onnx"] < size / 2
    moved = told.folder.rename(tmp_path / "moved")
    Program(moved, "step")(torch.zeros(1, 1, dtype=torch.long), [])


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    ran = run_weft("export", tmp_path, "--format", "gguf")
    assert (ran.code, "There is no export format 'gguf': the formats are onnx." in " ".join(ran.err.split())) == (
        2,
        True,
    )
    with pytest.raises(UserError, match="not a run directory"):
        export(tmp_path)
    monkeypatch.setattr("weft.export._NEEDED", ("onnx", "not_installed"))
    with pytest.raises(UserError, match=r"needs not_installed: pip install 'weft-lm\[export\]'\.$"):
        export(tmp_path)


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize(("time", "memory", "past"), [(1, 5, 0), (10, 3, 3), (9, 20, 6), (8, 4, 4)])
def test_folded_attention_is_attention_in_blocks(monkeypatch, time, memory, past, rotary):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, length, heads, 8, generator=generator)
        for length, heads in ((time, 4), (past + time, 2), (past + time, 2))
    )
    valid = torch.rand(2, past, generator=generator) < 0.7
    reset = torch.rand(2, time, generator=generator) < 0.2
    state = attention.AttentionState(key[:, :past], value[:, :past], valid)
    how = attention._How(memory, rotary, None, 0.0)
    arguments = (query, key, value, attention._documents(state, key[:, past:], reset), how)
    torch.testing.assert_close(attention._attend_folded(*arguments), attention._attend_in_blocks(*arguments))
