"""What all tests share."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "agg")  # figures go to files, also where there is a display

pytest_plugins = ["browser"]


@pytest.fixture(scope="session")
def project():
    "The root of the project."
    return Path(__file__).resolve().parent.parent
