"""Models from strangers: nothing runs, nothing is written, nothing outside the bundle is read."""

import ast
import hashlib
import json
import os
import pickle  # noqa: TID251 - to make what must be refused
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from stub_models import fresh_weights, stub_plan

import biosegkit
from biosegkit.bundle import load, write_bundle, zip_bundle
from biosegkit.checkpoint import load_tensors
from biosegkit.engines.torch_file import read_state
from biosegkit.errors import BiosegError, FileError, PlanError


@pytest.fixture
def bundle(tmp_path):
    plan = stub_plan(2)
    return write_bundle(tmp_path / "bundle", plan, {"0": fresh_weights(plan)})


def relist(folder):
    """Make bundle.json agree with changed members, as an attacker would."""
    info = json.loads((folder / "bundle.json").read_text())
    info["members"] = {p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
                       for p in folder.iterdir() if p.name != "bundle.json"}
    (folder / "bundle.json").write_text(json.dumps(info))


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".pkl", ".ckpt", ".PTH"])
def test_S1_foreign_checkpoints_are_refused_unread_with_a_remedy(tmp_path, ending):
    path, mark = tmp_path / f"model{ending}", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Evil(mark)))
    for reader in (load, load_tensors):
        with pytest.raises(FileError, match="safetensors"):
            reader(path)
    assert not mark.exists()


def test_S2_a_pickle_named_safetensors_is_refused_and_not_tried_otherwise(tmp_path, bundle):
    mark = tmp_path / "mark"
    (bundle / "weights-0.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    relist(bundle)
    with pytest.raises(FileError, match="no safetensors"):
        load(bundle)
    with pytest.raises(FileError, match="no readable tensors"):
        load_tensors(bundle / "weights-0.safetensors")
    assert not mark.exists()


@pytest.mark.parametrize("change", [
    {"method": "os.system"},
    {"method_options": {"__class__": "os"}},
    {"unknown": 1},
])
def test_S3_names_in_a_plan_import_and_run_nothing(bundle, change):
    plan = json.loads((bundle / "plan.json").read_text())
    (bundle / "plan.json").write_text(json.dumps({**plan, **change}))
    relist(bundle)
    with pytest.raises(PlanError):
        load(bundle)


def test_S3_a_network_name_is_looked_up_in_a_table(bundle):
    plan = json.loads((bundle / "plan.json").read_text())
    plan["configuration"]["architecture"]["name"] = "__import__('os').system"
    (bundle / "plan.json").write_text(json.dumps(plan))
    relist(bundle)
    with pytest.raises(PlanError, match="network"):
        load(bundle)


def test_S4_object_arrays_are_refused(tmp_path, bundle):
    mark = tmp_path / "mark"
    array = np.empty(1, object)
    array[0] = Evil(mark)
    np.save(bundle / "sample_in.npy", array, allow_pickle=True)
    relist(bundle)
    with pytest.raises(FileError, match="sample_in"):
        load(bundle)
    assert not mark.exists()


def test_S4_a_header_that_claims_more_than_there_is_is_refused(bundle):
    data = (bundle / "sample_in.npy").read_bytes()
    old = data[: data.index(b"\n")]
    shape = old[old.index(b"(") : old.index(b")") + 1]
    lie = old.replace(shape, b"(999999, 999999)")
    lie = lie.rstrip() + b" " * (len(old) - len(lie.rstrip()))
    (bundle / "sample_in.npy").write_bytes(lie[: len(old)] + data[len(old) :])
    relist(bundle)
    with pytest.raises(FileError, match="sample_in"):
        load(bundle)


def packed(bundle, target, extra):
    """A zip of the bundle with further members."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in bundle.iterdir():
            archive.write(path, path.name)
        for info, data in extra:
            archive.writestr(info, data)
    return target


@pytest.mark.parametrize("name", ["../escape.json", "/tmp/escape.json", "sub/plan.json", "C:\\escape.json",
                                  "weights-../../x.safetensors", "run.sh", "folder/"])
def test_S5_names_outside_the_closed_list_are_refused(tmp_path, bundle, name):
    target = packed(bundle, tmp_path / "m.zip", [(name, b"x")])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError, match="members"):
        load(target)
    assert sorted(tmp_path.rglob("*")) == before


def test_S5_a_link_in_a_zip_is_refused(tmp_path, bundle):
    info = zipfile.ZipInfo("weights-1.safetensors")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(FileError, match="weights-1"):
        load(packed(bundle, tmp_path / "m.zip", [(info, b"/etc/passwd")]))


def test_S5_a_bomb_is_refused_before_it_is_opened(tmp_path, bundle):
    (bundle / "plan.json").unlink()
    target = tmp_path / "m.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plan.json", b" " * ((64 << 20) + 1))
        for path in bundle.iterdir():
            archive.write(path, path.name)
    assert target.stat().st_size < 1 << 20
    with pytest.raises(FileError, match="at most"):
        load(target)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_S5_a_name_twice_is_refused(tmp_path, bundle):
    with pytest.raises(FileError, match="twice"):
        load(packed(bundle, tmp_path / "m.zip", [("plan.json", b"{}")]))


def test_S5_a_damaged_zip_is_refused(tmp_path, bundle):
    target = zip_bundle(bundle, tmp_path / "m.zip")
    data = bytearray(target.read_bytes())
    data[len(data) // 3] ^= 1
    target.write_bytes(bytes(data))
    with pytest.raises(FileError):
        load(target)
    target.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(FileError, match="no bundle"):
        load(target)


def test_S6_a_symbolic_link_in_a_bundle_folder_is_refused(tmp_path, bundle):
    (tmp_path / "elsewhere.json").write_bytes((bundle / "plan.json").read_bytes())
    (bundle / "plan.json").unlink()
    (bundle / "plan.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(FileError, match="plan"):
        load(bundle)


@pytest.mark.parametrize("members", [{"../../secret": {}}, {"http://x/weights-0.safetensors": {}}, {}])
def test_S6_members_that_are_listed_but_not_there_are_refused(bundle, members):
    info = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**info, "members": {**info["members"], **members, "x": {}}}))
    with pytest.raises(FileError, match="members"):
        load(bundle)


@pytest.mark.parametrize("name", ["plan.json", "weights-0.safetensors", "sample_in.npy", "sample_out.npy"])
def test_S5_a_member_with_another_hash_is_refused(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[-2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    with pytest.raises(FileError, match="SHA-256"):
        load(bundle, "cpu")


def test_S8_the_sample_comes_from_the_seed_alone_and_no_path_is_in_the_bundle(tmp_path, bundle):
    plan = stub_plan(2)
    other = write_bundle(tmp_path / "other", plan, {"0": fresh_weights(plan, 5)})
    assert (bundle / "sample_in.npy").read_bytes() == (other / "sample_in.npy").read_bytes()
    for path in bundle.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_S1_S3_the_code_has_no_call_that_runs_what_it_reads():
    forbidden = {"eval", "exec", "extractall", "__import__"}
    for path in Path(biosegkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                module = getattr(getattr(node.func, "value", None), "id", "")
                bare = name in forbidden - {"eval"} or (name == "eval" and isinstance(node.func, ast.Name))
                assert not bare, f"{path.name}:{node.lineno} {name}"
                where = f"{path.name}:{node.lineno} {module}.{name}"
                assert (module, name) not in {("torch", "save"), ("pickle", "load"), ("pickle", "loads")}, where
                if (module, name) == ("torch", "load"):  # published weights of Cellpose: tensors only, in one place
                    options = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg == "weights_only"}
                    assert (path.name, options) == ("torch_file.py", {"weights_only": True}), where


def test_S1_a_published_state_dict_runs_nothing_when_read(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "weights.pth"
    for content in (pickle.dumps(Evil(mark), 2), pickle.dumps({"weight": Evil(mark)}, 2)):
        path.write_bytes(content)
        with pytest.raises(FileError, match="read safely"):
            read_state(path, "weights")
    torch.save({"weight": Evil(mark)}, path)  # noqa: TID251
    with pytest.raises(FileError, match="read safely"):
        read_state(path, "weights")
    assert not mark.exists()


def test_S1_every_refusal_is_an_error_a_user_can_act_on(tmp_path):
    (tmp_path / "m.zip").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "empty").mkdir()
    for path in ("m.zip", "empty", "missing"):
        with pytest.raises(BiosegError) as caught:
            load(tmp_path / path)
        assert caught.value.expected or caught.value.remedy
    assert torch.is_inference_mode_enabled() is False
