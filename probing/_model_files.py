"""Find a model's files, and refuse them when they are damaged, before anything is built from them."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError, safe_open

import tasks

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
PINS = "sha256.json"
_HUB_READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HUB_SKIP = ["*/*", "consolidated*"]


class ModelError(ValueError):
    """A model that cannot be found, is damaged, or does not say enough about itself to be loaded."""


@dataclass(frozen=True)
class Source:
    """Where a model came from.

    Attributes:
        name: As the user gave it: `othello`, `./my-checkpoint`, `EleutherAI/pythia-410m`.
        path: The directory or file that is read.
        revision: Commit of a Hub model, else `sha256:` of the weights (of the hashes of all shards, if several).
        kind: `directory` (Hugging Face format, Hub included) or `state_dict` (old TransformerLens file).
        headless: The checkpoint has no unembedding (an encoder saved as `BertModel`); the logits are all zero.
    """

    name: str
    path: Path
    revision: str
    kind: str
    headless: bool = False


def find(name: str | Path, revision: str | None = None) -> Source:
    """The files of a model: a reference model's, else a local path, else a Hub id (fetched if not in the cache).

    Raises:
        ModelError: No such model, with the nearest names; or damaged files. A directory with a `sha256.json` is
            checked against it byte for byte.
    """
    references = tasks.reference_models()
    if str(name) in references:
        return _at_path(str(name), Path(references[str(name)]))
    path = Path(name).expanduser()
    if str(name) and path.exists():
        return _at_path(str(name), path)
    if isinstance(name, Path) or re.match(r"[./~\\]", name) or name.endswith(CHECKPOINT_SUFFIXES):
        raise ModelError(f"there is no model at {path}: {_around(path)}")
    near = difflib.get_close_matches(name, references, n=2, cutoff=0.6)
    unknown = (f"no model {name!r}: " + (f"did you mean {' or '.join(near)}? " if near else "")
               + f"Reference models: {', '.join(sorted(references)) or 'none'}. Else give a directory in Hugging Face "
                 f"format, a Hub id such as EleutherAI/pythia-70m, or a {'/'.join(CHECKPOINT_SUFFIXES)} file with an "
                 "old TransformerLens state dict")
    if near or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(unknown)
    folder = _snapshot(name, revision, unknown)
    _check_weights(folder)
    return Source(name, folder, folder.name, "directory")


def _at_path(name: str, path: Path) -> Source:
    if path.is_file():
        if path.suffix not in CHECKPOINT_SUFFIXES:
            raise ModelError(f"{path} is no model: wanted a directory in Hugging Face format or a file ending in "
                             f"{', '.join(CHECKPOINT_SUFFIXES)}")
        return Source(name, path, f"sha256:{_sha256(path)}", "state_dict")
    if not (path / "config.json").is_file():
        held = sorted(child.name for child in path.iterdir())
        inside = [child for child in held if (path / child / "config.json").is_file()]
        raise ModelError(f"{path} is no model directory: it has no config.json, it holds {listing(held)}. "
                         + (f"Did you mean {path / inside[0]}?" if inside else
                            "Name one that save_pretrained wrote"))
    _check_weights(path)
    hashes = _check_pins(path)
    parts = [hashes.get(file.name) or _sha256(file) for file in weight_files(path)]
    whole = parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
    return Source(name, path, f"sha256:{whole}", "directory")


def _around(path: Path) -> str:
    """What the nearest existing folder above `path` holds, closest names first."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"{folder} holds {listing(names)}"


def listing(names: Iterable[str], most: int = 8) -> str:
    """`a, b and 3 more`."""
    names = list(names)
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "nothing"


def _snapshot(name: str, revision: str | None, unknown: str) -> Path:
    """Folder of a Hub model, named by its commit; once downloaded it is found without a network.

    Only safetensors are fetched; a repository that has none is read from its `pytorch_model.bin`, which
    transformers loads with `weights_only=True`.
    """
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_READ, ignore_patterns=_HUB_SKIP))
        if not list(folder.glob("*.safetensors")):
            snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin"], ignore_patterns=_HUB_SKIP)
    except GatedRepoError:
        raise ModelError(f"{name} is gated: accept its licence at https://huggingface.co/{name} and set HF_TOKEN, or "
                         "give a directory") from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision!r}; see https://huggingface.co/{name}/commits") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(unknown) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = f"the Hub cannot be reached ({type(error).__name__})"
        if there := _cached_revisions(name):
            raise ModelError(f"revision {revision or 'main'!r} of {name} is not in the local cache, which has "
                             f"{listing(there)}, and {why}. Name one of these, or fetch it where there is a network: "
                             f"hf download {name} --revision {revision or 'main'}") from None
        raise ModelError(f"{unknown}. {name} is not in the local cache, and {why}") from None
    return folder


def _cached_revisions(name: str) -> list[str]:
    """Branches and tags of a Hub model that were downloaded."""
    refs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "refs"
    return sorted(path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file())


# --- damage ----------------------------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: model.safetensors or its shards, else pytorch_model.bin."""
    for pattern in ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise ModelError(f"{folder} has no weights: wanted model.safetensors, it holds "
                     f"{listing(sorted(child.name for child in folder.iterdir()))}. Put it there, or save the model "
                     "again with save_pretrained")


def check_safetensors(file: Path) -> None:
    """Raises ModelError when the file is cut off or its header is unreadable; flipped weights are not seen here."""
    try:
        with safe_open(file, "pt") as f:
            f.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged ({file.stat().st_size} bytes): {first_line(error)}. Restore it or "
                         "download it again") from None


def first_line(error: Exception) -> str:
    """The first line of a message, for quoting."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_weights(folder: Path) -> None:
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            check_safetensors(file)


def _check_pins(folder: Path) -> dict[str, str]:
    """Hashes of the files that `sha256.json` names, after comparing; none where there is no such file."""
    if not (folder / PINS).is_file():
        return {}
    try:
        pins = json.loads((folder / PINS).read_text())
        wrong = None if isinstance(pins, dict) else "it is no object of file names and hashes"
    except ValueError as error:
        pins, wrong = {}, f"it is not JSON ({first_line(error)})"
    if wrong:
        raise ModelError(f"{folder / PINS} is damaged, {wrong}. Restore it")
    for name, wanted in pins.items():
        came = _sha256(folder / name) if (folder / name).is_file() else None
        if came != wanted:
            raise ModelError(f"{folder / name} is {'missing' if came is None else 'damaged or was changed'}: by {PINS} "
                             f"beside it the sha256 is {wanted}, it is {came}. Restore it; if the change is meant, "
                             f"write a new {PINS}")
    return pins


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
