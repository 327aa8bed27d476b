"""Every Python snippet of the README runs as it stands, and its commands exist."""

import re
from pathlib import Path

import pytest

from jaxembed.cli import main
from jaxembed.run import load_run, reproduce

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHIPPED = sorted(path.parent for path in (ROOT / "checkpoints").glob("*/recipe.json"))


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number, tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {})
    assert capsys.readouterr().out


def test_there_are_snippets_and_shipped_runs():
    assert len(SNIPPETS) >= 4
    assert SHIPPED


def test_paths_named_in_the_layout_exist():
    layout = README.split("## Layout")[1].split("##")[0]
    for path in re.findall(r"jaxembed/\S+|experiments/|checkpoints/", layout):
        assert (ROOT / path).exists(), path


@pytest.mark.optimized
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_run_reproduces_its_metrics(path):
    rows = reproduce(path)
    assert rows
    assert all(agrees for *_, agrees in rows), rows


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_run_is_small_and_holds_no_local_paths(path):
    files = [file for file in path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 8e6
    assert load_run(path).results
    for file in files:
        if file.suffix in (".json", ".jsonl", ".txt"):
            assert not re.search(r"/(home|root|tmp|Users)/", file.read_text()), file


@pytest.mark.optimized
def test_reproduce_command_accepts_the_shipped_run(capsys):
    assert main(["reproduce", str(SHIPPED[0])]) == 0
    assert "equal" in capsys.readouterr().out
