"""How representations form over training: when a curve rises, whether two rise together.

    curve = Curve.of_groups("board", steps, hits, cells)       # (checkpoint, group) sums of a score
    transitions([curve, other])                                # steps of their transitions, with intervals
    coincidence(curve, other)                                  # the lag between them, in decades of training
"""

from ._coincidence import coincidence, coincidences
from ._curve import Curve, log_steps
from ._transition import transition, transitions

__all__ = ["Curve", "coincidence", "coincidences", "log_steps", "transition", "transitions"]
