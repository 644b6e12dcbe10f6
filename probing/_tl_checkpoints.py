"""Old TransformerLens checkpoints: `HookedTransformer.state_dict()` in a file, such as the published Othello-GPT.

The file has tensors only, so the shape of the model is read off them: `W_Q` (head, d_model, d_head), `W_in`
(d_model, d_mlp), `W_pos` (n_ctx, d_model), `W_E` (d_vocab, d_model). What tensors cannot tell is a default that
`tl_config` overrides: the activation function is `gelu`, and a file without normalisation weights is `LNPre`
(folded LayerNorm), not `RMSPre` or none at all.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

from ._model_files import ModelError, check_safetensors


def load_state_dict_file(file: Path, tl_config: Mapping[str, object]) -> TransformerBridge:
    """The model in an old TransformerLens checkpoint, float32 on the CPU; biases that the file lacks are zero.

    Args:
        file: A zip checkpoint of `torch.save` (.pth, .pt; read with `weights_only=True`) or a .safetensors file.
        tl_config: Fields of `TransformerBridgeConfig` that override what the tensors tell.
    Raises:
        ModelError: The file is damaged, holds something else, or lacks weights.
    """
    state = _read(file)
    config = TransformerBridgeConfig(**{**infer_config(state, file), **tl_config})
    model = TransformerBridge.boot_native(config)
    try:
        converted = convert_tl_checkpoint(state, config)
    except ValueError as error:
        raise ModelError(f"{file} is no state dict of HookedTransformer that we can convert: {error}") from None
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    for key in [key for key in wanted if key.endswith(".bias") and key not in converted]:
        converted[key] = torch.zeros(wanted[key])
    if wrong := sorted(wanted.keys() ^ converted.keys()):
        raise ModelError(f"{file} does not fit the model that its shapes describe ({describe(config)}): "
                         + "; ".join(f"{key} is {'missing' if key in wanted else 'not used'}" for key in wrong[:4]))
    if bad := [key for key, shape in wanted.items() if converted[key].shape != shape]:
        raise ModelError(f"{file} contradicts itself: {bad[0]} should have shape {tuple(wanted[bad[0]])} by "
                         f"({describe(config)}), it has {tuple(converted[bad[0]].shape)}")
    model.load_state_dict({key: value.float() for key, value in converted.items()}, strict=True)
    return model


def describe(config: TransformerBridgeConfig) -> str:
    """`8 layers, d_model 512, ...` for messages."""
    return (f"{config.n_layers} layers, d_model {config.d_model}, {config.n_heads} heads of {config.d_head}, d_mlp "
            f"{config.d_mlp}, n_ctx {config.n_ctx}, d_vocab {config.d_vocab}, {config.normalization_type}")


def infer_config(state: Mapping[str, Tensor], file: Path) -> dict:
    """Fields of `TransformerBridgeConfig`, from the names and shapes of an old state dict."""
    layers = sorted({int(m[1]) for key in state if (m := re.match(r"blocks\.(\d+)\.", key))})
    needed = ["embed.W_E", "pos_embed.W_pos", "unembed.W_U", "blocks.0.attn.W_Q"]
    if missing := [key for key in needed if key not in state]:
        raise ModelError(f"{file} is no state dict of HookedTransformer with learned positions: it lacks "
                         f"{', '.join(missing)}; it has {', '.join(list(state)[:4])}, ...")
    if layers != list(range(len(layers))):
        raise ModelError(f"{file} lacks blocks: it has {layers}")
    d_vocab, d_model = state["embed.W_E"].shape
    n_heads, _, d_head = state["blocks.0.attn.W_Q"].shape
    keys = state.get("blocks.0.attn._W_K")
    mlp = state.get("blocks.0.mlp.W_in")
    scale, shift = "blocks.0.ln1.w" in state, "blocks.0.ln1.b" in state
    return dict(
        n_layers=len(layers), d_model=d_model, n_heads=n_heads, d_head=d_head, d_vocab=d_vocab,
        n_ctx=state["pos_embed.W_pos"].shape[0], d_vocab_out=state["unembed.W_U"].shape[1],
        d_mlp=None if mlp is None else mlp.shape[1], attn_only=mlp is None,
        gated_mlp="blocks.0.mlp.W_gate" in state, n_key_value_heads=None if keys is None else keys.shape[0],
        normalization_type="LN" if shift else "RMS" if scale else "LNPre", act_fn="gelu", init_weights=False,
    )


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        check_safetensors(file)
        return load_file(file)
    _check_zip(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged archive or a refused global raises
        raise ModelError(f"{file} cannot be read as tensors alone (weights_only=True): "
                         f"{str(error).strip().splitlines()[0]}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = [f"{key} ({type(value).__name__})" for key, value in list(state.items())[:4]] \
            if isinstance(state, dict) else [type(state).__name__]
        raise ModelError(f"{file} must hold a dictionary of tensors, it holds {', '.join(held)}; save the state dict "
                         "itself")
    for key, value in state.items():
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelError(f"{file} holds {key} as a tensor of shape {tuple(value.shape)} with less data than that: "
                             "save plain dense tensors")
    return dict(state)


def _check_zip(file: Path) -> None:
    if not zipfile.is_zipfile(file):
        raise ModelError(f"{file} is damaged or no checkpoint of torch.save (they are zip archives since torch 1.6): "
                         "download it again, or convert it to safetensors")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if odd := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED
                       or entry.flag_bits & 1 or {"..", "/"} & set(PurePosixPath(entry.filename).parts)]:
                raise ModelError(f"{file} is no checkpoint of torch.save: {odd[0]!r} inside it is compressed, "
                                 "encrypted or points outside, which torch.save never does")
            if sum(entry.file_size for entry in entries) > file.stat().st_size:  # parts that overlap
                raise ModelError(f"{file} is no checkpoint of torch.save: its parts are larger than the file")
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        bad = str(error)
    if bad is not None:
        raise ModelError(f"{file} is damaged: the checksum of {bad} inside it is wrong. Download it again")
