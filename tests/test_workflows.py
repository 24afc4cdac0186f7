"""Workflows: zizmor finds nothing to object to, actions are named by commit, and only a push is given the token."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NAMES = [path.stem for path in WORKFLOWS]


def read(name):
    """The workflow of this name."""
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def steps(name):
    """Every step of a workflow."""
    return [step for job in read(name)["jobs"].values() for step in job["steps"]]


def zizmor(folder):
    """What zizmor says of the workflows in a folder, without a network and whatever its settings elsewhere are."""
    command = [
        Path(sys.executable).with_name("zizmor"),
        "--offline",
        "--no-config",
        "--persona",
        "pedantic",
        "--color",
        "never",
        folder,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_zizmor_has_nothing_to_object_to():
    found = zizmor(ROOT / ".github" / "workflows")
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr.count("completed") == len(WORKFLOWS)


def test_zizmor_would_object_to_a_moving_tag_and_a_kept_credential(tmp_path):
    text = (ROOT / ".github" / "workflows" / "gpu.yml").read_text(encoding="utf-8")
    text = re.sub(r"(actions/checkout)@\S+ #", r"\1@v6 #", text).replace("persist-credentials: false", "lfs: false")
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "gpu.yml").write_text(text, encoding="utf-8")
    found = zizmor(folder)
    assert found.returncode > 0
    assert {"unpinned-uses", "artipacked"} <= set(re.findall(r"\[([a-z-]+)\]: ", found.stdout))


def test_an_action_has_one_commit_and_its_version_beside_it_in_all_workflows():
    pins = {}
    for path in WORKFLOWS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "uses:" in line:
                action, *pin = re.fullmatch(r".*uses: (\S+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line).groups()
                assert pins.setdefault(action, pin) == pin
    assert "actions/checkout" in pins


@pytest.mark.parametrize("name", NAMES)
def test_every_job_has_a_limit_and_may_only_read_unless_it_publishes(name):
    workflow = read(name)
    assert workflow["permissions"] == {}
    for title, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 720
        assert job["permissions"] == {"contents": "write" if (name, title) == ("book", "publish") else "read"}


@pytest.mark.parametrize("name", NAMES)
def test_no_value_is_pasted_into_a_script(name):
    assert not [step["run"] for step in steps(name) if "${{" in step.get("run", "")]


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_through_a_pipe_fails_with_its_first_command(name):
    """The default shell of a step has no pipefail; one that is named ``bash`` has."""
    shell = read(name).get("defaults", {}).get("run", {}).get("shell")
    piped = [step for step in steps(name) if re.search(r"\s\| ", step.get("run", ""))]
    assert all(step.get("shell", shell) == "bash" for step in piped)


def test_the_weekly_run_has_other_seeds_and_the_audit_and_keeps_its_logs():
    workflow = read("weekly")
    when = workflow[True]  # YAML reads the key `on` as a truth value
    assert [len(entry["cron"].split()) for entry in when["schedule"]] == [5]
    jobs = workflow["jobs"]
    assert set(jobs) == {"book", "audit"} and 0 not in jobs["book"]["strategy"]["matrix"]["seed"]
    made = [re.findall(r"^make (\w+)", step.get("run", ""), flags=re.MULTILINE) for step in steps("weekly")]
    assert [target for targets in made for target in targets] == ["book", "audit"]
    for job in jobs.values():
        last = job["steps"][-1]
        assert last["if"] == "always()" and "build/quick/logs" in last["with"]["path"].split()


@pytest.mark.parametrize("name", NAMES)
def test_workflows_make_targets_that_exist(name):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    made = re.findall(r"^\s*make (\w+)", "\n".join(step.get("run", "") for step in steps(name)), flags=re.MULTILINE)
    assert set(made) <= set(targets)


@pytest.fixture
def published(tmp_path):
    """A bare repository that the last step of the workflow has pushed a site to, and that step's folder."""
    remote = tmp_path / "owner" / "book.git"
    subprocess.run(["git", "init", "--quiet", "--bare", remote], check=True)
    (tmp_path / "work" / "site").mkdir(parents=True)
    (tmp_path / "work" / "site" / "index.html").write_text("<p>book</p>", encoding="utf-8")
    (tmp_path / "work" / "requirements").symlink_to(ROOT / "requirements")
    step = read("book")["jobs"]["publish"]["steps"][-1]
    given = {"GITHUB_SERVER_URL": tmp_path.as_uri(), "GITHUB_REPOSITORY": "owner/book", "GITHUB_SHA": "0" * 40}
    variables = os.environ | given | {"TOKEN": "a-token", "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path / "work", env=variables, check=True)
    return remote, tmp_path / "work"


def test_the_site_is_pushed_and_its_token_is_written_nowhere(published):
    remote, folder = published
    listed = subprocess.check_output(["git", "ls-tree", "-r", "--name-only", "gh-pages"], cwd=remote, text=True)
    assert {"index.html", ".nojekyll", "binder/requirements.txt"} <= set(listed.split())
    kept = [path for place in published for path in place.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if b"a-token" in path.read_bytes()]


def test_the_push_is_given_the_token_when_the_server_asks(tmp_path):
    """The options of the workflow's git, on the command by which git itself asks for a password."""
    script = read("book")["jobs"]["publish"]["steps"][-1]["run"].replace("\\\n", " ")
    options = re.search(r"^git (-c .*) +push ", script, flags=re.MULTILINE)[1]
    variables = os.environ | {"TOKEN": "a-token", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    asked = subprocess.run(
        ["bash", "-ec", f"git {options} credential fill"],
        input="protocol=https\nhost=git.invalid\n\n",
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"username=x-access-token", "password=a-token"} <= set(asked.stdout.split())
