"""`figures` of the folder above, for notebooks that run here: a notebook finds what lies in its own folder."""
from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "figures")]
