"""A job of a sweep on SLURM. submitit pickles it for its own worker, so this module imports nothing that is slow."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence

from submitit.helpers import Checkpointable

MOMENT = 30  # seconds in which submitit hears of the signal that ended the command, too


class Command(Checkpointable):
    """A command line. Told that it will be preempted or has no time left, submitit has SLURM queue it again."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]):
        self.words, self.environment = list(words), dict(environment)

    def __call__(self) -> int:
        code = subprocess.run(self.words, env={**os.environ, **self.environment}).returncode
        if code:
            time.sleep(MOMENT)
        return code
