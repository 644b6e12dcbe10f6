"""The identities of second moments, gradients example by example, and the smallest experiment of the card."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from probing.formation import LayerMoments, alignment_gains, alignments, alpha, layer_moments, power_laws


def mlp(*widths, seed=0, bias=True):
    torch.manual_seed(seed)
    layers = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def loss(model, batch):
    x, y = batch
    return cross_entropy(model(x), y, reduction="none")


def data(n=200, d=10, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64),
            torch.randint(classes, (n,), generator=generator))


def assert_close(a, b, rtol=1e-5):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-9 + rtol * float(b.abs().max()))


def test_the_exact_identities_of_a_linear_layer():
    model, batch = mlp(10, 7, 6, 4).double(), data()
    for layer in layer_moments(model, loss, [batch], normed=False).values():
        assert_close(layer.H_out, layer.W @ layer.H_in @ layer.W.T)
        assert_close(layer.G_in, layer.W.T @ layer.G_out @ layer.W)
        assert layer.n == 200


def test_moments_are_those_of_gradients_taken_one_example_at_a_time():
    model, (x, y) = mlp(10, 7, 4, bias=False).double(), data(40)
    h, g = [], []
    for i in range(len(x)):
        hidden = model[0](x[i : i + 1]).tanh().detach().requires_grad_()
        g_in = torch.autograd.grad(cross_entropy(model[2](hidden), y[i : i + 1]), hidden)[0]
        h.append(hidden.detach()[0])
        g.append(-g_in[0])
    h, g = torch.stack(h), torch.stack(g)
    raw = layer_moments(model, loss, [(x, y)], normed=False)["2"]
    assert_close(raw.H_in, h.T @ h / 40)
    assert_close(raw.G_in, g.T @ g / 40)
    normed = layer_moments(model, loss, [(x, y)])["2"]
    unit = h / h.norm(dim=1, keepdim=True)
    assert_close(normed.H_in, torch.from_numpy(np.cov(unit.numpy().T, bias=True)))
    unit = g / g.norm(dim=1, keepdim=True)
    assert_close(normed.G_in, torch.from_numpy(np.cov(unit.numpy().T, bias=True)))


@pytest.mark.parametrize("widths", [(6, 150, 5), (150, 6, 6, 5)])  # products of rows are taken on the smaller side
@pytest.mark.parametrize("normed", [True, False])
def test_moments_are_those_of_the_rows_themselves_whichever_side_is_smaller(widths, normed):
    model, (x, y) = mlp(*widths).double(), data(40, widths[0])
    linear = [m for m in model if isinstance(m, nn.Linear)]
    states, outs = [], []
    h = x
    for layer in linear:
        states.append(h)
        outs.append(layer(h))
        h = outs[-1].tanh()
    grads = torch.autograd.grad(loss(lambda _: outs[-1], (x, y)).sum(), outs)
    found = layer_moments(model, loss, [(x, y)], normed=normed).values()
    for layer, h, g, moments in zip(linear, states, grads, found, strict=True):
        W = layer.weight
        for key, rows in (("H_in", h), ("H_out", h @ W.T), ("G_in", -g @ W), ("G_out", -g)):
            rows = rows / rows.norm(dim=1, keepdim=True) if normed else rows
            centred = rows - rows.mean(0) if normed else rows
            assert_close(getattr(moments, key), (centred.T @ centred / 40).detach())


def test_rows_that_do_not_count_change_nothing():
    model, (x, y) = mlp(10, 7, 4).double(), data(60)
    real = torch.arange(60) % 3 > 0
    found = layer_moments(model, loss, [(x, y)], keep=lambda batch: real)
    expected = layer_moments(model, loss, [(x[real], y[real])])
    for name in expected:
        assert found[name].n == 40
        assert_close(found[name].H_out, expected[name].H_out)
        assert_close(found[name].G_in, expected[name].G_in)
    with pytest.raises(ValueError, match="`keep` speaks of row 99"):
        layer_moments(model, loss, [(x, y)], keep=lambda batch: torch.ones(100, dtype=torch.bool))


@pytest.mark.parametrize("normed", [True, False])
def test_batches_change_nothing(normed):
    model, (x, y) = mlp(10, 7, 4).double(), data(60)
    whole = layer_moments(model, loss, [(x, y)], normed=normed)
    parts = layer_moments(model, loss, zip(x.split(17), y.split(17), strict=True), normed=normed)
    for name in whole:
        for key in ("H_in", "H_out", "G_in", "G_out"):
            assert_close(getattr(parts[name], key), getattr(whole[name], key))


def test_every_linear_layer_of_a_transformer_with_its_queries_keys_and_values_apart():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=30, n_positions=8, bos_token_id=0,
                                       eos_token_id=0, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)).double().eval()
    model.requires_grad_(False)

    def next_token(model, tokens):
        return cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")

    tokens = torch.randint(30, (12, 8), generator=torch.Generator().manual_seed(0))
    found = layer_moments(model, next_token, tokens.split(5), normed=False)
    block = {f"transformer.h.{i}.{n}" for i in range(2)
             for n in ("attn.c_attn.q", "attn.c_attn.k", "attn.c_attn.v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert set(found) == block | {"lm_head"}
    for layer in found.values():
        assert_close(layer.H_out, layer.W @ layer.H_in @ layer.W.T)
        assert_close(layer.G_in, layer.W.T @ layer.G_out @ layer.W)
        assert layer.n == 96
    q, k = found["transformer.h.0.attn.c_attn.q"], found["transformer.h.0.attn.c_attn.k"]
    assert_close(q.H_in, k.H_in)
    torch.testing.assert_close(q.W, model.transformer.h[0].attn.c_attn.weight[:, :16].T)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())  # left as it was
    for name in ("transformer.h.1.mlp.c_fc", "transformer.h.0.attn.c_attn.v"):
        one = layer_moments(model, next_token, [tokens], [name], normed=False)[name]
        for key in ("H_in", "G_out", "H_out"):
            assert_close(getattr(one, key), getattr(found[name], key))


def test_alpha_is_the_correlation_of_entries_and_forgets_scale():
    A, B = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert alpha(A, 3.5 * A) == pytest.approx(1) and alpha(A, -A) == pytest.approx(-1)
    assert alpha(A, B) == pytest.approx(np.corrcoef(A.flatten(), B.flatten())[0, 1]) == pytest.approx(alpha(B, A))


def spd(d, seed, power=1.0):
    Q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    return Q * torch.arange(1, d + 1, dtype=torch.float64) ** power @ Q.T


def test_the_null_keeps_the_spectrum_and_stays_above_zero():
    W = spd(12, 0)
    layer = LayerMoments(W, W.T @ W, spd(12, 1), spd(12, 2), W @ W.T, 100)
    table = alignments({"l": layer}, n_null=50).set_index(["relation", "side"])
    assert len(table) == 6
    assert table.loc[("RWA", "in"), "value"] == pytest.approx(1) == table.loc[("GWA", "out"), "value"]
    assert (table["null"].between(0.05, 0.95)).all() and (table["null_low"] < table["null"]).all()
    assert table.loc[("RWA", "in"), "value"] > table.loc[("RWA", "in"), "null_high"]
    by_hand = []
    for seed in range(50):
        Q = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(100 + seed),
                                        dtype=torch.float64))[0]
        by_hand.append(alpha(Q @ layer.H_in @ Q.T, layer.Z_in))
    error = np.std(by_hand) * (2 / 50) ** 0.5
    assert table.loc[("RWA", "in"), "null"] == pytest.approx(np.mean(by_hand), abs=4 * error)


@pytest.mark.parametrize("p, q, exponents", [  # H_out, G_out, H_in, G_in against Z, as in the card's table
    (0, 0, (1, 0, 0, 1)), (0, -1, (1, -1, 0, 0)), (1, 1, (2, 1, 1, 2)), (2, 1, (3, 1, 2, 2)), (1, 2, (2, 2, 1, 3)),
    (-1, 0, (0, 0, -1, 1)),
])
def test_powers_on_shared_eigenvectors_are_found(p, q, exponents):
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    s = torch.linspace(0.4, 2, 9, dtype=torch.float64)
    W, H_in, G_out = U * s @ V.T, V * s ** (2 * p) @ V.T, U * s ** (2 * q) @ U.T
    layer = LayerMoments(W, H_in, W @ H_in @ W.T, W.T @ G_out @ W, G_out, 10)
    table = power_laws({"l": layer}).set_index(["matrix", "side"])
    for key, expected in zip((("H", "out"), ("G", "out"), ("H", "in"), ("G", "in")), exponents, strict=True):
        row = table.loc[key]
        assert row["exponent"] == pytest.approx(expected, abs=1e-6) == row["theil_sen"]
        assert row["ci_low"] <= row["exponent"] <= row["ci_high"] and row["n"] == 9
        if expected:
            assert row["r2"] == pytest.approx(1)


def test_a_projector_has_no_power_law():
    W = torch.eye(5, dtype=torch.float64)
    layer = LayerMoments(W, W, W, W, W, 10)
    assert power_laws({"l": layer})["exponent"].isna().all()


def test_training_with_weight_decay_aligns_states_with_gradients():
    """The card's smallest experiment, cut to 2,000 steps: teacher 24-8-5, student 24-48-48-48-5 tanh, SGD at 0.1 with
    weight decay 5e-3. Out-RGA of the two middle layers was 0.11 and 0.13 at step 0, 0.93 and 0.86 after; out-RWA and
    in-GWA are high from the start, by algebra."""
    torch.manual_seed(1)
    x, fresh = torch.randn(2000, 24), torch.randn(1000, 24)
    teacher = mlp(24, 8, 5, seed=2)
    y, fresh_y = teacher(x).argmax(1), teacher(fresh).argmax(1)
    student = mlp(24, 48, 48, 48, 5, seed=3)
    middle = ["2", "4"]
    start = alignments(layer_moments(student, loss, [(fresh, fresh_y)], middle))
    optimiser = torch.optim.SGD(student.parameters(), 0.1, weight_decay=5e-3)
    order = torch.Generator().manual_seed(4)
    for _ in range(2000):
        rows = torch.randint(2000, (32,), generator=order)
        optimiser.zero_grad()
        loss(student, (x[rows], y[rows])).mean().backward()
        optimiser.step()
    end = alignment_gains(alignments(layer_moments(student, loss, [(fresh, fresh_y)], middle)), start)
    by = end.set_index(["layer", "relation", "side"])
    for layer in middle:
        row = by.loc[(layer, "RGA", "out")]
        assert row["at_start"] < 0.3 and row["value"] > 0.7 and row["value"] > row["null_high"]
        assert row["gain"] == pytest.approx(row["value"] - row["at_start"])
        assert by.loc[(layer, "RWA", "out"), "at_start"] > 0.5  # large before anything was learnt


def test_what_cannot_be_measured_is_refused():
    model, batch = mlp(10, 7, 4).double(), data()
    with pytest.raises(KeyError, match="'9' is no linear layer; there are 0, 2"):
        layer_moments(model, loss, [batch], ["9"])
    with pytest.raises(ValueError, match="no batch was given"):
        layer_moments(model, loss, [])

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(10, 4), nn.Linear(10, 4)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="no gradient reaches the layer 'unused'"):
        layer_moments(Half().double(), loss, [batch], ["used", "unused"])
    assert set(layer_moments(Half().double(), loss, [batch])) == {"used"}
    with pytest.raises(ValueError, match="zero on every row"):
        layer_moments(model, lambda m, b: 0 * loss(m, b), [batch])
    flat = alignments(layer_moments(model, lambda m, b: 0 * loss(m, b), [batch], zeros=True), n_null=0)
    assert flat["value"].isna().sum() == 2 * 2 * 2 and flat["null"].isna().all()  # RGA and GWA, both sides and layers
    a, b = (alignments(layer_moments(m, loss, [batch]), n_null=2) for m in (model, mlp(10, 7, 6, 4).double()))
    with pytest.raises(ValueError, match="different layers"):
        alignment_gains(a, b)
