"""Tests run on the CPU and without the network: models are tiny or shipped, and time is never asserted.

No test unpickles a class or a function, which is how a file runs code: the interpreter tells us of every one.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "disabled"  # transformer-lens brings wandb

import pytest
from hypothesis import settings

settings.register_profile("worldprobe", deadline=None, derandomize=True)
settings.load_profile("worldprobe")

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
