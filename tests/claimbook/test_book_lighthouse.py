"""What ``make lighthouse`` reads from a result, and what it says when something is missing."""

import json
import subprocess
from urllib.request import urlopen

import pytest

from claimbook.command import lighthouse
from claimbook.source.pages import BookError


def result(**found):
    return json.dumps({"categories": {name: {"score": score} for name, score in found.items()}})


@pytest.fixture
def site(tmp_path):
    (tmp_path / "index.html").write_text("<p>front</p>")
    return tmp_path


def test_scores_are_read_in_percent():
    assert lighthouse.scores(result(performance=0.945, seo=1)) == {"performance": 94, "seo": 100}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"categories": {"seo": {}}}', '{"categories": null}'])
def test_what_is_no_result_is_refused(text):
    with pytest.raises(BookError, match="no result that can be read"):
        lighthouse.scores(text)


def test_a_page_that_was_not_judged_is_named_with_the_reason():
    failed = json.loads(result(seo=None)) | {"runtimeError": {"message": "NO_FCP"}}
    with pytest.raises(BookError, match="NO_FCP"):
        lighthouse.scores(json.dumps(failed))
    with pytest.raises(BookError, match="a category has no score"):
        lighthouse.scores(result(seo=None))


def test_the_median_of_the_runs_counts_and_one_page_below_is_enough(site, monkeypatch, capsys):
    monkeypatch.setattr(lighthouse.shutil, "which", lambda name: f"/bin/{name}")
    given = {"performance": iter([10, 97, 98, 99, 94, 60, 100, 100, 100]), "seo": iter([100] * 9)}
    monkeypatch.setattr(lighthouse, "judge", lambda *_: {name: next(values) for name, values in given.items()})
    assert not lighthouse.lighthouse(site, "chromium")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "performance 97, seo 100",
        "performance 94 (below 95), seo 100",
        "performance 100, seo 100",
    ]


def test_what_is_missing_is_said_in_one_line(site, monkeypatch, tmp_path):
    monkeypatch.setattr(lighthouse.shutil, "which", lambda name: None)
    with pytest.raises(BookError, match="no npm found"):
        lighthouse.lighthouse(site, "chromium")
    monkeypatch.setattr(lighthouse.shutil, "which", lambda name: name)
    with pytest.raises(BookError, match="no browser found"):
        lighthouse.lighthouse(site, None)
    with pytest.raises(BookError, match="run make book first"):
        lighthouse.lighthouse(tmp_path / "nothing", "chromium")


def test_a_run_that_fails_says_its_last_line(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "noise\nUnable to connect to Chrome\n")
    monkeypatch.setattr(lighthouse.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(BookError, match="^Lighthouse failed: Unable to connect to Chrome$"):
        lighthouse.judge("http://127.0.0.1/index.html", "chromium")


def test_pages_are_served_compressed(site):
    with lighthouse.served(site) as host, urlopen(f"{host}/index.html") as answer:
        assert answer.headers["Content-Encoding"] == "gzip" and answer.read()[:2] == b"\x1f\x8b"
