"""The option `--without-backend` of the tests: no test that runs imports a backend."""

import os
import re
import shutil
import subprocess
import sys

from lib.core import params

TESTS = {
    "test_plain.py": "def test_a():\n    import numpy\n",
    "test_at_its_top.py": "import keras\n\ndef test_a():\n    pass\n",
    "test_through_lib.py": "from lib.networks import backend\n\ndef test_a():\n    pass\n",
    "test_inside.py": """
import subprocess
import sys

def test_kept():
    subprocess.run(["true"], check=True)

def test_of_a_backend():
    try:
        import tensorflow
    except Exception:
        pass

def test_of_another_python():
    subprocess.run([sys.executable, "-c", ""], check=True)
""",
    "fixtures/conftest.py": "import torch\n",
    "fixtures/test_with_them.py": "def test_a():\n    pass\n",
}


def test_only_tests_without_a_backend_are_left(tmp_path):
    for name in ("conftest.py", "shared.py"):
        shutil.copy(params.ROOT / "tests" / name, tmp_path)
    for name, code in TESTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    # Not the variables of the test that runs here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "--without-backend", "-n", "1"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(params.ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.findall(r"^PASSED (\S+)", done.stdout, re.MULTILINE)
    assert sorted(passed) == ["test_inside.py::test_kept", "test_plain.py::test_a"]
