"""Text from results and files on a terminal: it is printed, never obeyed."""

import unicodedata

_OBEYED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, direction marks, surrogates, unassigned, separators


def plain(text: object) -> str:
    """The text with every character that a terminal would obey or hide written as its escape: `\\x1b`, `\\u202e`.

    Letters of all scripts stay; so do backslashes, which no terminal reads.
    """
    return "".join(_escaped(c) if unicodedata.category(c) in _OBEYED else c for c in str(text))


def obeyed(text: str) -> bool:
    """Whether there is anything in the text that `plain` would have to escape."""
    return any(unicodedata.category(c) in _OBEYED for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
