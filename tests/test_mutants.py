"""The list of mutations is well formed, its score is recorded and current, and the runner tells caught from missed."""

import json

import pytest

import mutants

LIST = mutants.mutants()


def test_there_are_many_and_none_twice():
    assert len(LIST) >= 60
    assert len({row["key"] for row in LIST}) == len(LIST)


@pytest.mark.parametrize("row", LIST, ids=[f"{row['module']}-{row['key']}" for row in LIST])
def test_a_mutation_changes_one_place_and_leaves_python(row):
    text = mutants.source(row).read_text(encoding="utf-8")
    changed = mutants.mutated(row, text)
    assert changed != text
    compile(changed, row["module"], "exec")


def test_all_are_recorded_as_caught():
    recorded = {result["key"]: result["caught"] for result in json.loads(mutants.RECORD.read_text(encoding="utf-8"))}
    assert recorded.keys() == {row["key"] for row in LIST}, "run make mutants"
    assert [row["what"] for row in LIST if not recorded[row["key"]]] == []


def test_the_runner_tells_a_caught_mutation_from_a_harmless_one():
    row = {
        "module": "networks.homogeneity",
        "what": "",
        "key": "",
        "was": "- order * value)",
        "now": "+ order * value)",
    }
    assert "homogeneity" in mutants.attempt(row, others=[])["caught"]
    assert mutants.attempt(row | {"now": "- value * order)"}, others=[])["caught"] is None
    with pytest.raises(ValueError, match="stands there 0 times"):
        mutants.mutated(row, "nothing")
