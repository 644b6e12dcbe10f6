"""Pictures of truth: well-formed, escaped, one mark per thing drawn."""

from xml.etree import ElementTree

import numpy as np
import pytest

from tasks.truthfulness._pictures import (
    BLUE,
    ORANGE,
    Effect,
    components_picture,
    effects_picture,
    patching_picture,
    statement_picture,
)

SVG = "{http://www.w3.org/2000/svg}"


def _marks(svg: str, kind: str, colour: str = "") -> int:
    return sum(e.tag == SVG + kind and colour in e.get("style", "") for e in ElementTree.fromstring(svg).iter())


def test_components_show_every_statement_in_the_colour_of_its_truth():
    rng, true, plain = np.random.default_rng(0), np.arange(100) % 2 == 0, np.arange(100) < 60
    layers = {f"layer {k}": rng.normal(size=(100, 8)) + np.outer(true, 9 * np.eye(8)[k]) for k in range(4)}
    svg = components_picture(layers, true, plain)
    assert _marks(svg, "circle", BLUE) == 4 * 30 + 1 and _marks(svg, "circle", ORANGE) == 4 * 30 + 1  # and the legend
    assert _marks(svg, "path", BLUE) == 4 * 20 + 1 and "true, negated" in svg
    assert "negated" not in components_picture(layers, true)
    assert components_picture({"flat": np.ones((9, 3))}, np.ones(9, bool))  # nothing varies


def test_the_first_component_is_the_one_that_separates():
    true = np.arange(60) % 2 == 0
    X = np.random.default_rng(1).normal(size=(60, 5)) + np.outer(true, [0, 0, 40, 0, 0])
    root = ElementTree.fromstring(components_picture({"layer": X}, true))
    x = {c: [float(e.get("cx")) for e in root.iter(SVG + "circle") if c in e.get("style")][:30] for c in (BLUE, ORANGE)}
    assert min(x[BLUE]) > max(x[ORANGE]) or max(x[BLUE]) < min(x[ORANGE])


def test_tokens_are_escaped_and_scored():
    svg = statement_picture([(["<bos>", "a&b", "."], np.array([-1.0, 2.0, 0.5]))], "scores <1>")
    assert _marks(svg, "rect", BLUE) == 2 and _marks(svg, "rect", ORANGE) == 1
    words = [e.text for e in ElementTree.fromstring(svg).iter(SVG + "text")]
    assert words == ["scores <1>", "<bos>", "-1.0", "a&b", "+2.0", ".", "+0.5"]
    assert statement_picture([])


def test_effects_and_patches_have_a_mark_each():
    svg = effects_picture({"false to true": [Effect("mass mean", 0.8, 0.7, 0.9, (0.1, 0.2)), Effect("patch", 1, 1, 1)]})
    assert _marks(svg, "circle", BLUE) == 2 and _marks(svg, "rect") == 1
    svg = patching_picture(["ada", "."], ["0", "1"], np.array([[1.0, 0.0], [-0.2, 0.5]]))
    assert _marks(svg, "rect", BLUE) + _marks(svg, "rect", ORANGE) == 4
    assert "100" in svg and "-20" in svg


@pytest.mark.parametrize("svg", [effects_picture({}), patching_picture([], [], np.zeros((0, 0)))])
def test_nothing_to_draw_is_an_empty_picture(svg):
    assert ElementTree.fromstring(svg).get("viewBox").startswith("0 0 ")
