"""Runs every command of the guides, in order, in an empty folder; and the examples of the README as they are printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Spark does so little here that compiling it well takes longer than it saves.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
BLOCK = re.compile(r"^```(sh|python)( fails)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text):
    return [(language, bool(fails), body) for language, fails, body in BLOCK.findall(text)]


def environment():
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "ICEBERG_JAR": iceberg_jar(), "JAVA_TOOL_OPTIONS": QUICK_JAVA}


def iceberg_jar():
    """Iceberg's jar for Spark; `make setup` puts it there."""
    cache = Path(os.environ.get("ANABRANCH_CACHE", ROOT / ".cache"))
    return str(next((cache / "spark").glob("iceberg-spark-runtime-*.jar"), ""))


def run(language, body, folder, env):
    if language == "python":
        command = [sys.executable, "-c", body]
    else:
        # Variables that a block exports reach the next one.
        command = ["bash", "-euo", "pipefail", "-c", f"[ -f .env ] && . ./.env; {body}\nexport -p > .env"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("guide", sorted((ROOT / "docs/guide").glob("*.md")), ids=lambda path: path.stem)
def test_every_command_of_the_guide_does_what_it_says(guide, tmp_path):
    commands = blocks(guide.read_text())
    assert commands, f"{guide} has no commands"
    for language, fails, body in commands:
        done = run(language, body, tmp_path, environment())
        shown = f"{body}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        assert (done.returncode != 0) == fails, shown
        assert "Traceback" not in done.stderr and "panicked" not in done.stderr, shown


def test_the_python_example_of_the_readme_works_as_printed(tmp_path):
    example = next(body for language, _, body in blocks((ROOT / "README.md").read_text()) if language == "python")
    done = run("python", example, tmp_path, environment())
    assert done.returncode == 0, done.stderr
    assert "9.5" in done.stdout


def test_the_guide_prints_what_it_promises(tmp_path):
    """The figures that the text of the first hour states."""
    guide = (ROOT / "docs/guide/first-hour.md").read_text()
    output = ""
    for language, _, body in blocks(guide):
        output += run(language, body, tmp_path, environment()).stdout
    assert "spend_not_negative" in output
    assert "{'total': [" in output

    import pyarrow.parquet as pq

    before, after = (pq.read_table(tmp_path / f"{name}.parquet")["total"].to_pylist() for name in ("before", "after"))
    assert before == [9.5, 30.0, None]
    assert after == [19.5, 30.0, None]
