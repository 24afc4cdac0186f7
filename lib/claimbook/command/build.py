"""Building: execute what is not current, stage it, collect verdicts, make the site, and record what was found."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from claimbook.command import untouched
from claimbook.evidence import cards
from claimbook.registry import device_comparison, verdicts
from claimbook.registry.history import history
from claimbook.run import devices, failures
from claimbook.run.engine import BuildFailed, alone, execute_all, say
from claimbook.run.execute import ANSI, commit, execute, executed_run, outputs_metadata
from claimbook.site import merge
from claimbook.source import pages
from claimbook.source.files import digest, to_json, tree_digest, write_if_changed, write_whole
from claimbook.source.pages import BookError, Layout
from claimbook.source.parameters import Parameters
from claimbook.source.settings import read_settings


class Incomplete(BuildFailed):
    """Chapters or the site failed, but all chapters were tried: what the others found is staged."""


def build(root: Path, parameters: Parameters, *, fresh_site: bool = False) -> Path:
    """Everything from chapters to the site; returns its folder.

    Args:
        fresh_site: Forget what Sphinx read before, so that warnings of pages that did not change are seen again.

    A chapter that failed is published as a page that says so; the site is built with it, and then the build fails.

    Raises:
        Incomplete: a chapter or the site failed.
        BuildFailed: the engine that runs the chapters failed.
        BookError: the sources are wrong.
    """
    clock = time.perf_counter()
    layout = Layout(root, parameters.profile)
    with alone(root):
        sources = untouched.sources(layout, parameters)
        if not fresh_site and untouched.is_untouched(layout, sources):
            say(f"book: nothing was touched, {time.perf_counter() - clock:.1f} s: {layout.html}/index.html")
            return layout.html
        executed, failed = execute_all(layout, parameters)
        stage(layout, parameters, failed)
        try:
            site = "site built" if make_site(layout, fresh=fresh_site, strict=not failed) else "site unchanged"
        except BuildFailed as problem:
            raise Incomplete("\n\n".join(filter(None, [failures.told(failed), str(problem)]))) from None
        if not failed:
            untouched.note(layout, sources)
    seconds = time.perf_counter() - clock
    if failed:
        raise Incomplete(f"{failures.told(failed)}; {executed}\n{site}, with a page for each that says so")
    say(f"book: {executed}, {site}, {seconds:.1f} s: {layout.html}/index.html")
    return layout.html


def run(root: Path, parameters: Parameters) -> None:
    """Execute the chapters that are not current, and nothing else: what a machine with a GPU is asked for.

    Raises:
        BuildFailed: a chapter failed.
        BookError: the sources are wrong.
    """
    with alone(root):
        executed, failed = execute_all(Layout(root, parameters.profile), parameters)
    if failed:
        raise BuildFailed(f"{failures.told(failed)}; {executed}")
    say(f"book: {executed}")


def stage(layout: Layout, parameters: Parameters, failed: Mapping[str, dict] = MappingProxyType({})) -> None:
    """Write everything that the site is made of to ``build/<profile>/site``, and remove what is no longer part of it.

    Args:
        failed: Page -> report of the chapters that failed: nothing that they computed earlier is staged.

    Raises:
        Stale: a page is not current, which a build that got here has ruled out.
    """
    names = pages.pages(layout.root)
    executed = [page for page in pages.notebooks(layout.root) if page not in failed]
    layout.staged.mkdir(parents=True, exist_ok=True)
    kept = [_copy(layout.root / name, layout.staged / name) for name in ("_config.yml", "_toc.yml")]
    for page in names:
        if page in failed:
            kept.append(write_if_changed(layout.staged / f"{page}.md", failures.page(layout, failed[page])))
        elif page in executed:
            kept += merge.merge(layout, page, parameters)
        else:
            kept.append(_copy(layout.source(page), layout.staged / f"{page}.md"))
    chapters = layout.root / "chapters"
    for path in sorted(chapters.rglob("*")):
        if path.is_file() and path.suffix not in (".md", ".ipynb") and not path.name.startswith("."):
            kept.append(_copy(path, layout.staged / path.relative_to(chapters)))
    write_if_changed(layout.build / "verdicts.json", to_json(verdicts.collect(layout, executed)))
    write_if_changed(layout.build / "evidence.json", to_json(verdicts.records(layout, executed)))
    write_if_changed(layout.build / "runs.json", to_json(merge.runs(layout, executed)))
    write_if_changed(layout.build / "history.json", to_json(history(layout.root, layout.profile)))
    shown = device_comparison.stage(layout.root, names, layout.profile)
    write_if_changed(layout.build / "devices.json", to_json(shown))
    write_if_changed(layout.build / "failures.json", to_json({page: failed[page]["error"] for page in failed}))
    wanted = {path.resolve() for path in kept}
    for path in [p for p in layout.staged.rglob("*") if p.is_file() and p.resolve() not in wanted]:
        path.unlink()


def _copy(source: Path, target: Path) -> Path:
    return write_if_changed(target, source.read_bytes())


def make_site(layout: Layout, *, fresh: bool = False, strict: bool = True) -> bool:
    """Build the site from the staged folder, warnings being errors; say whether there was something to do.

    The published folder is replaced by a whole new one, and only when the build succeeded.

    Args:
        strict: False where a chapter failed: links to what it would hold lead nowhere then. The next build reads
            every page again.

    Raises:
        BuildFailed: with the warnings; Sphinx forgets what it read, so that the next build sees them again.
    """
    if not fresh and site_is_current(layout):
        return False
    work, stamp = layout.build / "work", layout.build / "site.sha256"
    machinery, current = _machinery_digest(layout), _site_digest(layout)
    made_by = work / "machinery.sha256"  # absent while Sphinx works: what it left when it was killed is not trusted
    if fresh or not made_by.is_file() or made_by.read_bytes() != machinery.encode():
        shutil.rmtree(work, ignore_errors=True)
    made_by.unlink(missing_ok=True)
    stamp.unlink(missing_ok=True)
    say("book: building the site")
    log = layout.build / "logs" / "jupyter-book.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(layout.staged), "--path-output", str(work)]
    command += ["-n", "--keep-going", "--quiet", *(["-W"] if strict else [])]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SPHINX")} | {"NO_COLOR": "1"}
    with open(log, "w", encoding="utf-8") as stream:
        result = subprocess.run(command, cwd=layout.build, stdout=stream, stderr=subprocess.STDOUT, env=variables)
    built = work / "_build" / "html"
    if result.returncode or not (built / "index.html").is_file():
        shutil.rmtree(work, ignore_errors=True)
        raise BuildFailed(_site_report(layout, log))
    write_whole(made_by, machinery)
    fresh_copy, old = layout.build / "html.new", layout.build / "html.old"
    for folder in (fresh_copy, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built, fresh_copy)
    if not strict:
        shutil.rmtree(work)
    if layout.html.exists():
        layout.html.rename(old)
    fresh_copy.rename(layout.html)
    shutil.rmtree(old, ignore_errors=True)
    write_whole(stamp, current)
    return True


def site_is_current(layout: Layout) -> bool:
    """Whether the published site was made from what is staged now."""
    stamp = layout.build / "site.sha256"
    made_from = stamp.read_bytes() if stamp.is_file() else b""
    return (layout.html / "index.html").is_file() and made_from == _site_digest(layout).encode()


def _site_digest(layout: Layout) -> str:
    """Hash of everything that the site is made from."""
    tables = [layout.build / f"{n}.json" for n in ("verdicts", "evidence", "runs", "history", "devices", "failures")]
    tables += sorted([*(layout.root / "data" / "claims").glob("*.yaml"), *(layout.root / "data/audit").glob("*.json")])
    library = [
        layout.root / "lib" / name for name in read_settings(layout.root).library
    ]  # its reference is read from it
    tables += sorted(path for folder in library for path in folder.rglob("*.py"))
    contents = (path.read_bytes() for path in tables if path.is_file())
    return digest(tree_digest(layout.staged), _machinery_digest(layout), *contents)


def _machinery_digest(layout: Layout) -> str:
    """Hash of what shapes every page: the site's extension, its settings, the set of pages, the locked versions."""
    package = Path(__file__).parents[1]
    files = sorted(p for p in (package / "site").rglob("*") if p.is_file() and p.suffix != ".pyc")
    files += [layout.staged / "_config.yml", layout.staged / "_toc.yml", layout.root / "requirements" / "dev.txt"]
    staged = sorted(
        str(p.relative_to(layout.staged)) for p in layout.staged.rglob("*") if p.suffix in (".md", ".ipynb")
    )
    return digest(*(path.read_bytes() for path in files if path.is_file()), *staged)


def _site_report(layout: Layout, log: Path) -> str:
    """The warnings and errors of a failed site build, with names of chapters instead of staged files."""
    lines = ANSI.sub("", log.read_text(encoding="utf-8")).splitlines()
    found = [line for line in lines if "WARNING" in line or "ERROR" in line or "Error:" in line]
    texts = [line.replace(f"{layout.staged}/", "chapters/").replace(".ipynb:", ".md:") for line in dict.fromkeys(found)]
    count = f"the site was not built ({len(texts)} warnings or errors); log: {log.relative_to(layout.root)}"
    return "\n".join([*(texts[:20] or lines[-10:]), count])


def chapter(root: Path, page: str, parameters: Parameters) -> None:
    """Execute one page if its key is not current, and show its verdicts.

    Raises:
        ChapterFailed: a cell raised an error.
    """
    layout = Layout(root, parameters.profile)
    done = execute(layout, page, parameters)
    for metadata in outputs_metadata(layout.executed(page)):
        for stored in metadata.get("evidence", []):
            say(cards.line(stored))
    run = executed_run(layout, page)
    state = "executed" if done else "is current, was executed"
    say(f"{page} {state} in {run['seconds']:.1f} s, {run['memory'] / 2**20:.0f} MB: {layout.executed(page)}")


def build_and_record(root: Path, parameters: Parameters) -> None:
    """Build, and record what was found; of a GPU also if a chapter or the site failed, before that is raised.

    The verdicts of the processor are the published ones, and come from a whole build only.

    Raises:
        BuildFailed, BookError: as :func:`build` and :func:`record` do.
    """
    try:
        build(root, parameters)
    except Incomplete as problem:
        if parameters.device == "cpu":
            raise
        try:
            record(root, parameters)
        except BookError as also:
            raise BuildFailed(f"{problem}\n{also}") from None
        raise
    record(root, parameters)


def record(root: Path, parameters: Parameters) -> None:
    """Store the verdicts of the last build in ``data/verdicts``, what its pages cost in ``data/costs``.

    What a GPU found is stored beside what the processor found, and compared with it. There a chapter may have failed:
    its error is stored with the costs, and its claims are told.

    Raises:
        BookError: there is no build with these parameters, or it is damaged; or a chapter failed on the processor, or
            all that decide a claim on a GPU.
    """
    layout = Layout(root, parameters.profile)
    path = layout.build / "verdicts.json"
    if not path.is_file():
        raise BookError(f"there are no verdicts yet; run make book PROFILE={parameters.profile}")
    found = verdicts.read_verdicts(path, f"run make book PROFILE={parameters.profile}, which writes it anew")
    failed = failures.staged(layout)
    if failed and (parameters.device == "cpu" or not found):
        why_all = "on the processor all have to run" if parameters.device == "cpu" else "no other decides a claim"
        raise BookError(f"nothing is recorded: {', '.join(failed)} failed, and {why_all}")
    runs = merge.runs(layout, [page for page in pages.notebooks(root) if page not in failed])
    other = [page for page, run in runs.items() if run.get("device", "").split()[:1] != [parameters.device]]
    if other:
        words = f"PROFILE={parameters.profile} DEVICE={parameters.device}"
        raise BookError(f"{other[0]} was not executed with {words}; run make book {words} first")
    name = devices.stem(parameters.profile, parameters.device)
    verdicts.record(root, name, found)
    devices.record_costs(root, parameters.profile, parameters.device, runs, commit(root), failed)
    say(f"recorded {len(found)} verdicts in data/verdicts/{name}.json")
    for comparison in device_comparison.comparisons(root) if parameters.device == "cuda" else []:
        say(device_comparison.told(comparison))
    claims = verdicts.read_claims(root)
    for page in failed:
        lost = [claim for claim, row in claims.items() if row["page"] == page and claim not in found]
        say(f"  {page} failed, not recorded: {', '.join(lost) or 'no claim'}")
    for claim in verdicts.missing(root, found):
        if claims[claim]["page"] not in failed:
            say(f"  still without a verdict: {claim}")
