"""Training with transformers' ``Trainer``."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import weft
from tests.hf.adapted import (
    BOUNDARY,
    VOCABULARY,
)
from weft.errors import UserError


def test_the_trainer_trains_it_and_its_folder_loads_natively(run, tmp_path):
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer, model = AutoTokenizer.from_pretrained(run), AutoModelForCausalLM.from_pretrained(run)
    data = [tokenizer(text) for text in ["the weaver and the weft"] * 4 + ["the warp and the weft", "the"] * 2]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=3e-2,
        report_to="none",
        save_steps=6,
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        dataloader_pin_memory=False,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, data_collator=collator, processing_class=tokenizer
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    batch = collator(data[3:5])
    del batch["labels"]
    folder = tmp_path / "out" / "checkpoint-6"  # where the optimizer and the arguments lie, too
    assert torch.equal(weft.load(folder)(batch["input_ids"])[0], model.eval()(batch["input_ids"]).logits)
    assert weft.load_tokenizer(folder).boundary_id == BOUNDARY


def python_of(page: str) -> dict:
    """Run the Python of a part of the page, and return what it has named."""
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "hugging-face.md", "exec"), names)
    return names


@pytest.fixture
def page(run, monkeypatch) -> str:
    """The page, in a folder that has the run that it speaks of."""
    (run.parent / "runs").mkdir()
    run.rename(run.parent / "runs" / "mine")
    monkeypatch.chdir(run.parent)
    return (Path(__file__).parents[2] / "docs" / "hugging-face.md").read_text(encoding="utf-8")


TRL = "### With trl\n"


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # the page does not trouble its readers with it
def test_the_python_of_the_page_runs_in_order(page, capsys):
    before, _, after = page.partition(TRL)
    names = python_of(before + after[after.index("\n## ") :])
    assert "Sápmi lea" in capsys.readouterr().out
    assert names["kept"].get_seq_length() > names["cache"].get_seq_length() > 0
    weft.load("runs/tuned")
    assert weft.load_tokenizer("runs/tuned").vocab_size == VOCABULARY
    collated = names["trainer"].data_collator(names["documents"])
    for labels, mask in zip(collated["labels"], collated["attention_mask"], strict=True):
        assert labels[mask == 1][-1] == BOUNDARY


# What trl, or a library under it, warns of for itself.
TRL_WARNINGS = pytest.mark.filterwarnings(
    "ignore:'pin_memory' argument", "ignore:.*will be removed in v6:FutureWarning"
)


@pytest.fixture(scope="module")
def trl():
    """The library, with peft beside it; others' modules may warn when they are first imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("peft")
        found = pytest.importorskip("trl")
        assert all(map(hasattr, [found] * 3, ("SFTTrainer", "DPOTrainer", "GRPOTrainer")))  # imported when asked for
    return found


@TRL_WARNINGS
def test_the_python_on_fine_tuning_runs_in_order(page, trl, capsys):
    section = page[page.index("## Fine-tune") :]
    names = python_of(section[: section.index("\n## ")])
    assert "Buore beaivvi" in capsys.readouterr().out
    rendered = names["trainer"].train_dataset[0]["input_ids"]
    assert (rendered[0], rendered[-1], rendered.count(BOUNDARY)) == (BOUNDARY, BOUNDARY, 2)
    for made in ("tuned", "sft", "merged", "chat"):
        assert weft.load(f"runs/{made}").config.vocab_size == VOCABULARY
        assert weft.load_tokenizer(f"runs/{made}").boundary_id == BOUNDARY
    with pytest.raises(UserError, match="merge it into its model"):
        weft.load("runs/lora")


@TRL_WARNINGS
def test_a_model_that_trl_has_fine_tuned_stops_where_its_texts_did(run, tmp_path, trl):
    from datasets import Dataset

    tokenizer, model = AutoTokenizer.from_pretrained(run), AutoModelForCausalLM.from_pretrained(run)
    arguments = trl.SFTConfig(
        str(tmp_path / "out"),
        max_steps=40,
        per_device_train_batch_size=3,
        learning_rate=3e-2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    texts = Dataset.from_dict({"text": ["the weft", "the warp and the weft", "weaver"]})
    trainer = trl.SFTTrainer(model=model, args=arguments, train_dataset=texts, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    written = model.eval().generate(**tokenizer("the warp", return_tensors="pt"), max_new_tokens=30)
    assert tokenizer.decode(written[0, 1:]) == f"the warp and the weft{tokenizer.eos_token}"
    greedy = weft.Sampling(temperature=0)
    assert weft.generate(tmp_path / "out", "the warp", max_new_tokens=30, sampling=greedy) == " and the weft"
