"""Let programs run for a user whose home folder is missing or read-only."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Environment variables of the folders that Jupyter, IPython, Matplotlib, Keras and others write to.
VARIABLES = (
    "IPYTHONDIR",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "KERAS_HOME",
    "MPLCONFIGDIR",
    "XDG_CACHE_HOME",
)


def replace_unwritable() -> None:
    """Set the variables that are not set to temporary folders if the home folder cannot be written.

    Must be called before these programs are imported. Kernels inherit the variables. The folders are removed
    when this process ends.
    """
    # Unlike `Path.home`, this does not fail for a user without a home folder.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111
    if home.is_dir() and os.access(home, os.W_OK | os.X_OK):
        return
    folder = Path(tempfile.mkdtemp(prefix="chrysalis-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable in VARIABLES:
        if not os.environ.get(variable):
            path = folder / variable.lower()
            path.mkdir()
            os.environ[variable] = str(path)
