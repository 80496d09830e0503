"""What is shown of a recipe tells nothing of where things lie."""

from __future__ import annotations

import yaml

from weft.reports.sharing import shareable, without_places


def test_places_are_told_by_their_last_part():
    recipe = {
        "data": {"sources": ["/home/me/texts", "texts/*.txt", "~/more.txt", "hf:/data/set?column=a", "hf:owner/name"]},
        "training": {"start": {"run": "/runs/first"}, "methods": {"distillation": {"run": "runs/second"}}, "seed": 3},
        "made_by": "weft merge /home/me/run",
        "found_at": {"texts/*.txt": "/home/me/texts/*.txt"},
    }
    assert yaml.safe_load(shareable(recipe)) == {
        "data": {"sources": ["texts", "texts/*.txt", "more.txt", "hf:set?column=a", "hf:owner/name"]},
        "training": {"start": {"run": "first"}, "methods": {"distillation": {"run": "runs/second"}}, "seed": 3},
        "made_by": "weft merge run",
    }


def test_what_is_no_place_stays():
    for text in ("\n\n\n", "2.1 bytes/token and 3 / 4", "--set a/b", "https://example.org/a/b", "qf[a]3", ""):
        assert without_places(text) == text
    assert shareable({}) == ""
