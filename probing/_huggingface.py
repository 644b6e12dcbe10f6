"""Between Hugging Face's loaders and transformer-lens': no silence about missing weights, no invented tokens."""

import contextlib
import copy
import warnings
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformer_lens.model_bridge.sources.transformers.helpers import get_hf_model_class_for_architecture

from ._model_files import ModelError, first_line, listing, weight_files

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
                    "sentencepiece.bpe.model")


@contextlib.contextmanager
def quiet():
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


def auto_class(folder: Path):
    """The `AutoModelFor...` that transformer-lens loads this directory with."""
    config = _config(folder)
    try:
        return get_hf_model_class_for_architecture(determine_architecture_from_hf_config(config))
    except ValueError:
        raise ModelError(f"{folder} holds a {config.model_type} model ({', '.join(config.architectures or [])}), which "
                         "transformer-lens does not support; see transformer_lens' model registry") from None


def _config(folder: Path):
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read as a Hugging Face configuration "
                         f"({first_line(error)}); restore it, or save the model again with save_pretrained") from None


def from_directory(folder: Path, device: torch.device | None, dtype: torch.dtype,
                   device_map: str | dict | None) -> tuple[TransformerBridge, bool]:
    """The bridge of a directory, and whether its checkpoint has no head."""
    loader = _Reporting(auto_class(folder))
    try:
        model = boot(str(folder), device, dtype, model_class=loader, device_map=device_map,
                     tokenizer=read_tokenizer(folder))
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each file format raises its own kinds on damage
        raise ModelError(f"the weights in {folder} do not load: {first_line(error)}. Either "
                         f"{weight_files(folder)[0].name} is damaged or config.json does not describe it") from error
    if not hasattr(model, "blocks"):
        raise ModelError(f"{folder} is a {model.cfg.architecture}, which has no single stack of blocks; decoders and "
                         "encoders are supported, encoder-decoders are not")
    return model, _check_keys(model, loader.report, folder)


class _Reporting:
    """An Auto class whose `from_pretrained` keeps the report of keys that transformers only logs."""

    def __init__(self, auto):
        self.auto, self.report = auto, {}

    def from_pretrained(self, path, **kwargs):
        model, self.report = self.auto.from_pretrained(path, output_loading_info=True, local_files_only=True, **kwargs)
        return model


def _check_keys(model: TransformerBridge, report: dict, folder: Path) -> bool:
    """Whether the head is missing; transformers fills missing weights at random and goes on, here it is an error.

    Only a checkpoint saved without a head may lack one. It is set to zero, so that the digest of the model is
    always the same and nobody reads its logits.
    """
    original, missing = model.original_model, sorted(report["missing_keys"])
    saved_with_head = type(original).__name__ in (_config(folder).architectures or [])
    if wrong := [key for key in missing if saved_with_head or key.startswith(f"{original.base_model_prefix}.")]:
        extra = sorted(report["unexpected_keys"])
        unread = f" and has {listing(extra, 3)} that nothing reads" if extra else ""
        raise ModelError(f"{weight_files(folder)[0]} is damaged or belongs to another config.json: it lacks "
                         f"{listing(wrong, 3)}{unread}")
    with torch.no_grad():
        for key in missing:
            original.get_parameter(key).zero_()
    return bool(missing)


def boot(name: str, device: torch.device | None, dtype: torch.dtype, *, tokenizer, **how) -> TransformerBridge:
    """`boot_transformers`, which insists on a tokenizer, and on one with a beginning-of-sequence token.

    Where there is none it adds `<|endoftext|>` with an id outside the vocabulary, and `to_tokens` puts that in
    front of every prompt. So it is lent a copy, our own takes its place, and nothing is prepended.
    """
    lent = copy.deepcopy(tokenizer) if tokenizer is not None else _placeholder()
    model = TransformerBridge.boot_transformers(name, device=device, dtype=dtype, tokenizer=lent, **how)
    if tokenizer is None or set(model.tokenizer.get_vocab()) - set(tokenizer.get_vocab()):
        model._tokenizer = tokenizer  # the public setter would add the token again, and change cfg.d_vocab
        model.cfg.default_prepend_bos = tokenizer is not None and tokenizer.cls_token_id is not None
    return model


def _placeholder():
    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")),
                                                pad_token="a", eos_token="a")


def read_tokenizer(folder: Path):
    """The tokenizer of a directory, None where it has none (GPT-2's class would make an empty one in silence)."""
    if not (held := [name for name in _TOKENIZER_FILES if (folder / name).is_file()]):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust side raises bare Exception on damaged files
        raise ModelError(f"the tokenizer in {folder} ({', '.join(held)}) cannot be read: {first_line(error)}. Restore "
                         "these files, or remove them to work with token ids alone") from None
