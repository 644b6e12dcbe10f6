"""Load a model from wherever it is: a reference model, a directory, the Hub, an old TransformerLens file.

Everything becomes a `TransformerBridge` with raw weights (call `enable_compatibility_mode()` yourself for folded
ones; `identify` records it). Nothing local touches the network, and nothing on any path unpickles.
"""

import contextlib
import copy
import difflib
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformer_lens.model_bridge.sources.native import NativeModel
from transformer_lens.model_bridge.sources.transformers.helpers import get_hf_model_class_for_architecture

import tasks

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
PINS = "sha256.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
                    "sentencepiece.bpe.model")


class ModelError(ValueError):
    """A model that cannot be found, is damaged, or does not say enough about itself to be loaded."""


@dataclass(frozen=True)
class Source:
    """Where a model came from.

    Attributes:
        name: As the user gave it: `othello`, `./my-checkpoint`, `EleutherAI/pythia-410m`.
        path: The directory or file that was read.
        revision: Commit of a Hub model, else `sha256:` of the weights; None when we did not load the model.
        kind: `directory` (Hugging Face format, Hub included) or `state_dict` (old TransformerLens file).
        headless: The checkpoint has no unembedding (an encoder saved as `BertModel`); the logits are all zero.
    """

    name: str
    path: Path
    revision: str | None
    kind: str
    headless: bool = False


_SOURCES: WeakKeyDictionary[TransformerBridge, Source] = WeakKeyDictionary()


def source(model: TransformerBridge) -> Source | None:
    """Where `load_model` took this model from; None for a model made elsewhere or by `random_init`."""
    return _SOURCES.get(model)


def load_model(name: str | Path, device: str | torch.device = "auto", dtype: str | torch.dtype = torch.float32, *,
               revision: str | None = None, device_map: str | dict | None = None,
               tl_config: Mapping[str, object] | None = None) -> TransformerBridge:
    """A `TransformerBridge` in eval mode, its parameters without gradients.

    `name` is looked up in this order: a reference model (`worldprobe models` lists them; write `./othello` for a
    folder of that name), a local directory in Hugging Face format, a file with an old TransformerLens state dict,
    a Hub id. Causal decoders and encoder-only models alike; attention is always `eager`, which hooks need.

    Args:
        device: `auto` takes cuda, then mps, then cpu.
        dtype: Of the parameters, e.g. `torch.bfloat16` or `"bfloat16"`.
        revision: Branch, tag or commit of a Hub id.
        device_map: For a model larger than one GPU, as in `from_pretrained`; instead of `device`.
        tl_config: What an old state dict does not record (`act_fn`, gelu by default; `normalization_type`, see
            `probing._tl_checkpoints`): fields of `TransformerBridgeConfig`.
    Raises:
        ModelError: Not found (nearest names are given), damaged (the file is named), or lacking weights. A
            directory with a `sha256.json`, as every reference model has, is checked against it byte for byte.
    """
    dtype, device = _dtype(dtype), None if device_map is not None else _device(device)
    found = _find(name, revision)
    with _quiet():
        if found.kind == "state_dict":
            from ._tl_checkpoints import load_state_dict_file

            model = load_state_dict_file(found.path, tl_config or {})
            model.to(device, dtype, print_details=False)
        else:
            model, headless = _from_directory(found.path, device, dtype, device_map)
            found = replace(found, headless=headless)
    model.cfg.model_name = found.name
    _SOURCES[model] = found
    return _frozen(model)


def random_init(model: TransformerBridge, seed: int = 0) -> TransformerBridge:
    """The same architecture, mode, device and dtype with freshly initialised weights: a control.

    Drawn by the architecture's own initialiser (normal with std 0.02 in GPT-2). The caller's random state is left
    as it was.
    """
    original = model.original_model
    dtype, device = next(model.parameters()).dtype, next(model.parameters()).device
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(original, NativeModel):
            config = copy.deepcopy(model.cfg)
            config.seed, config.init_weights = seed, True
            fresh = TransformerBridge.boot_native(config)
        else:
            plain = type(original)._from_config(copy.deepcopy(original.config))
            fresh = _boot(model.cfg.model_name, torch.device("cpu"), dtype, hf_model=plain, tokenizer=model.tokenizer)
        if model.compatibility_mode:
            fresh.enable_compatibility_mode()
        fresh.to(device, dtype, print_details=False)
    fresh.cfg.device = str(device)
    fresh.cfg.model_name = f"{model.cfg.model_name}, random weights, seed {seed}"
    return _frozen(fresh)


def _frozen(model: TransformerBridge) -> TransformerBridge:
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise ValueError(f"dtype must be float64, float32, bfloat16 or float16, not {dtype!r}")
    return found


def _device(device: str | torch.device) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, here in there.items() if here))
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or not there.get(found.type, found.type == "meta"):
        raise ValueError(f"device {str(device)!r} is not on this machine; it has "
                         f"{', '.join(name for name, here in there.items() if here)}, or say 'auto'")
    return found


@contextlib.contextmanager
def _quiet():
    """No progress bars, reports or warnings from transformers; what matters in them is raised as ModelError."""
    log = transformers.utils.logging
    bars, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity(log.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


# --- finding ---------------------------------------------------------------------------------------------------------


def _find(name: str | Path, revision: str | None) -> Source:
    references = tasks.reference_models()
    if str(name) in references:
        return _at_path(str(name), Path(references[str(name)]))
    path = Path(name).expanduser()
    if path.exists():
        return _at_path(str(name), path)
    if isinstance(name, Path) or re.match(r"[./~\\]", name) or name.endswith(CHECKPOINT_SUFFIXES):
        raise ModelError(f"there is no model at {path}: {_around(path)}")
    near = difflib.get_close_matches(name, references, n=2, cutoff=0.6)
    if near or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(_unknown(name, near, references))
    from ._hub import snapshot

    folder, commit = snapshot(name, revision, _unknown(name, near, references))
    return Source(name, folder, commit, "directory")


def _unknown(name: str, near: list[str], references: Mapping[str, Path]) -> str:
    return (f"no model {name!r}: " + (f"did you mean {' or '.join(near)}? " if near else "")
            + f"Reference models: {', '.join(sorted(references)) or 'none'}. Else give a directory in Hugging Face "
              f"format, a Hub id such as EleutherAI/pythia-70m, or a {'/'.join(CHECKPOINT_SUFFIXES)} file with an old "
              "TransformerLens state dict")


def _around(path: Path) -> str:
    """What the nearest existing folder above `path` holds, closest names first."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}{folder} holds {_listing(names)}"


def _listing(names: list[str], most: int = 8) -> str:
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "nothing"


def _at_path(name: str, path: Path) -> Source:
    if path.is_file():
        if path.suffix not in CHECKPOINT_SUFFIXES:
            raise ModelError(f"{path} is no model: wanted a directory in Hugging Face format or a file ending in "
                             f"{', '.join(CHECKPOINT_SUFFIXES)}")
        return Source(name, path, f"sha256:{_sha256(path)}", "state_dict")
    if not (path / "config.json").is_file():
        held = sorted(child.name for child in path.iterdir())
        inside = [child for child in held if (path / child / "config.json").is_file()]
        raise ModelError(f"{path} is no model directory: it has no config.json, it holds {_listing(held)}"
                         + (f". Did you mean {path / inside[0]}?" if inside else ""))
    return Source(name, path, _verified(path), "directory")


# --- files -----------------------------------------------------------------------------------------------------------


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: model.safetensors or its shards, else pytorch_model.bin."""
    for pattern in ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise ModelError(f"{folder} has no weights: wanted model.safetensors, it holds "
                     f"{_listing(sorted(child.name for child in folder.iterdir()))}")


def _verified(folder: Path) -> str:
    """Revision of the directory, after checking its files: `sha256:` of the weights (of all shards, if several)."""
    files = weight_files(folder)
    for file in files:
        check_safetensors(file)
    pins = _pins(folder)
    hashes = {file.name: _sha256(file) for file in [*files, *(folder / n for n in pins if (folder / n).is_file())]}
    for name, wanted in pins.items():
        if (came := hashes.get(name)) != wanted:
            raise ModelError(f"{folder / name} is {'missing' if came is None else 'damaged or changed'}: {PINS} beside "
                             f"it says sha256 {wanted}, the file has {came}. Restore it (git checkout, or download it "
                             f"again); if the change is meant, write a new {PINS}")
    if len(files) == 1:
        return f"sha256:{hashes[files[0].name]}"
    return "sha256:" + hashlib.sha256("".join(hashes[file.name] for file in files).encode()).hexdigest()


def _pins(folder: Path) -> dict[str, str]:
    if not (folder / PINS).is_file():
        return {}
    try:
        pins = json.loads((folder / PINS).read_text())
    except ValueError as error:
        raise ModelError(f"{folder / PINS} is damaged, it is not JSON: {error}. Restore it") from None
    if not isinstance(pins, dict) or not all(isinstance(v, str) for v in pins.values()):
        raise ModelError(f"{folder / PINS} must map file names to sha256 hex digests. Restore it")
    return pins


def check_safetensors(file: Path) -> None:
    """Raises ModelError when the file is cut off or its header is unreadable; flipped weights are not seen here."""
    if file.suffix != ".safetensors":
        return
    try:
        with safe_open(file, "pt") as f:
            f.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged ({file.stat().st_size} bytes): {error}. Restore or download it "
                         "again") from None


# --- Hugging Face directories ----------------------------------------------------------------------------------------


class _CheckedClass:
    """An Auto class whose `from_pretrained` keeps the report of keys that transformers only logs."""

    def __init__(self, auto):
        self.auto, self.report = auto, None

    def from_pretrained(self, path, **kwargs):
        model, self.report = self.auto.from_pretrained(path, output_loading_info=True, local_files_only=True, **kwargs)
        return model


def auto_class(config):
    """The `AutoModelFor...` that transformer-lens loads this configuration with."""
    return get_hf_model_class_for_architecture(determine_architecture_from_hf_config(config))


def read_config(folder: Path):
    """The Hugging Face configuration of a directory."""
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read as a Hugging Face configuration: "
                         f"{_first_line(error)}") from None


def _from_directory(folder: Path, device, dtype: torch.dtype, device_map) -> tuple[TransformerBridge, bool]:
    config = read_config(folder)
    try:
        loader = _CheckedClass(auto_class(config))
    except ValueError:
        raise ModelError(f"{folder} holds a {config.model_type} model ({config.architectures}), which transformer-lens "
                         "does not support") from None
    try:
        model = _boot(str(folder), device, dtype, model_class=loader, device_map=device_map,
                      tokenizer=read_tokenizer(folder))
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, ModelError) or "out of memory" in str(error):
            raise
        raise ModelError(f"the weights in {folder} do not load: {_first_line(error)}. Either "
                         f"{weight_files(folder)[0].name} is damaged or config.json does not describe it") from error
    return model, _check_keys(model, loader, folder, config)


def _check_keys(model: TransformerBridge, loader: _CheckedClass, folder: Path, config) -> bool:
    """Whether the head is missing; transformers fills missing weights at random and goes on, here it is an error.

    Only a checkpoint saved without a head may lack one. It is set to zero, so that the digest of the model is
    always the same and nobody reads its logits.
    """
    missing = sorted(loader.report["missing_keys"])
    original = model.original_model
    headless = type(original).__name__ not in (config.architectures or [])
    body = f"{original.base_model_prefix}."
    if wrong := [key for key in missing if key.startswith(body) or not headless]:
        extra = sorted(loader.report["unexpected_keys"])
        unread = f" and has {_listing(extra, 3)} that nothing reads" if extra else ""
        raise ModelError(f"{weight_files(folder)[0]} is damaged or belongs to another config.json: it lacks "
                         f"{_listing(wrong, 3)}{unread}")
    with torch.no_grad():
        for key in missing:
            original.get_parameter(key).zero_()
    return bool(missing)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _boot(name: str, device, dtype: torch.dtype, *, tokenizer, **how) -> TransformerBridge:
    """boot_transformers, which insists on a tokenizer and on one with a beginning-of-sequence token.

    Where there is none, transformer-lens adds `<|endoftext|>` with an id outside the vocabulary and `to_tokens`
    puts it in front of every prompt. We lend it a copy, take our own back, and say that nothing is prepended.
    """
    lent = copy.deepcopy(tokenizer) if tokenizer is not None else _placeholder()
    model = TransformerBridge.boot_transformers(name, device=device, dtype=dtype, tokenizer=lent, **how)
    added = tokenizer is None or set(model.tokenizer.get_vocab()) - set(tokenizer.get_vocab())
    if added:
        model._tokenizer = tokenizer  # the public setter would configure it again, and change cfg.d_vocab
        model.cfg.default_prepend_bos = tokenizer is not None and tokenizer.cls_token_id is not None
    return model


def _placeholder():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")),
                                                pad_token="a", eos_token="a")


def read_tokenizer(folder: Path):
    """The tokenizer of a directory, None where it has none (GPT-2's class would make an empty one in silence)."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust side raises bare Exception on damaged files
        held = [name for name in _TOKENIZER_FILES if (folder / name).is_file()]
        raise ModelError(f"the tokenizer in {folder} ({', '.join(held)}) cannot be read: {_first_line(error)}. "
                         "Restore these files, or remove them to work with token ids alone") from None
    return tokenizer
