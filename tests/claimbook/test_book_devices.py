"""Devices: what is stored of a GPU stands beside what is stored of the processor, is compared with it, and is shown."""

import contextlib
import io
import json
from types import SimpleNamespace

import nbformat
import pytest

from claimbook.command import build
from claimbook.command.__main__ import main
from claimbook.registry import device_comparison, verdicts
from claimbook.run import devices, engine, execute, failures
from claimbook.site.devices import Comparison, Seconds, Use, sparkline
from claimbook.source import parameters
from claimbook.source.pages import BookError
from claimbook.source.parameters import Parameters
from tiny_book import ONE, TWO, tiny_book

GPU = Parameters("quick", "cuda", 0, 1)


def entry(**changes):
    plain = {"verdict": "holds", "value": 1e-15, "bound": 1e-12, "control": 0.3, "page": ONE}
    return plain | {"correction": "", "reason": "rounding"} | changes


@pytest.fixture
def book(tmp_path):
    return tiny_book(tmp_path / "book")


def store(book, name, found):
    path = book.root / f"data/verdicts/{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found))


def problems(cpu, gpu):
    return [(row["claim"], row["name"], row["problem"]) for row in device_comparison.compared(cpu, gpu)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["", ""]),
        ({"value": 9e-13, "control": 0.305}, ["", ""]),
        ({"control": 0.31}, ["", "differs by more than is allowed"]),
        ({"value": 3e-12}, ["differs by more than is allowed", ""]),
        ({"verdict": "fails", "value": 0.3}, ["holds on the CPU, fails on the GPU"] * 2),
        ({"value": None}, ["no number on the GPU", ""]),
    ],
)
def test_a_number_may_differ_by_its_claims_own_bound_or_by_two_percent(changes, said):
    names = ["value", "control"]
    assert problems({"Z-one": entry()}, {"Z-one": entry(**changes)}) == [
        ("Z-one", name, text) for name, text in zip(names, said, strict=True)
    ]


def test_a_claim_on_one_device_only_is_named():
    open_claim = entry(verdict="open", value=None, bound=None, control=None)
    assert problems({"Z-one": open_claim}, {"Z-one": open_claim}) == [("Z-one", "", "")]
    assert problems({"Z-one": open_claim}, {}) == [("Z-one", "", "decided only on the CPU")]
    assert problems({}, {"Z-one": open_claim}) == [("Z-one", "", "decided only on the GPU")]


def test_every_stored_number_of_this_book_agrees_with_itself_and_a_perturbed_copy_is_told_apart():
    from tiny_book import REPOSITORY

    cpu = verdicts.read_verdicts(REPOSITORY / "data/verdicts/quick.json", "")
    rows = device_comparison.compared(cpu, cpu)
    numbers = sum(e[name] is not None for e in cpu.values() for name in ("value", "control"))
    assert sum(row["name"] != "" for row in rows) == numbers and {row["claim"] for row in rows} == set(cpu)
    assert not any(row["problem"] for row in rows)
    within, beyond = (
        {c: e if e["value"] is None else e | {"value": e["value"] + f * e["bound"]} for c, e in cpu.items()}
        for f in (0.9, 1.1)
    )
    assert not any(row["problem"] for row in device_comparison.compared(cpu, within))
    decided = [c for c, e in cpu.items() if e["value"] is not None and 0.02 * abs(e["value"]) < 1.1 * e["bound"]]
    named = {row["claim"] for row in device_comparison.compared(cpu, beyond) if row["problem"]}
    assert named == set(decided)


def test_the_command_tells_what_differs(book, capsys):
    words = ["devices", "--root", str(book.root)]
    assert main(words) == 1
    assert "no run on a GPU is stored; on a machine with one: make verdicts DEVICE=cuda" in capsys.readouterr().err
    store(book, "quick-cuda", {"Z-one": entry(control=0.4)})
    assert main(words) == 0
    assert "quick: no run on a CPU is stored" in capsys.readouterr().out
    store(book, "quick", {"Z-one": entry()})
    assert main(words) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "Z-one control: CPU 0.3, GPU 0.4, allowed 0.006: differs by more than is allowed"
    assert second == "quick: 1 of 2 stored numbers agree, CPU and GPU"


def test_a_run_for_a_gpu_is_stored_beside_the_other_and_changes_nothing_of_it(book, capsys):
    for page in (ONE, TWO):
        execute.execute(book.layout, page, book.parameters)
    build.stage(book.layout, book.parameters)
    build.record(book.root, book.parameters)
    names = ["data/verdicts/quick.json", "data/costs/quick.json", "data/claims/Z.yaml"]
    before = {name: (book.root / name).read_bytes() for name in names}
    with pytest.raises(BookError, match="part/one was not executed with PROFILE=quick DEVICE=cuda; run make book"):
        build.record(book.root, GPU)
    for page in (ONE, TWO):
        execute.execute(book.layout, page, GPU)
    run = execute.executed_run(book.layout, ONE)
    assert run["device"].startswith("cuda") and run["device_memory"] == 0  # this torch has no CUDA: nothing was used
    assert "max_memory" not in book.layout.executed(ONE).read_text()
    build.stage(book.layout, GPU)
    capsys.readouterr()
    build.record(book.root, GPU)
    said = capsys.readouterr().out
    assert "in data/verdicts/quick-cuda.json" in said and "2 of 2 stored numbers agree, CPU and GPU" in said
    assert {name: (book.root / name).read_bytes() for name in names} == before
    assert (book.root / "data/verdicts/quick-cuda.json").read_bytes() == before[names[0]]
    last = json.loads((book.root / "data/costs/quick-cuda.json").read_text())[-1]
    assert last["device"].startswith("cuda") and last["pages"][ONE]["device_memory"] == 0


# ------------------------------------------------------------------------------------------------- chapters that fail

DISPLAY = "from IPython.display import display"
EVIDENCE = '{"evidence": [record("Z-two", 0.0)], "table": False}'
SECOND = f'display({{"text/plain": ""}}, raw=True, metadata={{"claimbook": {EVIDENCE}}})'
ON_GPU = "if device == 'cuda':\n    raise RuntimeError('the pump is dry\\nand so is the well')"


@contextlib.contextmanager
def without_engine():
    """Chapters are executed in this process, no site is built, and every device seems to be there."""

    def run_here(layout, parameters, waiting):
        for page in waiting:
            with contextlib.suppress(execute.ChapterFailed):
                execute.execute(layout, page, parameters)
        return failures.read(layout, waiting)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run_chapters", run_here)
        patch.setattr(build, "make_site", lambda layout, **options: True)
        patch.setattr(parameters, "resolve_device", lambda device, installed: device)
        yield patch


def make_verdicts(book, device):
    return main(["verdicts", "--build", "--device", device, "--root", str(book.root)])


def fail_on_gpu(book, name):
    book.edit(f"chapters/part/{name}.md", DISPLAY, f"{DISPLAY}\n\n{ON_GPU}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A book whose two pages decide a claim each, recorded on the processor and then on a GPU."""
    book = tiny_book(tmp_path_factory.mktemp("whole") / "book")
    book.edit(
        "chapters/part/two.md", "print(twice(), stored)", f"{DISPLAY}\nfrom tiny.claims import record\n\n{SECOND}"
    )
    with without_engine():
        assert make_verdicts(book, "cpu") == make_verdicts(book, "cuda") == 0
    return book


@pytest.fixture
def recorded(whole, tmp_path):
    with without_engine():
        yield whole.copy(tmp_path / "recorded")


@pytest.fixture(scope="module")
def half(whole, tmp_path_factory):
    """The same, but page two then failed on the GPU; what was said, and the exit status."""
    book = whole.copy(tmp_path_factory.mktemp("half") / "book")
    fail_on_gpu(book, "two")
    out, err = io.StringIO(), io.StringIO()
    with without_engine(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = make_verdicts(book, "cuda")
    return book, status, out.getvalue(), err.getvalue()


def data(book):
    return {str(path.relative_to(book.root)): path.read_bytes() for path in book.root.glob("data/*/*")}


def of_gpu(book, folder):
    return json.loads((book.root / f"data/{folder}/quick-cuda.json").read_text())


def test_chapters_that_all_run_are_recorded_without_a_word_of_failure(recorded, capsys):
    assert list(of_gpu(recorded, "verdicts")) == ["Z-one", "Z-two"]
    assert "failed" not in of_gpu(recorded, "costs")[-1]
    assert main(["devices", "--root", str(recorded.root)]) == 0
    assert capsys.readouterr().out == "quick: 4 of 4 stored numbers agree, CPU and GPU\n"
    assert "failed" not in shown(Comparison, device_comparison.stage(recorded.root, [ONE, TWO], "quick"))


def test_a_chapter_that_fails_on_a_gpu_takes_nothing_from_the_others(whole, half):
    book, status, said, wrong = half
    assert status == 1 and "recorded 1 verdicts in data/verdicts/quick-cuda.json\n" in said
    assert said.endswith("  part/two failed, not recorded: Z-two\n")
    assert "chapters/part/two.md failed in code cell" in wrong and "1 chapter failed; the finished ones" in wrong
    assert list(of_gpu(book, "verdicts")) == ["Z-one"]
    cost = of_gpu(book, "costs")[-1]
    assert list(cost["pages"]) == [ONE] and cost["failed"] == {TWO: "RuntimeError: the pump is dry"}
    changed = {name for name, content in data(book).items() if content != data(whole).get(name)}
    assert changed == {"data/verdicts/quick-cuda.json", "data/costs/quick-cuda.json"}


def test_the_comparison_says_which_claims_were_not_run_and_why(half, capsys):
    book, *_ = half
    assert main(["devices", "--root", str(book.root)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "part/two failed on the GPU: RuntimeError: the pump is dry",
        "Z-two value: CPU 0, GPU -, allowed -: not run on the GPU: part/two failed",
        "Z-two control: CPU 100, GPU -, allowed -: not run on the GPU: part/two failed",
        "quick: 2 of 4 stored numbers agree, CPU and GPU",
    ]
    text = shown(Comparison, device_comparison.stage(book.root, [ONE, TWO], "quick"))
    assert "part: two: <code>RuntimeError: the pump is dry</code>" in text
    assert "<b>2 of 4</b> stored numbers agree" in text and "not run on the GPU: part/two failed" in text


def test_a_mended_chapter_leaves_no_trace_of_its_failure(half, tmp_path):
    book = half[0].copy(tmp_path / "mended")
    book.edit("chapters/part/two.md", "if device == 'cuda':", "if False:")
    with without_engine():
        assert make_verdicts(book, "cuda") == 0
    assert list(of_gpu(book, "verdicts")) == ["Z-one", "Z-two"] and "failed" not in of_gpu(book, "costs")[-1]


def test_on_the_processor_a_failed_chapter_leaves_the_record_as_it_is(recorded, capsys):
    before = data(recorded)
    recorded.edit("chapters/part/two.md", SECOND, "raise RuntimeError('so is the well')")
    assert make_verdicts(recorded, "cpu") == 1
    assert "1 chapter failed" in capsys.readouterr().err and data(recorded) == before
    assert main(["verdicts", "--device", "cpu", "--root", str(recorded.root)]) == 1
    said = capsys.readouterr().err
    assert said == "\nnothing is recorded: part/two failed, and on the processor all have to run\n"
    assert data(recorded) == before


def test_where_no_claim_is_decided_an_earlier_record_of_the_gpu_stays(recorded, capsys):
    before = data(recorded)
    fail_on_gpu(recorded, "one")
    fail_on_gpu(recorded, "two")
    assert make_verdicts(recorded, "cuda") == 1
    said = capsys.readouterr().err
    assert "2 chapters failed" in said
    assert said.endswith("nothing is recorded: part/one, part/two failed, and no other decides a claim\n")
    assert data(recorded) == before


def test_where_only_the_site_fails_all_of_a_gpu_is_recorded(recorded, capsys):
    def refuse(layout, **options):
        raise build.BuildFailed("the site was not built")

    for name in ("verdicts", "costs"):
        (recorded.root / f"data/{name}/quick-cuda.json").unlink()
    with without_engine() as patch:
        patch.setattr(build, "make_site", refuse)
        assert make_verdicts(recorded, "cuda") == 1
    assert capsys.readouterr().err == "\nthe site was not built\n"
    assert list(of_gpu(recorded, "verdicts")) == ["Z-one", "Z-two"]


def test_nothing_is_recorded_of_a_build_whose_failures_cannot_be_read(recorded, capsys):
    before = data(recorded)
    for content in (b"", b"[]", b'{"part/two": 1}', b"\xff"):
        (recorded.layout.build / "failures.json").write_bytes(content)
        assert main(["verdicts", "--device", "cuda", "--root", str(recorded.root)]) == 1
        assert "failures.json: cut or damaged" in capsys.readouterr().err and data(recorded) == before


def test_on_the_processor_there_is_no_use_of_a_device(book):
    execute.execute(book.layout, ONE, book.parameters)
    run = execute.executed_run(book.layout, ONE)
    assert run["device_memory"] is None and run["device_busy"] is None


def test_costs_are_kept_for_the_last_recordings_one_a_commit(book):
    run = {"seconds": 1.5, "memory": 2**20, "device": "cpu", "device_memory": None}
    for k in range(25):
        devices.record_costs(book.root, "quick", "cpu", {ONE: run | {"seconds": float(k)}}, f"commit{k // 2}")
    found = devices.read_costs(book.root, "quick", "cpu")
    assert [entry["commit"] for entry in found] == [f"commit{k}" for k in range(13)]
    assert found[-1]["pages"] == {ONE: {"seconds": 24.0, "memory": 2**20}}
    assert found[0]["pages"] == {ONE: {"seconds": 1.0}}
    for k in range(13, 40):
        devices.record_costs(book.root, "quick", "cpu", {ONE: run}, f"commit{k}")
    assert len(devices.read_costs(book.root, "quick", "cpu")) == devices.KEPT
    (book.root / "data/costs/quick.json").write_text('[{"commit": "one"}]')
    with pytest.raises(BookError, match="data/costs/quick.json: cut or damaged .*git checkout"):
        devices.read_costs(book.root, "quick", "cpu")


@pytest.mark.parametrize(
    ("old", "new", "used"),
    [("x = 1", "x = torch.ones(1).to(device)", True), ("x = 1", 'x = "device"', False), ("x = 1", "device = 2", False)],
)
def test_a_chapter_uses_the_device_if_its_code_reads_the_parameter(tmp_path, old, new, used):
    head = "---\njupytext: {text_representation: {extension: .md, format_name: myst}}\n---\n# A device\n\n"
    cell = "```{{code-cell}} python3\n{}\n```\n\n"
    parameters = ':tags: [parameters]\n\nprofile = "quick"\nseed = 0\ndevice = "cpu"'
    path = tmp_path / "one.md"
    path.write_text(head + "The device is told.\n\n" + cell.format(parameters) + cell.format("x = 1".replace(old, new)))
    assert devices.uses_device(path) is used


def test_the_share_of_time_is_the_mean_of_what_the_driver_says(tmp_path, monkeypatch):
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\nprintf "0\\n50\\n100\\n[N/A]\\n"; exec sleep 60\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    import time

    with devices.busy("cuda", tmp_path) as share:
        time.sleep(0.5)
    assert share == [0.5]
    with devices.busy("cpu", tmp_path) as share:
        pass
    assert share == []


def test_used_memory_takes_its_cell_away():
    cell = nbformat.v4.new_code_cell(devices.USE)
    cell.outputs = [nbformat.v4.new_output("display_data", metadata={"claimbook": {"device_memory": 7}})]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), cell])
    assert devices.used_memory(notebook) == 7 and len(notebook.cells) == 1


# ----------------------------------------------------------------------------------------------------------- on a page


def shown(kind, stored):
    """The HTML of a directive over what the pipeline left."""
    directive = object.__new__(kind)
    environment = SimpleNamespace(
        toctree_includes={"index": [ONE, TWO]}, config=SimpleNamespace(root_doc="index"), found_docs=set()
    )
    directive.state = SimpleNamespace(document=SimpleNamespace(settings=SimpleNamespace(env=environment)))
    directive.stored = lambda: stored
    (node,) = directive.run()
    return node.astext()


def test_a_page_says_that_no_run_on_a_gpu_is_stored():
    text = shown(Comparison, {"profile": "quick", "comparisons": []})
    assert "No run on a GPU is stored." in text and "make verdicts DEVICE=cuda PROFILE=quick" in text


def test_a_page_compares_numbers_and_costs():
    rows = device_comparison.compared(
        {"Z-one": entry(), "Z-two": entry()}, {"Z-one": entry(), "Z-two": entry(verdict="holds-with-correction")}
    )
    run = {"seconds": 2.0, "memory": 2**20}
    costs = [
        {"device": "cpu", "pages": {ONE: run}},
        {"device": "cuda (X)", "pages": {ONE: run | {"device_memory": 2**22, "device_busy": 0.25}}},
    ]
    text = shown(Comparison, {"comparisons": [{"profile": "quick", "rows": rows, "costs": costs, "failed": {}}]})
    assert "CPU against GPU (cuda (X)): <b>2 of 4</b> stored numbers agree; these do not:" in text
    assert "holds on the CPU, holds with correction on the GPU" in text and "yes, holds" in text and "rounding" in text
    assert "<td>4 MB</td><td>25 %</td>" in text
    lonely = shown(Comparison, {"comparisons": [{"profile": "paper", "rows": [], "costs": [None, None]}]})
    assert "make verdicts DEVICE=cpu PROFILE=paper" in lonely


def test_a_page_lists_the_chapters_that_use_a_device():
    text = shown(Use, {"uses": {ONE: True, TWO: False}})
    assert "1 of the 2 chapters with code reads" in text and "part: one" in text and "part: two" not in text
    assert "None of the 2 chapters" in shown(Use, {"uses": {ONE: False, TWO: False}})


def test_a_page_shows_seconds_over_time():
    costs = [
        {"commit": f"c{k}", "date": "2026-01-01", "pages": {TWO: {"seconds": 4.0}, ONE: {"seconds": 1.0 + k}}}
        for k in range(3)
    ]
    text = shown(Seconds, {"costs": costs})
    assert text.index("part: one") < text.index("part: two")
    assert "took 5 s in the first and 7 s in the last" in text and "1.0 s first, 3.0 s last, 3 recorded" in text
    assert "No seconds are recorded yet" in shown(Seconds, {})
    assert sparkline([0.0]).count("circle") == 1
