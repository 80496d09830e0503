"""Training with transformers' ``Trainer``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import weft
from tests.hf.adapted import (
    BOUNDARY,
    VOCABULARY,
)


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


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # the page does not trouble its readers with it
def test_the_python_of_the_page_runs_in_order(run, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "hugging-face.md").read_text(encoding="utf-8")
    (run.parent / "runs").mkdir()
    run.rename(run.parent / "runs" / "mine")
    monkeypatch.chdir(run.parent)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "hugging-face.md", "exec"), names)
    assert "Sápmi lea" in capsys.readouterr().out
    assert names["kept"].get_seq_length() > names["cache"].get_seq_length() > 0
    weft.load("runs/tuned")
    assert weft.load_tokenizer(Path("runs/tuned")).vocab_size == VOCABULARY
