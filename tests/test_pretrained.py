"""A model folder: what is saved comes back bit for bit, and a damaged folder is told in one sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import weft
import weft.api
import weft.hf
from tests.conftest import small_model
from weft import memory
from weft.data import train_tokenizer
from weft.errors import UserError
from weft.files import write_atomic
from weft.pretrained import load_config, load_into, load_model, load_tokenizer, save_model, save_weights


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bpe", [b"the weaver and the weft and the warp " * 20], 270)


def saved(folder: Path, tokenizer, pattern="[qf]2a", **settings):
    model = small_model(pattern, settings, vocab_size=tokenizer.vocab_size)
    save_model(model, tokenizer, folder)
    return model


@pytest.fixture
def folder(tmp_path, tokenizer):
    saved(tmp_path / "run", tokenizer)
    return tmp_path / "run"


@pytest.mark.parametrize("pattern", ["[qf]2", "[q[fa]2]2x", "afqx"])
@pytest.mark.parametrize("settings", [{}, {"tie_embeddings": False, "head_bias": True, "bias": True}], ids=["", "more"])
@torch.no_grad()
def test_a_saved_model_comes_back_bit_equal(tmp_path, tokenizer, pattern, settings):
    model = saved(tmp_path / "run", tokenizer, pattern, **settings)
    again = load_model(tmp_path / "run")
    assert again.config == model.config
    assert not again.training
    before, after = dict(model.named_parameters()), dict(again.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and after[name].requires_grad for name in before)
    tokens = torch.randint(0, 270, (2, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(tokens)[0], again(tokens)[0])


def test_shared_parameters_are_written_once(tmp_path, tokenizer):
    model = saved(tmp_path / "run", tokenizer, "[qf]3")
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == model.parameter_count
    assert len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}) == 2


def test_a_loaded_model_trains_on(folder):
    model = load_model(folder)
    loss, _ = model.train().loss(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_config_json_says_what_hugging_face_tools_look_for(tmp_path, tokenizer):
    saved(tmp_path / "run", tokenizer, boundary_id=tokenizer.boundary_id, padding_id=tokenizer.padding_id)
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (values["model_type"], values["architectures"]) == ("weft", ["WeftForCausalLM"])
    assert (values["weft_format"], values["weft_version"]) == (2, weft.__version__)
    assert values["bos_token_id"] == values["eos_token_id"] == tokenizer.boundary_id
    assert values["pad_token_id"] == tokenizer.padding_id
    assert (values["pattern"], values["vocab_size"], values["hidden_size"]) == ("[qf]2a", 270, 16)


def test_the_folder_says_where_the_classes_are_and_that_padding_is_never_written(folder):
    values = json.loads((folder / "config.json").read_text())
    assert values["auto_map"]["AutoModelForCausalLM"] == "modeling_weft.WeftForCausalLM"
    names: dict = {}
    exec((folder / "modeling_weft.py").read_text(), names)
    assert (names["WeftForCausalLM"], names["WeftConfig"]) == (weft.hf.WeftForCausalLM, weft.hf.WeftConfig)
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 268,
        "eos_token_id": 268,
        "pad_token_id": 269,
        "suppress_tokens": [269],
    }


def test_the_model_loads_without_a_tokenizer_and_the_tokenizer_without_a_model(folder):
    (folder / "tokenizer.json").rename(folder / "aside")
    load_model(folder)
    (folder / "aside").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").unlink()
    load_tokenizer(folder)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"])
def test_what_trainer_leaves_beside_a_model_is_no_obstacle_and_not_loaded(folder, malicious, name):
    data, sign = malicious
    (folder / name).write_bytes(data)
    load_both(folder)
    assert not sign.exists()


@pytest.mark.parametrize("found", [3, "9", None])
def test_another_format_is_told(folder, found):
    edit_config(folder, weft_format=found)
    with pytest.raises(UserError, match="upgrade Weft"):
        load_model(folder)


def test_the_tokenizer_comes_back_and_transformers_reads_it(folder, tokenizer):
    from transformers import AutoTokenizer

    weft.hf.register()  # or transformers asks whether to run the folder's code
    text = "The weaver, the weft; 漢字\n\n warp"
    ids = tokenizer.encode(text).tolist()
    assert load_tokenizer(folder).encode(text).tolist() == ids
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(text)["input_ids"] == [tokenizer.boundary_id, *ids]
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text
    assert theirs.eos_token_id == tokenizer.boundary_id


def test_another_window_is_laid_over_the_configuration(folder):
    assert load_model(folder, window=33).window == 33
    with pytest.raises(UserError, match=r"window.*greater than 0"):
        load_model(folder, window=0)


def load_both(folder) -> None:
    load_tokenizer(folder)
    load_model(folder)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path, left: int):
    path.write_bytes(path.read_bytes()[:left])


def change_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["embedding.weight_VD"] = tensors["embedding.weight_VD"][:-1].contiguous()
    save_file(tensors, folder / "model.safetensors")


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(dict(list(tensors.items())[1:]), folder / "model.safetensors")


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "not a run directory: it has no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "half written, model.safetensors .*copy it again"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "half written, tokenizer.json is missing"),
    "weights cut short": (lambda f: cut(f / "model.safetensors", 2000), "model.safetensors' is damaged"),
    "weights all but gone": (lambda f: cut(f / "model.safetensors", 3), "model.safetensors' is damaged"),
    "weights of another shape": (change_shape, "does not fit its config.json"),
    "a tensor is missing": (drop_tensor, "does not fit its config.json"),
    "another width": (lambda f: edit_config(f, hidden_size=24), "does not fit its config.json"),
    "config cut short": (lambda f: cut(f / "config.json", 40), "config.json' is damaged: it is not JSON"),
    "config not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "is damaged: it is not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[1, 2]"), "is damaged"),
    "another model": (lambda f: edit_config(f, model_type="gpt2"), "model of type 'gpt2', not a Weft model"),
    "a newer Weft": (
        lambda f: edit_config(f, weft_format=3, weft_version="9.1"),
        "has format 3, and this Weft reads formats up to 2: upgrade Weft",
    ),
    "an impossible value": (lambda f: edit_config(f, hidden_size=-1), "'config.json.hidden_size' is -1"),
    "an impossible block": (lambda f: edit_config(f, blocks=[{"kind": "z"}]), "which is one of a .attention., f"),
    "a block that fits no schedule": (lambda f: edit_config(f, schedule=[0, 1]), "name each of the 3 blocks"),
    "tokenizer cut short": (lambda f: cut(f / "tokenizer.json", 100), "tokenizer.json' is damaged"),
    "a foreign tokenizer": (lambda f: (f / "tokenizer_config.json").write_text("{}"), "not made by Weft"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_told_in_one_sentence(folder, damage, sentence):
    damage(folder)
    with pytest.raises(UserError, match=sentence) as told:
        load_both(folder)
    assert str(folder) in str(told.value) or "config.json" in str(told.value)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    for path in (tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(UserError, match="There is no run directory .*'weft train'"):
            load_model(path)


def test_a_run_that_has_not_finished_is_told_to_resume(folder):
    (folder / "model.safetensors").unlink()
    (folder / "recipe.yaml").write_text("{}")
    with pytest.raises(UserError, match="only half written, model.safetensors is missing: go on .* resume=True"):
        load_config(folder)


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def malicious(tmp_path) -> tuple[bytes, Path]:
    """A pickle that really does harm, and the sign of it."""
    sign = tmp_path / "harm"
    data = pickle.dumps(Malicious(sign))
    pickle.loads(data)
    assert sign.exists()
    sign.rmdir()
    return data, sign


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "optimizer.pkl", "a.pickle", "last.ckpt"])
def test_a_folder_with_a_pickle_is_refused_and_the_pickle_not_loaded(folder, malicious, name):
    data, sign = malicious
    (folder / name).write_bytes(data)
    for load in (load_model, load_tokenizer, weft.load, lambda f: weft.evaluate(f, __file__), weft.generate):
        with pytest.raises(UserError, match=f"holds a pickle .{name}.*safetensors only"):
            load(folder)
    assert not sign.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_pickle_under_another_name_is_not_loaded_either(folder, malicious, name):
    data, sign = malicious
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match="damaged|no readable"):
        load_both(folder)
    assert not sign.exists()


def test_torch_pickles_are_not_loaded(folder, malicious):
    torch.save({"weights": Malicious(malicious[1])}, folder / "model.safetensors")
    with pytest.raises(UserError, match="damaged"):
        load_model(folder)
    assert not malicious[1].exists()


def test_tensors_that_do_not_fit_leave_the_model_alone(tmp_path):
    model = small_model("q")
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    with pytest.raises(UserError, match="does not fit"):
        load_into(model, {name: torch.zeros(1) for name in before}, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())


@pytest.mark.parametrize("name", ["write", "weights"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "disk is full.*resume=True"),
        (errno.EDQUOT, "disk is full"),
        (errno.EACCES, "cannot be written: choose another place"),
    ],
)
def test_a_file_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, monkeypatch, name, number, sentence):
    def write(value: float) -> None:
        if name == "write":
            write_atomic(tmp_path / "file", f"{value}" * 1000)
        else:
            save_weights({"a": torch.full((100,), value)}, tmp_path / "file")

    def fail(_descriptor):
        raise OSError(number, os.strerror(number))

    write(1.0)
    before = (tmp_path / "file").read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=sentence):
        write(2.0)
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    write(2.0)
    assert (tmp_path / "file").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_other_failures_are_not_disguised_and_leave_nothing_behind(tmp_path, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.EIO, "a failing disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="a failing disk"):
        write_atomic(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_as_utf_8(tmp_path):
    write_atomic(tmp_path / "file", "Ruoŧŧa\n")
    assert (tmp_path / "file").read_bytes() == "Ruoŧŧa\n".encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.to(torch.int32), "kind I32"),
        (lambda x: x.to(torch.complex64), "kind C64"),
        (lambda x: x.to(torch.float8_e4m3fn), "kind F8_E4M3"),
        (lambda x: x.to(torch.bfloat16) if x.dim() > 1 else x, "several kinds (BF16, F32)"),
        (lambda x: x * float("nan"), "not all numbers"),
        (lambda x: x + float("inf"), "not all numbers"),
    ],
    ids=["integers", "complex", "float8", "mixed", "NaN", "infinite"],
)
def test_weights_that_no_model_has_are_told(folder, tmp_path, change, words):
    path = folder / "model.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path)
    for use in (load_model, lambda run: weft.api.tensorise(run, tmp_path / "made")):
        with pytest.raises(UserError) as told:
            use(folder)
        assert words in str(told.value)
    assert not (tmp_path / "made").exists()


def test_weights_of_one_kind_of_floats_are_taken(folder):
    path = folder / "model.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}, path)
    assert load_model(folder).parameter_count > 0


def test_weights_that_memory_does_not_hold_are_told_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100.0)
    monkeypatch.setattr("weft.pretrained.load", lambda _: pytest.fail("was read"))
    with pytest.raises(UserError, match="needs at least .* of memory"):
        load_model(folder)


@pytest.mark.parametrize("value", [0, -1, 10**12, 1e300, "x", [], {}, None], ids=str)
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "blocks", "schedule", "boundary_id"])
def test_a_configuration_that_no_model_has_is_told(folder, key, value):
    values = json.loads((folder / "config.json").read_text())
    if key == "boundary_id" and value in (0, None):
        pytest.skip("a boundary that there may be")
    (folder / "config.json").write_text(json.dumps(values | {key: value}))
    with pytest.raises(UserError):
        load_model(folder)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not JSON"):
        load_model(folder)


def test_a_tokenizer_of_another_model_is_told(folder):
    train_tokenizer("bpe", [b"the weaver and the weft and the warp " * 20], 275).save(folder)
    with pytest.raises(UserError, match="tokenizer of 275 tokens and a model of 270"):
        load_tokenizer(folder)


def strange(kind: str) -> dict[str, object]:
    """The model of a tokenizer.json that does not keep the family's promises."""
    letters = {letter: place for place, letter in enumerate(["[UNK]", *"abc"])}
    return {
        "WordLevel": {"type": "WordLevel", "vocab": letters, "unk_token": "[UNK]"},
        "WordPiece": {
            "type": "WordPiece",
            "vocab": letters,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 9,
        },
        "Unigram": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": None, "byte_fallback": False},
        "BPE": {"type": "BPE", "vocab": letters, "merges": []},
    }[kind]


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram", "BPE"])
@pytest.mark.parametrize("said", ["bpe", "unigram", "bytes", "closed-words"])
def test_a_tokenizer_of_another_family_is_told(folder, kind, said):
    values = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values | {"model": strange(kind)}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"weft_kind": said}))
    with pytest.raises(UserError, match="no tokenizer of kind|is damaged"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "does not give a text back"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "does not give a text back"),
        ({"added_tokens": []}, "has no <|boundary|>|is damaged|gaps"),
    ],
    ids=["normalizer", "pre-tokenizer", "no special tokens"],
)
def test_a_tokenizer_that_loses_text_is_told(folder, change, words):
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=words.replace("|b", r"\|b").replace("y|>", r"y\|>")):
        load_tokenizer(folder)


def test_a_tokenizer_that_was_saved_while_it_cut_texts_reads_them_whole(folder):
    values = json.loads((folder / "tokenizer.json").read_text())
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(values | {"truncation": cut}))
    assert (
        load_tokenizer(folder).decode(load_tokenizer(folder).encode("the weaver and the weft"))
        == "the weaver and the weft"
    )
