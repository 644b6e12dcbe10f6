"""Nothing that is read can run code: no file is unpickled, unpacked or trusted beyond what it is for.

The audit hook in tests/conftest.py watches every test of the suite; here are files made to be dangerous.
"""

import ast
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from probing._model_files import ModelError
from probing._models import load_model
from probing._result_files import read_results
from probing._results import ResultsError
from tasks import _data
from worldprobe._stages import RunError, load_stage

ROOT = Path(__file__).parents[2]


class Payload:
    """Unpickled, it makes a file: what `os.system` would do to you."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def harmless(tmp_path, unpickled):
    """A payload, and the fact that it never ran: no directory appeared, here or above, and nothing was unpickled."""
    yield Payload(tmp_path / "executed")
    assert not (tmp_path / "executed").exists() and not (tmp_path.parent / "outside").exists()
    assert not unpickled


def test_the_hook_sees_what_is_unpickled(unpickled):
    assert pickle.loads(pickle.dumps(Path)) is Path
    assert len(unpickled) == 1 and unpickled[0].startswith("pathlib.Path at ") and "test_no_pickle.py" in unpickled[0]
    unpickled.clear()


# --- models ----------------------------------------------------------------------------------------------------------


def npy(payload) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([payload], dtype=object), allow_pickle=True)
    return file.getvalue()


def saved(value, **how) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def repacked(data: bytes, compression=zipfile.ZIP_STORED, extra: dict | None = None) -> bytes:
    """A checkpoint with its parts packed again, and more of them."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name, content in (extra or {}).items():
            new.writestr(name, content)
    return file.getvalue()


def tarred(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


W_E = torch.zeros(4, 4)
MODELS = {
    "class in a checkpoint": ("m.pth", lambda p: saved({"embed.W_E": p}), "cannot be read as tensors alone"),
    "class beside the tensors": ("m.pt", lambda p: saved({"embed.W_E": W_E, "x": p}),
                                 "cannot be read as tensors alone"),
    "old checkpoint, all pickle": ("m.pth", lambda p: saved({"embed.W_E": p}, _use_new_zipfile_serialization=False),
                                   "damaged or no checkpoint"),
    "bare pickle": ("m.pth", lambda p: pickle.dumps(p), "damaged or no checkpoint"),
    "pickle for safetensors": ("m.safetensors", lambda p: pickle.dumps(p), "is damaged"),
    "array of objects": ("m.npy", npy, "is no model"),
    "array of objects for a checkpoint": ("m.pth", npy, "damaged or no checkpoint"),
    "array archive": ("m.npz", lambda p: repacked(saved({}), extra={"a.npy": npy(p)}), "is no model"),
    "path outside in a checkpoint": ("m.pth", lambda p: repacked(saved({"embed.W_E": W_E}), extra={"../outside": b"x"}),
                                     "'../outside' inside it is compressed, encrypted or points outside"),
    "absolute path in a checkpoint": ("m.pth", lambda p: repacked(saved({"embed.W_E": W_E}), extra={"/outside": b"x"}),
                                      "'/outside' inside it is compressed, encrypted or points outside"),
    "zip bomb": ("m.pth", lambda p: repacked(saved({"embed.W_E": torch.zeros(1 << 20)}), zipfile.ZIP_DEFLATED),
                 "inside it is compressed"),
    "tensor larger than its data": ("m.pth", lambda p: saved({"embed.W_E": torch.zeros(1).expand(1 << 40, 1 << 10)}),
                                    "with less data than that"),
    "sparse tensor": ("m.pth", lambda p: saved({"embed.W_E": torch.sparse_coo_tensor(size=(1 << 40, 1 << 10))}),
                      "with less data than that|cannot be read as tensors alone"),
    "tar archive": ("m.tar.gz", lambda p: tarred({"../outside": b"x"}), "is no model"),
    "tar archive for a checkpoint": ("m.pth", lambda p: tarred({"../outside": b"x"}), "damaged or no checkpoint"),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_dangerous_model_file_is_refused_and_runs_nothing(tmp_path, harmless, kind):
    name, make, says = MODELS[kind]
    (tmp_path / name).write_bytes(make(harmless))
    with pytest.raises(ModelError, match=says) as error:
        load_model(tmp_path / name, device="cpu")
    assert str(tmp_path / name) in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_parts_of_a_checkpoint_that_overlap_are_refused(tmp_path, harmless):
    """The bomb that needs no compression: many names, one and the same bytes."""
    file = tmp_path / "m.pth"
    file.write_bytes(saved({"embed.W_E": torch.zeros(5000)}))
    with zipfile.ZipFile(file, "a") as archive:
        archive.filelist += [max(archive.infolist(), key=lambda entry: entry.file_size)] * 5
        archive.writestr("archive/last", b"")
    with pytest.raises(ModelError, match="its parts are larger than the file"):
        load_model(file, device="cpu")


def test_a_model_directory_with_a_pickle_for_weights_is_refused(gpt2_dir, tmp_path, harmless):
    folder = Path(shutil.copytree(gpt2_dir, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": harmless}, folder / "pytorch_model.bin")
    with pytest.raises((ModelError, pickle.UnpicklingError)):
        load_model(folder, device="cpu")


def test_a_model_directory_that_brings_its_own_code_does_not_run_it(gpt2_dir, tmp_path, harmless):
    folder = Path(shutil.copytree(gpt2_dir, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    code = f"import os\nos.mkdir({str(harmless.file)!r})\n"
    (folder / "modeling_mine.py").write_text(code)
    (folder / "configuration_mine.py").write_text(code)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": {
        "AutoConfig": "configuration_mine.Config", "AutoModelForCausalLM": "modeling_mine.Model"}}))
    with pytest.raises(ValueError):
        load_model(folder, device="cpu")


def test_loading_never_asks_to_trust_a_repository(gpt2_dir, monkeypatch):
    asked, real = [], transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained",
                        lambda *args, **kwargs: asked.append(kwargs.get("trust_remote_code")) or real(*args, **kwargs))
    load_model(gpt2_dir, device="cpu")
    assert asked and not any(asked)


# --- tables, stages, data --------------------------------------------------------------------------------------------


def parquet_with_a_pickled_type(payload) -> bytes:
    """Metadata that made pyarrow before 14.0.1 unpickle on reading (CVE-2023-47248)."""
    field = pa.field("x", pa.int64(), metadata={b"ARROW:extension:name": b"arrow.py_extension_type",
                                                b"ARROW:extension:metadata": pickle.dumps(payload)})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}, schema=pa.schema([field])), sink)
    return sink.getvalue().to_pybytes()


TABLES = {
    "pickle": pickle.dumps,
    "array of objects": npy,
    "pickled type": parquet_with_a_pickled_type,
    "zip": lambda payload: repacked(saved({}), extra={"../outside": b"x"}),
    "nesting without end": lambda payload: b"[" * 200_000,
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_dangerous_table_is_refused_and_runs_nothing(tmp_path, harmless, kind, suffix):
    file = tmp_path / f"results{suffix}"
    file.write_bytes(TABLES[kind](harmless))
    with pytest.raises(ResultsError, match="results"):
        read_results(file)


@pytest.mark.parametrize("kind", TABLES)
def test_a_dangerous_stage_of_a_run_is_refused_and_runs_nothing(tmp_path, harmless, kind):
    """The record lies beside the data, so its hash can be forged too."""
    for suffix in (".parquet", ".safetensors"):
        data = TABLES[kind](harmless)
        (tmp_path / f"stage{suffix}").write_bytes(data)
        (tmp_path / "stage.json").write_text(json.dumps({"file": f"stage{suffix}", "bytes": len(data),
                                                         "sha256": hashlib.sha256(data).hexdigest()}))
        if (kind, suffix) == ("pickled type", ".parquet"):  # a table like any other to a pyarrow that does not unpickle
            assert list(load_stage(tmp_path / "stage.json")["x"]) == [1]
        else:
            with pytest.raises(RunError, match=str(tmp_path)):
                load_stage(tmp_path / "stage.json")


def test_data_that_is_not_the_pinned_file_is_not_even_opened(tmp_path, monkeypatch, harmless):
    entry = json.loads(_data.MANIFEST.read_text())[0]
    mirror = tmp_path / "mirror" / entry["here"]
    mirror.parent.mkdir(parents=True)
    mirror.write_bytes(pickle.dumps(harmless))
    monkeypatch.setenv("WORLDPROBE_DATA", str(tmp_path / "mirror"))
    with pytest.raises(_data.DamagedFile, match="is not the pinned file and is not used"):
        _data.fetch(entry["here"])


# --- the source ------------------------------------------------------------------------------------------------------

NEVER = {"download_file_from_hf", "read_pickle", "to_pickle", "extractall", "unpack_archive", "eval", "exec", "marshal",
         "shelve", "dill", "cloudpickle", "mmap_mode"}
WITH = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False)}


def calls(tree: ast.AST):
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@pytest.mark.parametrize("package", ["tasks", "probing", "interventions", "worldprobe"])
def test_our_code_uses_nothing_that_unpickles_unpacks_or_evaluates(package):
    """transformer-lens' `download_file_from_hf` unpickles what it downloads, for one."""
    for file in (ROOT / package).rglob("*.py"):
        tree = ast.parse(file.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
                  for alias in node.names}
        called = {node.func.attr for node in calls(tree) if isinstance(node.func, ast.Attribute)} - {"eval"}
        assert not (names | called) & NEVER, file  # model.eval() is another eval
        for node in calls(tree):
            match node.func:
                case ast.Attribute(value=ast.Name(id="pickle" | "joblib" | "torch" | "np" as module),
                                   attr="load" | "loads" as name):
                    assert (module, name) in WITH, f"{file}:{node.lineno}"
                    keyword, value = WITH[module, name]
                    assert any(k.arg == keyword and getattr(k.value, "value", None) is value for k in node.keywords), \
                        f"{file}:{node.lineno}"
            assert not any(k.arg == "trust_remote_code" and getattr(k.value, "value", None) is not False
                           for k in node.keywords), f"{file}:{node.lineno}"
