import json, os, time, io
from pathlib import Path
import numpy as np, torch
from PIL import Image
from stal_nb.errors import StoreError, ConfigError
from stal_nb.labels import IGNORE
def atomic_write_bytes(path, data):
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(path.name + ".tmp")
    try:
        with open(tmp, "wb") as f:
            f.write(data); f.flush(); os.fsync(f.fileno())
        os.replace(tmp, path)
    except OSError as e:
        tmp.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be saved ({e})") from e
def atomic_write_json(path, obj): atomic_write_bytes(path, json.dumps(obj, indent=1).encode())
class LabelStore:
    def __init__(self, root, label_space): self.root, self.label_space = Path(root), label_space
    def _f(self, id): return self.root / f"{id}.png"
    def save(self, id, labels, annotator="", seconds=0.0, **kw):
        b = io.BytesIO(); Image.fromarray(np.asarray(labels).astype(np.uint8)).save(b, "PNG"); atomic_write_bytes(self._f(id), b.getvalue())
    def has(self, id): return self._f(id).exists()
    def load(self, id): return torch.from_numpy(np.array(Image.open(self._f(id)))).long()
    def ids(self): return sorted(f.stem for f in self.root.glob("*.png")) if self.root.exists() else []
