"""A named part of a run whose source has changed needs a new version, or a word that it does not.

`part_versions.json` records version and source of every part. After a change, either raise the
part's version, if it gives other results, or leave it, if the results stay the same; then run
`python tests/store/test_part_versions.py` and commit the new record with the change.
"""

import ast
import hashlib
import importlib
import inspect
import json
import sys
from pathlib import Path

RECORD = Path(__file__).parent / "part_versions.json"
_NETWORKS = {
    "alexnet": ("alexnet",),
    "conv": ("convnet",),
    "efficientnet": ("efficientnet", "inverted_residual"),
    "mobilenet": ("mobilenet", "inverted_residual"),
    "resnet": ("resnet",),
    "shufflenet": ("shufflenet",),
    "swin": ("swin",),
    "vgg": ("vgg",),
    "vit": ("vit",),
}
_NOT_CODE = ("ctx", "kind", "type_comment", "type_params")
_OF_TERMS = ("teachers.statistics_matching", "teachers.layer_statistics")


def parts() -> dict[str, tuple[int, tuple[str, ...]]]:
    """Version and modules of every named part."""
    from delt_jax import models, terms
    from delt_jax.augment import crop, mix, rand_augment, shuffle
    from delt_jax.recipe import choices
    from delt_jax.recovery import initial_images
    from delt_jax.training import protocols

    found = {}
    for name in terms.names():
        found[f"term.{name}"] = (terms.find(name).version, (f"terms.{name}", *_OF_TERMS))
    for name in choices("select.start"):
        more = {"real": ("recovery.selection",), "rded": ("recovery.mosaics",)}.get(name, ())
        found[f"start.{name}"] = (initial_images.version(name), ("recovery.initial_images", *more))
    for name in protocols.NAMES:
        found[f"protocol.{name}"] = (
            protocols.version(name),
            ("training.protocols", "training.student_step"),
        )
    for name in models.NAMES:
        files = next(f for prefix, f in _NETWORKS.items() if name.startswith(prefix))
        modules = (*files, "layers", "norm")
        found[f"model.{name}"] = (models.version(name), tuple(f"models.{m}" for m in modules))
    found["augment.crop"] = (crop.VERSION, ("augment.crop",))
    operations = ("rand_augment", "affine", "enhance", "tables", "chosen")
    modules = tuple(f"augment.{name}" for name in operations)
    found["augment.rand_augment"] = (rand_augment.VERSION, modules)
    found["augment.shuffle"] = (shuffle.VERSION, ("augment.shuffle",))
    for name in ("cutmix", "mixup"):
        found[f"augment.{name}"] = (mix.VERSION, ("augment.mix",))
    return found


def record() -> dict[str, list]:
    """Versions and hashes of the sources as they are now."""
    return {
        name: [version, hashlib.sha256("".join(map(code, modules)).encode()).hexdigest()[:16]]
        for name, (version, modules) in parts().items()
    }


def code(module: str) -> str:
    """The statements of a module that compute: no imports, docstrings, comments or layout."""
    tree = ast.parse(inspect.getsource(importlib.import_module(f"delt_jax.{module}")))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _is_silent(statement)]
    return dump(tree)


def dump(node) -> str:
    """Syntax as text, the same from every version of Python, unlike that of `ast.dump`."""
    if isinstance(node, list):
        return f"[{','.join(map(dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in _NOT_CODE]
    filled = [f"{name}={dump(value)}" for name, value in fields if value not in (None, [])]
    return f"{type(node).__name__}({','.join(filled)})"


def _is_silent(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_changed_parts_have_new_versions():
    recorded, now = json.loads(RECORD.read_text()), record()
    assert now.keys() == recorded.keys(), "parts have come or gone: " + __doc__
    for name, (version, digest) in now.items():
        before = recorded[name]
        assert version >= before[0], f"{name} went back from version {before[0]} to {version}"
        assert (version, digest) == tuple(before), f"{name} has changed. {__doc__}"


def test_every_statement_that_computes_counts(tmp_path):
    assert code("augment.mix") != code("augment.shuffle")
    assert "VERSION" in code("augment.mix")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    RECORD.write_text(json.dumps(record(), indent=1) + "\n")
