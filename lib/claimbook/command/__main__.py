"""The command line of the book: ``python -m claimbook <step> ...``."""

import argparse
import os
import signal
import sys
from pathlib import Path

from claimbook.source.files import refusal
from claimbook.source.pages import BookError
from claimbook.source.parameters import BadParameter, Parameters, check_page, parse

STEPS = {
    "audit": "make the probes of claims that have none, or by older code",
    "bars": "show how near pages are to essays",
    "build": "execute what is not current, and build the site",
    "run": "execute what is not current, without the site",
    "plan": "list the chapters that are not current, and why",
    "chapter": "execute one chapter and show its verdicts",
    "claim": "decide one claim alone, beside the published verdict and the stored probes",
    "compare": "show what this machine finds beside the published verdicts",
    "devices": "compare the stored verdicts of a GPU with those of the processor",
    "execute": "execute one chapter (what Snakemake calls)",
    "pdf": "print the built site to one PDF",
    "structure": "show which folder of the code imports which",
    "verdicts": "record the verdicts of the last build in data/verdicts",
}


def main(words: list[str] | None = None) -> int:
    """Run one step.

    Exit status: 0, or 1 for a failure or verdicts that disagree, 2 for a parameter that is not allowed, 130 if
    interrupted.
    """
    from claimbook.command import build
    from claimbook.run.engine import BuildFailed
    from claimbook.run.execute import ChapterFailed
    from claimbook.run.execute import main as execute
    from claimbook.site.merge import Stale

    given = _arguments(words)
    try:
        parameters = parse(given.profile, given.device, given.seed, given.jobs, given.cluster)
        root = Path(given.root).resolve()
        if not (root / "_toc.yml").is_file():
            raise BadParameter(f"{root} is not the root of a book: there is no _toc.yml; name the root by --root")
        match given.step:
            case "audit":
                from claimbook.command.audit import audit

                return 0 if audit(root, given.claims, jobs=parameters.jobs) else 1
            case "bars":
                from claimbook.command import bars

                return 0 if bars.show(root, given.pages or bars.pages_of_claims(root)) else 1
            case "claim":
                from claimbook.command import claim

                return 0 if claim.show(root, given.claim, parameters, again=given.probes) else 1
            case "build":
                build.build(root, parameters, fresh_site=given.fresh_site)
            case "run":
                build.run(root, parameters)
            case "plan":
                _plan(root, parameters)
            case "chapter":
                build.chapter(root, check_page(root, given.page), parameters)
            case "compare":
                from claimbook.registry.compare import compare

                return 0 if compare(root, given.page and check_page(root, given.page), parameters) else 1
            case "devices":
                from claimbook.registry import device_comparison

                return 0 if device_comparison.show(root) else 1
            case "execute":
                return execute(root, check_page(root, given.page), parameters)
            case "pdf":
                _pdf(root, parameters)
            case "structure":
                from claimbook.command.structure import picture

                print(picture(root / "lib"))
            case "verdicts":
                (build.build_and_record if given.build else build.record)(root, parameters)
    except BadParameter as problem:
        print(problem, file=sys.stderr)
        return 2
    except (BuildFailed, BookError, ChapterFailed, Stale) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        if (text := refusal(problem)) is None:
            raise
        print(f"\nbook: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbook: interrupted; what is finished is kept, and the next run goes on", file=sys.stderr)
        return 130
    return 0


def _pdf(root: Path, parameters: Parameters) -> None:
    from claimbook.command.check import find_browser
    from claimbook.editions.pdf import make_pdf
    from claimbook.source.pages import Layout

    layout, browser = Layout(root, parameters.profile), find_browser()
    if browser is None:
        raise BookError("no browser found: install Chromium or Chrome, which prints the book")
    target = layout.build / "book.pdf"
    print(f"book: {make_pdf(root, layout.html, target, browser)} sheets: {target}")


def _plan(root: Path, parameters: Parameters) -> None:
    from claimbook.run import engine
    from claimbook.run.execute import executed_run
    from claimbook.source import pages
    from claimbook.source.keys import page_key

    layout = pages.Layout(root, parameters.profile)
    for page in engine.plan(layout, parameters, pages.notebooks(root)):
        print(f"{page}: {engine.why(page_key(root, page, parameters), executed_run(layout, page))}")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m claimbook", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    for name, text in STEPS.items():
        step = steps.add_parser(name, help=text, description=text)
        if name in ("chapter", "execute"):
            step.add_argument("page", help="path of the chapter below chapters/, without suffix")
        if name == "audit":
            step.add_argument("claims", nargs="*", help="ids, or how ids begin; without it, all that have a function")
        if name == "bars":
            step.add_argument("pages", nargs="*", help="paths of chapters; without it, all whose claims are functions")
        if name == "claim":
            step.add_argument("--probes", action="store_true", help="make its probes again")
            step.add_argument("claim", help="the id of a claim, from data/claims")
        if name == "compare":
            step.add_argument("page", nargs="?", default="", help="the same; without it, all that are executed already")
        if name == "verdicts":
            step.add_argument("--build", action="store_true", help="build first, and record what that finds")
        if name == "build":
            step.add_argument("--fresh-site", action="store_true", help="build the site from scratch")
        step.add_argument("--profile", default="quick", help="quick or paper")
        step.add_argument("--device", default="auto", help="auto, cpu or cuda")
        step.add_argument("--seed", default="0", help="a whole number")
        step.add_argument("--jobs", default="", help="chapters at once; default: all cores")
        step.add_argument("--cluster", default="", help="slurm, or the folder of a profile; default: this machine")
        step.add_argument("--root", default=os.curdir, help="the root of the book")
    return parser.parse_args(words)


def interrupted_too() -> None:
    """Let SIGTERM, which batch systems and ``timeout`` send, do what Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


if __name__ == "__main__":
    interrupted_too()
    sys.exit(main())
