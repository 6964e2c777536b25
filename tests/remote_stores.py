"""Object stores in memory, in place of those behind gs:// and s3://."""

import collections
import hashlib
from pathlib import Path

import fsspec


class Unreachable(Exception):
    """What a library of a store may raise."""


class Bucket(fsspec.AbstractFileSystem):
    """Objects by name, with the calls of fsspec that delt_jax makes.

    Attributes:
      objects: contents by bucket and name.
      calls: number of calls by name.
      works: whether a call with a path answers; a test may replace it.
    """

    cachable = False

    def __init__(self):
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.calls: collections.Counter[str] = collections.Counter()
        self.works = lambda call, path: True

    def ls(self, path, detail=True):
        self._called("ls", path)
        if path in self.objects:
            return [self._about(path)]
        inner = {name[len(path) + 1 :] for name in self.objects if name.startswith(f"{path}/")}
        if not inner:
            raise FileNotFoundError(path)
        return [self._about(f"{path}/{name}") for name in {i.split("/")[0] for i in inner}]

    def info(self, path):
        self._called("info", path)
        if not any(name == path or name.startswith(f"{path}/") for name in self.objects):
            raise FileNotFoundError(path)
        return self._about(path)

    def find(self, path, detail):
        self._called("find", path)
        return {n: self._about(n) for n in sorted(self.objects) if f"{n}/".startswith(f"{path}/")}

    def cat_file(self, path):
        self._called("cat", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def get_file(self, path, local, callback):
        Path(local).write_bytes(self.cat_file(path))
        callback.relative_update(len(self.objects[path]))

    def pipe_file(self, path, content):
        self._called("pipe", path)
        self.objects[path] = content

    def put_file(self, local, path, callback):
        self._called("put", path)
        self.objects[path] = Path(local).read_bytes()
        callback.relative_update(len(self.objects[path]))

    def rm_file(self, path):
        self._called("rm", path)
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(path)

    def _called(self, call, path):
        self.calls[call] += 1
        if not self.works(call, path):
            raise Unreachable(f"503 at {path}")

    def _about(self, path):
        if path not in self.objects:
            return {"name": path, "size": 0, "type": "directory"}
        content = self.objects[path]
        tag = hashlib.sha256(content).hexdigest()
        return {"name": path, "size": len(content), "type": "file", "ETag": tag}

    def put(self, path: Path, url: str) -> None:
        """Copies a folder or file there, without a call."""
        inside = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        for one in inside:
            name = f"{url.partition('://')[2]}/{one.relative_to(path).as_posix()}"
            self.objects[name.removesuffix("/.")] = one.read_bytes()

    def below(self, url: str) -> dict[str, bytes]:
        """Contents by name below a URL."""
        prefix = f"{url.partition('://')[2]}/"
        held = self.objects.items()
        return {name.removeprefix(prefix): c for name, c in held if name.startswith(prefix)}
