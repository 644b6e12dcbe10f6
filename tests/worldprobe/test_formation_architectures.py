"""The two-point theory on networks of several kinds: skips are skips, checks follow the rows, a linear net fits."""

import torch
from torch import nn

from worldprobe import _formation_architectures as architectures
from worldprobe._formation_architectures import Architecture, Residual, checks, measure, section
from worldprobe._formation_two_point import xavier


def test_every_hidden_layer_but_the_first_adds_to_what_it_read():
    net = xavier((1, 6, 6, 6, 1), nn.Tanh, 1.0, 0)
    x = torch.randn(4, 1)
    first, second, third, out = (net[i] for i in (0, 2, 4, 6))
    a = first(x).tanh()
    b = a + second(a).tanh()
    c = b + third(b).tanh()
    for state, expected in zip(Residual([net]).states(x[None]), (a, b, c, out(c)), strict=True):
        torch.testing.assert_close(state[0], expected)


def test_a_linear_network_fits_at_every_layer():
    found = measure((0,), [Architecture("linear", nn.Identity, rate=0.003, width=30)], (4, 10, 16), most_steps=600)
    assert found["layer"].tolist() == [4, 10, 16] and (found["error"] < 0.1).all() and (found["loss"] < 1e-6).all()
    assert [check["pass"] for check in checks(found)] == [True]
    assert section(found).exhibits and len(section(found).tables[0].shown.columns) == 4


def test_checks_of_the_published_network_follow_from_its_layers():
    name = architectures.ARCHITECTURES[0].name
    found = measure((0, 1), [Architecture(name, nn.LeakyReLU, width=30)], (1, 10, 20), most_steps=12)
    errors = {1: 0.6, 10: 0.01, 20: 0.2}
    held = checks(found.assign(error=found["layer"].map(errors)))
    assert [check["pass"] for check in held] == [True, True, True] and held[1]["paper"] == "235"
    assert not checks(found.assign(error=0.6))[1]["pass"]
