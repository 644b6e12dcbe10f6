"""Tests run on the CPU and without the network: models are tiny or shipped, and time is never asserted.

No test unpickles a class or a function, which is how a file runs code: the interpreter tells us of every one.
"""

import dataclasses
import inspect
import os
import sys
import typing

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "disabled"  # transformer-lens brings wandb

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings

settings.register_profile("worldprobe", deadline=None, derandomize=True)
settings.load_profile("worldprobe")

_jaxtyped = jaxtyping.jaxtyped
_typed = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def _has_array(hint: object) -> bool:
    """Whether a shape is among the types that a type is made of."""
    if isinstance(hint, list | tuple):
        return any(map(_has_array, hint))
    return (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)) or _has_array(typing.get_args(hint))


def _checked(fn):
    """What `jaxtyped` checks, for less: without annotations there is nothing to check, without shapes nothing to
    remember of a call, and with them the parameters are checked once a call and not twice."""
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
            fn.__init__ = _checked(fn.__init__)
        return fn
    if not inspect.isfunction(fn) or inspect.isgeneratorfunction(fn):
        return _jaxtyped(fn, typechecker=_typed)
    if not fn.__annotations__:
        return fn
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except Exception:  # it names what is not there yet, and jaxtyping knows what to make of it
        return _jaxtyped(fn, typechecker=_typed)
    return _jaxtyped(_typed(fn), typechecker=None) if _has_array(list(hints.values())) else _typed(fn)


# The option --jaxtyping-packages puts this decorator on every function of ours.
jaxtyping.jaxtyped = lambda fn=None, **options: _checked if fn is None else _jaxtyped(fn, **options)

MAY_UNPICKLE = {  # what they unpickle was pickled a moment before by the same process or its parent, in no file
    "sklearn/utils/estimator_checks.py": "the scikit-learn contract: a fitted estimator survives pickling",
    "multiprocessing/": "results come back from worker processes",
    "joblib/externals/loky/": "the same, for joblib's workers",
}
_UNPICKLED: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    if event == "pickle.find_class":
        files, frame = [], sys._getframe(1)
        while frame is not None:
            files.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        if not any(allowed in file for file in files for allowed in MAY_UNPICKLE):
            _UNPICKLED.append(f"{'.'.join(arguments)} at {' < '.join(files[:8])}")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def unpickled():
    """Classes and functions that were unpickled in this test; the test fails if there is one."""
    yield _UNPICKLED
    seen = _UNPICKLED[:]
    _UNPICKLED.clear()
    assert not seen, f"unpickled: {seen}"
