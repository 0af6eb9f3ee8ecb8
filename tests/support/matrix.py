"""Runs the run-time tests on every Python 3.10-3.13 that is found, each in an environment of its own.

Only the extras `onnx` and `video` are installed there, so the tests that need torch are not collected: what passes is
what a user of the run time gets. A bundle made with the development environment is handed over by path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
TESTING = ("pytest", "pytest-timeout", "hypothesis")


def interpreters() -> dict[str, str]:
    """Version -> path of an interpreter on PATH or installed by pyenv."""
    found: dict[str, str] = {}
    for version in VERSIONS:
        managed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        for candidate in [shutil.which(f"python{version}"), *map(str, managed)]:
            if candidate and _reports(candidate, version):
                found[version] = candidate
                break
    return found


def _reports(path: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    run = subprocess.run([path, "-c", code], check=False, capture_output=True, text=True)
    return run.returncode == 0 and run.stdout.strip() == version


def run_one(version: str, interpreter: str, bundle: Path) -> bool:
    """Builds the environment of one interpreter if needed and runs the tests in it."""
    environment = ROOT / f".venv-{version}"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", str(environment)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    subprocess.run([*pip, "-e", ".[onnx,video]", *TESTING], cwd=ROOT, check=True)
    variables = {**os.environ, "FLORENCE_TEST_BUNDLE": str(bundle)}
    tests = [str(python), "-m", "pytest", "tests/sdk"]
    return subprocess.run(tests, check=False, cwd=ROOT, env=variables).returncode == 0


def main() -> int:
    """Exit status 0 when every interpreter that was found passed."""
    found = interpreters()
    if not found:
        print(f"no interpreter of {', '.join(VERSIONS)} was found on PATH or under ~/.pyenv", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        make = "import sys; from support.bundles import make_tiny_bundle; make_tiny_bundle(sys.argv[1])"
        path = os.pathsep.join(str(ROOT / name) for name in ("sdk", "training", "converters", "tests"))
        subprocess.run([sys.executable, "-c", make, str(bundle)], check=True, env={**os.environ, "PYTHONPATH": path})
        results = {version: run_one(version, interpreter, bundle) for version, interpreter in found.items()}
    for version in VERSIONS:
        print(
            f"Python {version}: {'not found' if version not in results else 'passed' if results[version] else 'FAILED'}"
        )
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
