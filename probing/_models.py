"""One function loads every model, from wherever it is, as a `TransformerBridge`.

    model = load_model("othello")                        # a reference model
    model = load_model("./my-checkpoint")                # a directory in Hugging Face format, no network
    model = load_model("EleutherAI/pythia-410m")         # the Hub
    model = load_model("synthetic_model.pth")            # an old TransformerLens state dict
    identify(model).digest

Weights are raw; call `enable_compatibility_mode()` yourself for folded ones, and `identify` says so. No path
unpickles anything.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel

from ._guards import check_fits, check_site
from ._huggingface import boot, from_directory, quiet
from ._identity import SOURCES, ModelIdentity, identify
from ._model_files import ModelError, find
from ._numerics import NumericsError, NumericsReport, check_numerics, padding_mask
from ._tl_checkpoints import load_state_dict_file

__all__ = ["ModelError", "ModelIdentity", "NumericsError", "NumericsReport", "check_fits", "check_numerics",
           "check_site", "identify", "load_model", "padding_mask", "random_init"]


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
        tl_config: Fields of `TransformerBridgeConfig` that an old state dict does not record, such as `act_fn`
            (default gelu) or `normalization_type` (default LNPre where the file has no norm weights).
    Raises:
        ModelError: Not found (nearest names are given), damaged (the file is named), or lacking weights. A
            directory with a `sha256.json`, as every reference model has, is checked against it byte for byte.
    """
    dtype, device = _dtype(dtype), None if device_map is not None else _device(device)
    found = find(name, revision)
    with quiet():
        if found.kind == "state_dict":
            model = load_state_dict_file(found.path, tl_config or {})
            model.to(device or torch.device("cpu"), dtype, print_details=False)
        else:
            model, headless = from_directory(found.path, device, dtype, device_map)
            found = replace(found, headless=headless)
    model.cfg.model_name = found.name
    SOURCES[model] = found
    return _frozen(model)


def random_init(model: TransformerBridge, seed: int = 0) -> TransformerBridge:
    """The same architecture, mode, device and dtype with freshly initialised weights: a control.

    Drawn by the architecture's own initialiser (normal with standard deviation 0.02 in GPT-2), on the CPU, so that
    a seed gives the same weights everywhere. The caller's random state is left as it was.
    """
    original = model.original_model
    dtype, device = next(model.parameters()).dtype, next(model.parameters()).device
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(original, NativeModel):
            config = copy.deepcopy(model.cfg)
            config.seed, config.init_weights = seed, True
            fresh = TransformerBridge.boot_native(config)
        else:
            plain = type(original)._from_config(copy.deepcopy(original.config), dtype=torch.float32)
            fresh = boot(str(model.cfg.model_name), torch.device("cpu"), torch.float32, hf_model=plain,
                         tokenizer=model.tokenizer)
        if model.compatibility_mode:
            fresh.enable_compatibility_mode()
        fresh.to(device, dtype, print_details=False)
    fresh.cfg.model_name = f"{model.cfg.model_name}, random weights, seed {seed}"
    return _frozen(fresh)


def _frozen(model: TransformerBridge) -> TransformerBridge:
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
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
    if found is None or not there.get(found.type, False):
        raise ValueError(f"device {str(device)!r} is not on this machine, which has "
                         f"{', '.join(name for name, here in there.items() if here)}; 'auto' picks the first of these")
    return found
