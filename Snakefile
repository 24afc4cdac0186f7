# Executes chapters, one job each. `make book` starts it for the pages whose keys are not current; it also runs alone:
#   python -m claimbook plan && snakemake --cores 2 --rerun-triggers mtime
# and sends the jobs to a cluster with one of Snakemake's executor plugins (`make book CLUSTER=slurm`; by hand it is
# --workflow-profile requirements/slurm in place of --cores).
import sys
from pathlib import Path

from claimbook.source.pages import Layout, notebooks

PROFILE = config.get("profile", "quick")
DEVICE = config.get("device", "cpu")
SEED = config.get("seed", 0)
JOBS = config.get("jobs", 1)


rule all:
    input:
        [str(Layout(Path(), PROFILE).executed(page)) for page in notebooks(Path())],


# The key is a file that `plan` renews when the page has to be executed: it alone decides. A prose edit changes the
# chapter's time stamp and nothing else, hence ancient(). The job appears under its output's name when it is whole.
rule execute:
    input:
        chapter=ancient("chapters/{page}.md"),
        key=f"build/{PROFILE}/keys/{{page}}.json",
    output:
        f"build/{PROFILE}/executed/{{page}}.ipynb",
    resources:
        gpu=1 if DEVICE == "cuda" else 0,
    shell:
        "{sys.executable} -m claimbook execute {wildcards.page}"
        " --profile {PROFILE} --device {DEVICE} --seed {SEED} --jobs {JOBS}"
