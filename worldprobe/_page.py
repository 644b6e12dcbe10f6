"""What pages made from results share: their templates, and the digest by which a policy lets a script of ours in."""

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2


@cache
def environment() -> jinja2.Environment:
    """Templates in which text is text unless it says otherwise."""
    return jinja2.Environment(loader=jinja2.PackageLoader("worldprobe"), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined)


@cache
def source(name: str) -> str:
    """A file of the folder of templates."""
    return (Path(__file__).with_name("templates") / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """As a content security policy names what may be in the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
