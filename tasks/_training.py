"""Train a small decoder on a task and save it as a GPT-2 directory that any Hugging Face tool loads.

The loss is the cross-entropy against a distribution over next tokens. Where a task knows that distribution
(random Othello games draw uniformly from the legal moves) the expected gradient is that of sampled next
tokens, with far less noise. Matrices inside the blocks are trained by Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon), everything else by AdamW.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WARM_UP = 100


class _Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int, act):
        super().__init__()
        self.n_heads, self.act = n_heads, act
        self.ln_1, self.ln_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model) for _ in range(4))
        self.fc, self.proj = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        batch, pos, d_model = x.shape
        h = self.ln_1(x)
        q, k, v = (f(h).view(batch, pos, self.n_heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(z.transpose(1, 2).reshape(batch, pos, d_model))
        return x + self.proj(self.act(self.fc(self.ln_2(x))))


class Decoder(nn.Module):
    """A pre-LayerNorm decoder with learned positions: GPT-2's arithmetic with q, k, v kept apart for Muon."""

    def __init__(self, d_vocab: int, n_ctx: int, n_layers: int, d_model: int, n_heads: int, act: str = "relu"):
        super().__init__()
        self.shape = dict(d_vocab=d_vocab, n_ctx=n_ctx, n_layers=n_layers, d_model=d_model, n_heads=n_heads, act=act)
        self.embed = nn.Embedding(d_vocab, d_model)
        self.pos = nn.Parameter(torch.zeros(n_ctx, d_model))
        fn = {"relu": F.relu, "gelu_new": lambda h: F.gelu(h, approximate="tanh")}[act]
        self.blocks = nn.ModuleList(_Block(d_model, n_heads, fn) for _ in range(n_layers))
        self.ln = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, d_vocab, bias=False)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:  # writes to the stream start at zero, so that each block starts as the identity
                (nn.init.zeros_ if name.endswith(("o.weight", "proj.weight")) else _normal)(p)

    def forward(self, tokens: Int[Tensor, "prompt pos"], edit: Callable[[int, Tensor], Tensor] | None = None,
                ) -> Float[Tensor, "prompt pos d_vocab"]:
        """Logits; `edit(layer, resid_post)` returns what goes on from each block."""
        x = self.embed(tokens) + self.pos[: tokens.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x) if edit is None else edit(layer, block(x))
        return self.unembed(self.ln(x))


def _normal(p):
    return nn.init.normal_(p, std=0.02)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps, in float32 and batched over equal shapes.

    `torch.optim.Muon` runs the same steps in bfloat16, which on a CPU without bfloat16 units took 0.7 s of a
    1.8 s training step; this takes 0.05 s. Update: p <- p (1 - lr wd) - lr sqrt(max(1, rows/cols)) NS(g).
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))  # Nesterov
                lr = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, _orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=lr)


def _orthogonalise(g: Float[Tensor, "matrix rows cols"]) -> Float[Tensor, "matrix rows cols"]:
    """U V^T of each matrix, roughly: singular values end in about [0.7, 1.2]."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


def optimizers(model: Decoder, lr_muon: float = 0.02, lr_adam: float = 3e-3) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, positions, norms, biases, unembedding."""
    inside = {n: p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
    rest = [p for n, p in model.named_parameters() if n not in inside]
    return [
        Muon(list(inside.values()), lr=lr_muon),
        torch.optim.AdamW(rest, lr=lr_adam, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: 100 steps of warm-up, constant for half the run, then linear to 2 %."""
    warm = min(1.0, (step + 1) / WARM_UP)
    left = (steps - step) / (steps - steps // 2)
    return warm * min(1.0, 0.02 + 0.98 * left)


def next_token_loss(batch: Callable[[int], tuple[Tensor, Tensor, Tensor]]) -> Callable[[Decoder, int], Tensor]:
    """Cross-entropy against batch(step) = (tokens, target distribution, weight of each position)."""

    def loss_at(model: Decoder, step: int) -> Tensor:
        tokens, target, weight = batch(step)
        log_p = model(tokens).log_softmax(-1)
        return -((log_p * target).sum(-1) * weight).sum() / weight.sum()

    return loss_at


def train(
    model: Decoder,
    loss_at: Callable[[Decoder, int], Tensor],
    steps: int,
    out: Path,
    evaluate: Callable[[nn.Module], dict],
    save: Callable[[Decoder, Path, dict], None],
    snapshots: Iterable[int] = (),
    every: int = 250,
    log=print,
) -> dict:
    """Train `model` and save it in `out`; the same call again resumes after a kill, bit for bit.

    Args:
        loss_at: (model, step) -> loss of that step's batch, which is a pure function of the step; `next_token_loss`
            makes one.
        evaluate: model -> metrics, written to `log.jsonl` every `every` steps and at each snapshot.
        save: (model, directory, metrics), writes the Hugging Face directory.
        snapshots: Steps whose model is also saved, under `checkpoints/step-000064`; step 0 is before training.
    """
    out.mkdir(parents=True, exist_ok=True)
    state_file, log_file = out / "state.safetensors", out / "log.jsonl"
    opts = optimizers(model)
    base = [[g["lr"] for g in opt.param_groups] for opt in opts]
    start, seconds = 0, 0.0
    if state_file.exists():
        start, seconds = _load_state(state_file, model, opts)
        log(f"resuming at step {start}")
    rows = [json.loads(line) for line in log_file.read_text().splitlines()] if log_file.exists() else []
    rows = [row for row in rows if row["step"] <= start and start]
    log_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clock = time.monotonic()
    running = []
    for step in range(start, steps + 1):
        if step == steps or (step % every == 0 and (step > start or step == 0)) or step in snapshots:
            metrics = {"step": step, "seconds": round(seconds + time.monotonic() - clock, 1), **evaluate(model)}
            if running:
                metrics["loss"] = sum(running) / len(running)
            running = []
            with log_file.open("a") as f:
                f.write(json.dumps(metrics) + "\n")
            log("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items()))
            if step in snapshots:
                save(model, out / "checkpoints" / f"step-{step:06d}", metrics)
            if step == steps:
                break
            if step % every == 0:
                _save_state(state_file, model, opts, step, seconds + time.monotonic() - clock)
        loss = loss_at(model, step)
        for opt, rates in zip(opts, base, strict=True):
            opt.zero_grad(set_to_none=True)
            for group, lr in zip(opt.param_groups, rates, strict=True):
                group["lr"] = lr * schedule(step, steps)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        running.append(loss.item())
    save(model, out, metrics)
    return metrics


def _save_state(file: Path, model, opts, step: int, seconds: float) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, opt in enumerate(opts):
        for j, s in opt.state_dict()["state"].items():
            tensors |= {f"opt.{i}.{j}.{k}": torch.as_tensor(v) for k, v in s.items()}
    tmp = file.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp,
              metadata={"step": str(step), "seconds": str(seconds)})
    os.replace(tmp, file)


def _load_state(file: Path, model, opts) -> tuple[int, float]:
    from safetensors import safe_open

    tensors = load_file(file)
    with safe_open(file, "pt") as f:
        meta = f.metadata()
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for i, opt in enumerate(opts):
        whole = opt.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"opt.{i}."):
                j, name = key[len(f"opt.{i}."):].split(".")
                whole["state"].setdefault(int(j), {})[name] = value
        opt.load_state_dict(whole)
    return int(meta["step"]), float(meta["seconds"])


def save_gpt2(model: Decoder, out: Path, tokenizer, dtype=torch.float32) -> None:
    """Write `model` as a GPT-2 directory: config.json, model.safetensors, tokenizer files."""
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel

    transformers.utils.logging.disable_progress_bar()

    s = model.shape
    config = GPT2Config(vocab_size=s["d_vocab"], n_positions=s["n_ctx"], n_embd=s["d_model"], n_layer=s["n_layers"],
                        n_head=s["n_heads"], activation_function=s["act"], resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
                        pad_token_id=tokenizer.pad_token_id)
    hf = GPT2LMHeadModel(config)
    sd = {"transformer.wte.weight": model.embed.weight, "transformer.wpe.weight": model.pos,
          "transformer.ln_f.weight": model.ln.weight, "transformer.ln_f.bias": model.ln.bias,
          "lm_head.weight": model.unembed.weight}
    for i, b in enumerate(model.blocks):
        h = f"transformer.h.{i}."
        for ours, theirs in ((b.ln_1, "ln_1"), (b.ln_2, "ln_2")):
            sd |= {f"{h}{theirs}.weight": ours.weight, f"{h}{theirs}.bias": ours.bias}
        qkv = (b.q, b.k, b.v)
        sd[f"{h}attn.c_attn.weight"] = torch.cat([m.weight for m in qkv]).T  # Conv1D keeps (in, out)
        sd[f"{h}attn.c_attn.bias"] = torch.cat([m.bias for m in qkv])
        for ours, theirs in ((b.o, "attn.c_proj"), (b.fc, "mlp.c_fc"), (b.proj, "mlp.c_proj")):
            sd |= {f"{h}{theirs}.weight": ours.weight.T, f"{h}{theirs}.bias": ours.bias}
    hf.load_state_dict({k: v.detach().contiguous() for k, v in sd.items()}, strict=True)
    hf.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    seal(out)


def load_gpt2(folder: Path) -> Decoder:
    """The model of a directory that `save_gpt2` wrote, to go on training it."""
    config, sd = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    model = Decoder(config["vocab_size"], config["n_positions"], config["n_layer"], config["n_embd"], config["n_head"],
                    config["activation_function"])
    ours = {"embed.weight": "transformer.wte.weight", "pos": "transformer.wpe.weight",
            "ln.weight": "transformer.ln_f.weight", "ln.bias": "transformer.ln_f.bias",
            "unembed.weight": "lm_head.weight"}
    found = {name: sd[theirs] for name, theirs in ours.items()}
    for i in range(config["n_layer"]):
        h = f"transformer.h.{i}."
        for kind in ("weight", "bias"):
            found |= {f"blocks.{i}.{norm}.{kind}": sd[f"{h}{norm}.{kind}"] for norm in ("ln_1", "ln_2")}
            qkv = sd[f"{h}attn.c_attn.{kind}"].chunk(3, -1)
            for part, theirs in (*zip("qkv", qkv, strict=True), ("o", sd[f"{h}attn.c_proj.{kind}"]),
                                 ("fc", sd[f"{h}mlp.c_fc.{kind}"]), ("proj", sd[f"{h}mlp.c_proj.{kind}"])):
                found[f"blocks.{i}.{part}.{kind}"] = theirs.mT if kind == "weight" else theirs
    model.load_state_dict({name: p.float() for name, p in found.items()})
    return model


def seal(folder: Path) -> None:
    """Make the files of a model readable for everyone (transformers leaves the weights at mode 0600) and write their
    hashes to `sha256.json`, which `probing.load_model` checks. Call it again after a change that is meant.
    """
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    files = [folder / name for name in names if (folder / name).is_file()]
    pins = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / "sha256.json").write_text(json.dumps(pins, indent=2) + "\n")
    for file in [*files, folder / "sha256.json", *folder.glob("generation_config.json")]:
        file.chmod(0o644)


def word_tokenizer(words: list[str], pad: str = "<pad>"):
    """A tokenizer with one token per word: `words[i]` has id `i`; prompts read as text, words apart by spaces.

    There is no token for beginning or end. `TransformerBridge.boot_transformers` then adds one with an id outside
    the model's vocabulary and `to_tokens` prepends it; `probing.load_model` takes both back.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=pad))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, padding_side="right",
                                   clean_up_tokenization_spaces=False)
