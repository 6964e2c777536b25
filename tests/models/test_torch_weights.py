"""Weights in and out under torch's names, and files that are read without running them."""

import pickle
import zipfile

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from small_models import assert_same, random_state, small
from torch_pickles import EXPECTED, Attack, dictionary, storage, tensor, write_pth

from delt_jax import models
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, torch_files, torch_weights

RESNET = ModelSpec("resnet18_modified", 5, 32, 3, 8)


@pytest.mark.parametrize("name", models.NAMES)
def test_round_trip_is_bit_exact(name, tmp_path):
    spec = small(name)
    state = random_state(spec)
    variables = torch_weights.from_torch(state, spec)
    torch_files.write(tmp_path / "w.safetensors", torch_weights.to_torch(variables, spec))
    read = torch_files.read(tmp_path / "w.safetensors")
    for entry, array in state.items():
        np.testing.assert_array_equal(read[entry], array)
    assert_same(torch_weights.from_torch(read, spec), variables)
    assert f"{torch_weights.head_name(name)}.weight" in state


def test_variables_have_the_structure_of_a_fresh_model():
    model = models.create(RESNET)
    fresh = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )
    fresh = {k: fresh[k] for k in ("params", "batch_stats")}
    variables = torch_weights.from_torch(random_state(RESNET), RESNET)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, fresh)


def test_layouts_are_transposed_not_reshaped():
    state = random_state(RESNET)
    params = torch_weights.from_torch(state, RESNET)["params"]
    o, i, h, w = 3, 2, 1, 0
    kernel = params["layer1_0"]["conv1"]["kernel"]
    assert kernel[h, w, i, o] == state["layer1.0.conv1.weight"][o, i, h, w]
    assert params["fc"]["kernel"][i, o] == state["fc.weight"][o, i]


def test_counters_and_tables_are_skipped_on_the_way_in_and_tables_made_on_the_way_out():
    state = random_state(RESNET) | {"bn1.num_batches_tracked": np.int64(3)}
    torch_weights.from_torch(state, RESNET)
    swin = small("swin_v2_t")
    out = torch_weights.to_torch(torch_weights.from_torch(random_state(swin), swin), swin)
    table = out["features.1.0.attn.relative_coords_table"]
    assert table.shape == (1, 15, 15, 2)
    assert table[0, 0, 14].tolist() == pytest.approx([-np.log2(9) / 3, np.log2(9) / 3])
    index = out["features.7.1.attn.relative_position_index"]
    assert (index.dtype, index.shape) == (np.int64, (4096,))
    # A token and itself are in the middle of the table, the last and the first at its end.
    assert (index[0], index[-64]) == (7 * 15 + 7, 14 * 15 + 14)


def test_older_names_of_the_vision_transformer_are_known():
    vit = small("vit_b_16")
    state = random_state(vit)
    old = {
        n.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): a
        for n, a in state.items()
    }
    assert_same(torch_weights.from_torch(old, vit), torch_weights.from_torch(state, vit))


def test_the_small_mobilenet_has_the_names_and_shapes_of_delts():
    spec = ModelSpec("mobilenet_v2_modified", 200, 64, 3)
    shapes = {entry.name: entry.shape for entry in torch_weights.entries(spec)}
    assert len(shapes) == 6 + 17 * 18 + 6 + 2  # a convolution and its BatchNorm hold 6
    for name, shape in {
        "pre.0.weight": (32, 3, 1, 1),
        "stage1.residual.0.weight": (32, 32, 1, 1),
        "stage2.1.residual.3.weight": (144, 1, 3, 3),
        "stage2.1.residual.3.bias": (144,),
        "stage7.residual.7.running_var": (320,),
        "conv1.0.weight": (1280, 320, 1, 1),
        "conv2.weight": (200, 1280, 1, 1),
    }.items():
        assert shapes[name] == shape


def test_a_renamed_key_is_named_with_the_one_it_replaces():
    state = random_state(RESNET)
    state["layer2.0.convolution1.weight"] = state.pop("layer2.0.conv1.weight")
    with pytest.raises(UserError) as e:
        torch_weights.from_torch(state, RESNET)
    assert "missing layer2.0.conv1.weight; unexpected layer2.0.convolution1.weight." in str(e.value)


def test_every_misshapen_key_is_named():
    state = random_state(RESNET)
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["layer1.0.bn1.running_var"] = np.ones(3, np.float32)
    with pytest.raises(UserError) as e:
        torch_weights.from_torch(state, RESNET)
    assert "conv1.weight (8x1x3x3 instead of 8x3x3x3)" in str(e.value)
    assert "layer1.0.bn1.running_var (3 instead of 8)" in str(e.value)


@pytest.mark.parametrize("name", ["resnet18_modified", "mobilenet_v2_modified", "vit_b_16"])
def test_a_head_is_cut_to_the_listed_classes_in_their_order(name):
    spec = small(name)
    state = random_state(spec)
    head = torch_weights.head_name(name)
    wide = dict(state)
    for leaf in ("weight", "bias"):
        wide[f"{head}.{leaf}"] = np.concatenate([state[f"{head}.{leaf}"]] * 2)
    cut = torch_weights.to_torch(torch_weights.from_torch(wide, spec, [9, 0, 3, 1, 2]), spec)
    for leaf in ("weight", "bias"):
        expected = state[f"{head}.{leaf}"][[4, 0, 3, 1, 2]]
        np.testing.assert_array_equal(cut[f"{head}.{leaf}"], expected)
    with pytest.raises(UserError, match=head):
        torch_weights.from_torch(wide, spec)
    with pytest.raises(UserError, match="classes 0 to 9, but 10 are"):
        torch_weights.from_torch(wide, spec, [0, 1, 2, 3, 10])
    with pytest.raises(UserError, match="2 classes of the head"):
        torch_weights.from_torch(wide, spec, [0, 1])


# --- files ---


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_are_unwrapped(tmp_path, wrapper, prefix):
    content = dictionary(**{f"{prefix}fc.weight": tensor(storage())})
    if wrapper:
        content = dictionary(**{wrapper: content, "epoch": b"I3\n"})
    read = torch_files.read(write_pth(tmp_path / "w.pth", content))
    assert list(read) == ["fc.weight"]
    np.testing.assert_array_equal(read["fc.weight"], EXPECTED)


def test_strides_offsets_and_byte_order_are_respected(tmp_path):
    content = dictionary(
        t=tensor(storage(), (3, 2), (1, 3)),
        part=tensor(storage(), (2,), (2,), 1),
        scalar=tensor(storage(), (), (), 5),
        empty=tensor(storage(), (0, 3), (3, 1)),
    )
    for order in ("little", "big"):
        numbers = np.arange(6, dtype=np.float32)
        numbers = numbers.byteswap() if order == "big" else numbers
        read = torch_files.read(write_pth(tmp_path / f"{order}.pt", content, numbers, order))
        np.testing.assert_array_equal(read["t"], EXPECTED.T)
        assert read["part"].tolist() == [1, 3]
        assert read["scalar"] == 5
        assert read["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("HalfStorage", np.float16), ("BFloat16Storage", jnp.bfloat16)]
)
def test_half_precision_is_read(tmp_path, kind, dtype):
    numbers = np.arange(6).astype(dtype)
    path = write_pth(tmp_path / "w.pth", dictionary(w=tensor(storage(kind))), numbers)
    np.testing.assert_array_equal(torch_files.read(path)["w"].astype(np.float32), EXPECTED)
    torch_files.write(tmp_path / "w.safetensors", {"w": numbers})
    read = torch_files.read(tmp_path / "w.safetensors")["w"]
    np.testing.assert_array_equal(read.astype(np.float32), EXPECTED.reshape(-1))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, wrapped):
    victim = tmp_path / "victim"
    attack = Attack(victim)
    pickled = pickle.dumps({"model": attack} if wrapped else attack, protocol=2)
    pickle.loads(pickled)
    assert victim.exists()  # the attack is real
    victim.unlink()
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("any/data.pkl", pickled)
    with pytest.raises(UserError, match="and only tensors are read"):
        torch_files.read(tmp_path / "w.pth")
    assert not victim.exists()


@pytest.mark.parametrize(
    "name",
    [
        "posix system",
        "builtins eval",
        "builtins getattr",
        "torch load",
        "argparse Namespace",
        "torch.storage _load_from_bytes",
        "collections defaultdict",
        "torch CharTensor",
    ],
)
def test_whatever_is_not_a_tensor_is_named(tmp_path, name):
    module, attribute = name.split()
    pickled = f"c{module}\n{attribute}\n".encode()
    with pytest.raises(UserError, match=f"refers to {module}.{attribute}, and only tensors"):
        torch_files.read(write_pth(tmp_path / "w.pth", pickled))


@pytest.mark.parametrize(
    "pickled",
    [
        tensor(storage(), (2, 3), (3, 1), 1),  # one number too far
        tensor(storage(), (1000, 1000), (0, 0)),  # a million numbers from one
        tensor(storage(), (2,), (-1,), 5),
        tensor(storage(), (2, 3), (1,)),
        tensor(storage(count=7)),
        tensor(storage(key="1")),
        tensor(b"(Vstorage\nVFloatStorages\nV0\nVcpu\nI6\ntQ"),
        b"ctorch\nFloatStorage\n)R",  # a call of what is no function
        b"not a pickle",
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, pickled):
    path = write_pth(tmp_path / "w.pth", dictionary(w=pickled))
    with pytest.raises(UserError, match=r"damaged|refused"):
        torch_files.read(path)


def test_unreadable_files_are_explained(tmp_path):
    with pytest.raises(UserError, match="no weight file"):
        torch_files.read(tmp_path / "none.pth")
    for name, says in (("w.safetensors", "damaged"), ("w.npz", "neither a .safetensors")):
        (tmp_path / name).write_bytes(b"x" * 20)
        with pytest.raises(UserError, match=says):
            torch_files.read(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme", "no weights")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        torch_files.read(tmp_path / "w.pth")
    for pickled, says in (
        (b"I3\n", "holds a int"),
        (dictionary(epoch=b"I3\n"), "epoch are not tensors"),
        (dictionary(**{"a": tensor(storage()), "module.a": tensor(storage())}), "twice"),
    ):
        with pytest.raises(UserError, match=says):
            torch_files.read(write_pth(tmp_path / "w.pth", pickled))


def test_the_recorded_checkpoint_is_a_conv3_of_ten_classes(golden):
    state = torch_files.read(golden / "checkpoints" / "fashion_mnist_conv3.pth")
    spec = ModelSpec("conv3", 10, 32, 3)
    variables = torch_weights.from_torch(state, spec)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    logits = models.create(spec).apply(variables, images, train=False)
    assert logits.shape == (4, 10)
    assert np.isfinite(logits).all()
    written = torch_weights.to_torch(variables, spec)
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])


def test_safetensors_carry_the_format_that_torchs_tools_look_for(tmp_path):
    torch_files.write(tmp_path / "w.safetensors", {"w": EXPECTED.T})
    with safetensors.safe_open(tmp_path / "w.safetensors", "np") as f:
        assert f.metadata() == {"format": "pt"}
        np.testing.assert_array_equal(f.get_tensor("w"), EXPECTED.T)


def test_files_of_packages_are_found_and_nothing_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "site" / "a_package"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    torch_files.write(package / "models/w.safetensors", {"w": EXPECTED})
    torch_files.write(tmp_path / "site/w.safetensors", {"w": EXPECTED})
    (package / "link.safetensors").symlink_to(tmp_path / "site/w.safetensors")
    monkeypatch.syspath_prepend(tmp_path / "site")
    read = torch_files.read("pkg:a_package/models/w.safetensors")
    np.testing.assert_array_equal(read["w"], EXPECTED)
    for name, says in (
        ("pkg:a_package/../w.safetensors", "leaves the package a_package"),
        (f"pkg:a_package/{tmp_path}/site/w.safetensors", "leaves the package a_package"),
        ("pkg:a_package/link.safetensors", "leaves the package a_package"),
        ("pkg:a_package/models", "has no file models"),
        ("pkg:sys/w.pth", "has no file w.pth"),
        ("pkg:no_such_package/w.pth", "pip install no-such-package"),
        ("pkg:a_package", "write pkg:package/path"),
        ("pkg:a_package/\0", "write pkg:package/path"),
        ("pkg:a_package.models/w.pth", "write pkg:package/path"),
        ("pkg:__main__/w.pth", "write pkg:package/path"),
    ):
        with pytest.raises(UserError, match=says):
            torch_files.local_path(name)


def test_hub_names(tmp_path, monkeypatch):
    torch_files.write(tmp_path / "model.safetensors", {"w": EXPECTED})
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        if repository == "a/offline":
            raise LocalEntryNotFoundError("cannot reach")
        if repository == "a/refused":
            raise OSError("no route\nto host")
        if not (tmp_path / name).exists() or repository == "a/none":
            raise EntryNotFoundError("404")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    np.testing.assert_array_equal(torch_files.read("hf:timm/resnet18.tv_in1k")["w"], EXPECTED)
    torch_files.read("hf:timm/resnet18.tv_in1k/model.safetensors")
    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")] * 2
    for name, says in (
        ("hf:a/offline", "cannot be reached"),
        ("hf:a/refused", r"cannot be downloaded .*\(OSError: no route\)"),
        ("hf:a/none", r"has no file model\.safetensors or pytorch_model\.bin"),
        ("hf:justaname", "write hf:owner/name"),
    ):
        with pytest.raises(UserError, match=says):
            torch_files.read(name)
