"""A trace in files is the trace."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import weft
from tests.command import assert_mistake, run_weft
from weft.inside.shards import write_trace
from weft.reading import read_split


def together(folder):
    index = json.loads((folder / "index.json").read_text())
    shards = [load_file(folder / shard["file"]) for shard in index["shards"]]
    assert [len(shard["tokens"]) for shard in shards] == [shard["tokens"] for shard in index["shards"]]
    return index, {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def test_shards_hold_what_a_trace_of_each_document_yields(run, tmp_path):
    opened = weft.Run(run)
    model, tokenizer = opened.model, opened.tokenizer
    text = read_split(run, tokenizer, (), "train")
    sites = ("residual.1", "cell", "pattern")
    out = tmp_path / "trace"
    how = {"boundary_id": tokenizer.boundary_id, "weights": "", "shard_bytes": 50_000}
    index = write_trace(model, text, sites, out, **how)
    told, values = together(out)
    assert told == index
    assert len(index["shards"]) > 1
    assert values["tokens"].tolist() == text.tokens.tolist()[: index["tokens"]]
    assert index["tokens"] >= len(text.tokens) - 1  # nothing is read behind the last token
    for document in range(text.documents):
        here = values["documents"] == document
        ids = values["tokens"][here][None]
        (piece,) = model.trace(ids, sites=sites, piece=10_000)
        for site, value in piece.values.items():
            expected = value[0].transpose(0, 1) if site.startswith("pattern") else value[0]
            torch.testing.assert_close(values[site][here], expected, rtol=1e-4, atol=1e-5)


def test_the_command_writes_shards_and_says_what_is_wrong(run, tmp_path):
    out = tmp_path / "trace"
    told = run_weft("trace", run, "--sites", "residual, cell.0", "--out", out, "--dtype", "float16", "--tokens", 50)
    assert "sites" in told.out, told
    index, values = together(out)
    assert list(index["sites"]) == ["residual.0", "cell.0", "residual.1", "residual.2", "residual.3"]
    assert values["cell.0"].dtype == torch.float16
    assert 49 <= index["tokens"] <= 51
    assert_mistake(run_weft("trace", run, "--out", out), "holds something already")
    assert_mistake(run_weft("trace", run), "--out")
    assert_mistake(run_weft("trace", run, "--out", tmp_path / "b", "--sites", "cells"), "no site 'cells'", "cell")
    assert_mistake(run_weft("trace", run, "--out", tmp_path / "b", "--sites", ","), "Name sites")
    assert_mistake(run_weft("trace", run, "--out", tmp_path / "b", "--dtype", "int8"), "no dtype 'int8'")
    assert not (tmp_path / "b").exists()


def test_what_is_written_stays_whole_where_the_disk_fills(run, tmp_path, monkeypatch):
    opened = weft.Run(run)
    text = read_split(run, opened.tokenizer, (), "train")
    from weft.inside import shards

    written = []
    whole = shards.write_atomic

    def fills(path, content):
        if len(written) >= 4:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        whole(path, content)

    monkeypatch.setattr(shards, "write_atomic", fills)
    out = tmp_path / "trace"
    with pytest.raises(weft.UserError, match="The disk is full"):
        write_trace(
            opened.model,
            text,
            ("residual",),
            out,
            boundary_id=opened.tokenizer.boundary_id,
            weights="",
            shard_bytes=1000,
        )
    index, values = together(out)
    assert len(index["shards"]) == 2
    assert len(values["tokens"]) == index["tokens"]
