"""What is not ours is data, never code: sources, names and texts of a dataset, pages."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bids_stroke.cli.run import main
from bids_stroke.core.files import sha256
from tests.reports.browsing import NO_GL, Visit, chromium
from tests.small import FLAGS, add_subject, place, write_dataset, write_small_model

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "bids_stroke").rglob("*.py"))

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "dill.load",
    "joblib.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load",
    "subprocess.getoutput", "subprocess.getstatusoutput", "shutil.unpack_archive",
    "tempfile.mktemp", "jinja2.Template", "ElementTree.parse", "ElementTree.fromstring",
}  # fmt: skip
METHODS = {"extractall"}
"""Methods that write wherever an archive says."""


def called(node: ast.Call) -> str:
    """What a call calls, as it is written."""
    return ast.unparse(node.func)


def argument(node: ast.Call, name: str) -> Any:
    """Value of a keyword that is a constant; None where it is not given."""
    for keyword in node.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else "?"
    return None


def findings(code: str) -> list[str]:
    """Calls of a source that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        bad = name in FORBIDDEN or name.rpartition(".")[2] in METHODS
        bad |= name == "torch.load" and argument(node, "weights_only") is not True
        bad |= name.endswith("np.load") and argument(node, "allow_pickle") not in (None, False)
        bad |= argument(node, "shell") not in (None, False)
        bad |= argument(node, "autoescape") not in (None, True)
        bad |= argument(node, "verify") is False
        if bad:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_runs_what_a_file_holds(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(x, shell=True)",
        "f(shell=flag)",
        "eval(x)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "archive.extractall(folder)",
        "Environment(autoescape=False)",
        "yaml.load(x, Loader)",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert len(findings(code)) == 1


def test_programs_are_called_in_three_places_only() -> None:
    """A new one needs another look at where its words come from."""
    callers = {
        path.name
        for path in SOURCES
        if re.search(r"\b(subprocess|Popen|CommandLine)\b", path.read_text(encoding="utf-8"))
    }
    assert callers == {"training.py", "schedulers.py", "ranks.py"}


@pytest.mark.slow
def test_bandit() -> None:
    """Each finding is answered where it is, by ``nosec`` with its number and a reason."""
    words = [sys.executable, "-m", "bandit", "-q", "-r", "bids_stroke"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    bare = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if "nosec" in line and not re.search(r"# nosec (B\d{3} ?)+", line)
    ]
    assert bare == []


@pytest.mark.parametrize("name", ["Dockerfile"])
def test_hadolint(name: str) -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


def test_every_requirement_has_an_exact_version() -> None:
    """Without a database of faults, an audit is a list of what exactly is installed."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pinned = {canonical(line.partition("==")[0]) for line in pins}
    options = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    wanted = re.findall(r"^    ([A-Za-z][\w-]+) [<>=]=", options, re.MULTILINE)
    assert len(wanted) > 30
    assert [name for name in wanted if canonical(name) not in pinned] == []


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


SCRIPT = "</script></style><img src=x onerror=hacked=1><script>hacked=1</script>"
MARK = "hacked-was-here"
COMMAND = f";touch {MARK};$(touch {MARK})`touch {MARK}`"
LABELS = (
    f"02;touch {MARK}",
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    "..",
    "0\n3",
    "<img src=x onerror=hacked=1>",
    "\u202e30",
    "é",
    "-rf",
    "%2e%2e",
    "'\"\\",
)


def snapshot(folder: Path) -> dict[str, str]:
    """What lies in a folder, with checksums of files."""
    return {
        str(path.relative_to(folder)): sha256(path) if path.is_file() else os.fspath(path)
        for path in folder.rglob("*")
    }


@dataclass(frozen=True)
class Hostile:
    root: Path
    out: Path
    code: int
    before: dict[str, str]
    after: dict[str, str]


def write_hostile(root: Path) -> Path:
    """A dataset in which every name and text that can be hostile is."""
    bids = write_dataset(root / f"bids {SCRIPT.replace('/', '')}{COMMAND}", ["01"])
    described = {"Name": SCRIPT, "BIDSVersion": "1.10.0", "Authors": [SCRIPT, COMMAND]}
    described |= {
        "License": SCRIPT,
        "HowToAcknowledge": SCRIPT,
        "DatasetDOI": "javascript:hacked=1",
    }
    (bids / "dataset_description.json").write_text(json.dumps(described))
    table = f"participant_id\tstage\t{SCRIPT}\nsub-01\t{SCRIPT}\t{COMMAND}\n"
    (bids / "participants.tsv").write_text(table)
    fields = ("Manufacturer", "ProtocolName", "SeriesDescription", "InstitutionName", SCRIPT)
    sidecar = place(bids, "01").with_name("sub-01_T1w.json")
    sidecar.write_text(json.dumps(dict.fromkeys(fields, SCRIPT) | {"EchoTime": COMMAND}))
    for label in LABELS:
        add_subject(bids, label)
    add_subject(bids, "acq")
    odd = place(bids, "acq")
    odd.rename(odd.with_name(f"sub-acq_acq-`touch {MARK}`_T1w.nii.gz"))
    secret = root / "secret.txt"
    secret.write_text("not an image")
    place(bids, "link").symlink_to(secret)
    (bids / "sub-up").symlink_to("..")
    return bids


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    """A run of the participant and the group level in its own folder."""
    root = tmp_path_factory.mktemp("hostile")
    bids = write_hostile(root)
    model = write_small_model(root / "model")
    (root / "linear.yml").write_text("plugin: Linear\n")
    for name in ("cwd", "out", "work"):
        (root / name).mkdir()
    before = snapshot(root)
    out, plugin = root / "out", str(root / "linear.yml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "cwd")
        words = [str(bids), str(out), "participant", "-w", str(root / "work"), *FLAGS]
        code = main([*words, "--model", str(model), "--nipype-plugin-file", plugin])
        assert main([str(bids), str(out), "group", "--strata", "stage"]) == 0
    return Hostile(root, out, code, before, snapshot(root))


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
def test_words_of_a_file_can_not_steer_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bids = write_dataset(tmp_path / "bids", ["01"])
    filters = tmp_path / "f.json"
    filters.write_text(json.dumps({"t1w": {"a\x1b[2J\n\udcffü": None}}))
    words = [str(bids), str(tmp_path / "out"), "participant", "--bids-filter-file", str(filters)]
    assert main(words) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert "Entity 'a\\x1b[2J\\n\\udcffü' of 't1w'" in sentence


def test_hostile_names_stop_at_their_participant(hostile: Hostile) -> None:
    assert hostile.code == 1
    assert (hostile.out / "sub-01" / "anat").is_dir()
    images = [path for path in hostile.out.rglob("*.nii.gz") if "sub-01" not in path.name]
    assert [path.name for path in images] in ([], ["group_overlap.nii.gz"])


@pytest.mark.slow
def test_nothing_is_written_elsewhere(hostile: Hostile) -> None:
    ours = ("out/", "work/")
    after = {path: what for path, what in hostile.after.items() if not path.startswith(ours)}
    assert after == hostile.before
    for path in hostile.out.rglob("*"):
        assert path.resolve().is_relative_to(hostile.out.resolve())
    assert not [path for path in hostile.after if Path(path).name == MARK]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright, chromium(playwright, *NO_GL) as running:
        yield running


@pytest.mark.slow
def test_pages_run_no_script_of_the_dataset(hostile: Hostile, browser: Any) -> None:
    pages = sorted([*hostile.out.glob("*.html"), *hostile.out.glob("logs/*.html")])
    assert {"sub-01.html", "group.html"} <= {page.name for page in pages}
    for page in pages:
        with Visit(browser, page, "desktop") as visit:
            assert visit.page.evaluate("typeof hacked") == "undefined", page.name
            assert visit.page.locator("img[src=x]").count() == 0, page.name
            assert visit.page.locator("[href^='javascript:']").count() == 0, page.name
            assert not [
                one for one in visit.requests if not one.startswith(("file:", "data:", "blob:"))
            ]


@pytest.mark.slow
def test_a_page_with_a_live_script_would_be_seen(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "p.html").write_text(f"<!doctype html><script>'{SCRIPT}</script>")
    with Visit(browser, tmp_path / "p.html", "desktop") as visit:
        assert visit.page.evaluate("typeof hacked") == "number"
