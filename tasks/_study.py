"""What a study of a task asks: what is read and where, what is changed, what else is measured, what was published.

A task that has a study has a module `study` with a function `study(**options) -> Study`, whose options are those of
`--with` on the command line. Whoever runs the study (`worldprobe run TASK`) knows no task, and the task knows neither
probes nor edits: it says what is there to be read and changed, and draws what was found.

A model is called with (prompt, pos) token ids and returns (prompt, pos, d_vocab) logits; it is a `TransformerBridge`,
for measures that look inside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from ._prompts import Counterfactuals, LabelledPrompts

Model: TypeAlias = Any


@dataclass(frozen=True)
class Behaviour:
    """What the model does, item by item, without being touched.

    Attributes:
        measure: (model, n, seed) -> one row per item: a number per metric (missing where it does not apply) and
            `group`; columns that need no model are baselines.
        metrics: Metric -> what it is, in words; the first is the headline.
        baselines: Metric -> the column that somebody without the model gets.
        weights: Metric -> the column by which items count; once each unless named.
        n, quick: Items of a whole and of a quick study.
        items: What an item is called.
    """

    measure: Callable[[Model, int, int], pd.DataFrame]
    metrics: Mapping[str, str]
    baselines: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    n: int = 500
    quick: int = 200
    items: str = "prompts"


@dataclass(frozen=True)
class Reading:
    """A label read at one kind of token, by every probe at every layer, with its controls.

    Attributes:
        name: Short, unique in the study: in names of stages, and in the column `positions` of the results.
        label: Label scheme of the prompts.
        words: What is read from where, for headings: `every passage, from the token <PATH_START>`.
        load: (n, seed) -> prompts, with their shortcuts, subsets and columns that blocks are held out by.
        probes: Names known to the study engine, such as logistic, mlp, mass_mean, lda, ridge.
        n, quick: Prompts of a whole and of a quick study.
        subsets: Subsets that deserve a line of their own in the tables.
        positions: Word before the `=` of by-position subsets that are worth a figure, if any.
        held_out: Columns of the examples whose values are held out in turn, as blocks (country, decade, topic).
        transfer: Names of other readings, with the same targets, on which these probes are scored too (another
            prompt, another type of entity).
        components: Read from the first 1, 2, 4, ... principal components too.
        scores: Scores of the task's own: name -> (truth, answer), each (row, target) in the label's units, -> (row,)
            numbers whose mean is reported (kilometres, a rank among all answers).
        given: Whether the label stands in the input, so that it is no news that it can be read, only where: probes are
            then held against chance alone.
        followed: Whether the checkpoints of the model are read, too.
        groups: What a group is called: mazes, places.
    """

    name: str
    label: str
    words: str
    load: Callable[[int, int], LabelledPrompts]
    probes: Sequence[str] = ("logistic",)
    n: int = 2000
    quick: int = 500
    subsets: Sequence[str] = ()
    positions: str | None = None
    held_out: Sequence[str] = ()
    transfer: Sequence[str] = ()
    components: bool = False
    scores: Mapping[str, Callable[[ndarray, ndarray], ndarray]] = field(default_factory=dict)
    given: bool = False
    followed: bool = False
    groups: str = "groups"


@dataclass(frozen=True)
class Part:
    """Tokens at which something is written, and what.

    Attributes:
        reading: The reading whose directions are written there.
        positions: -1, the last token, or the name of a column `pos:NAME` of the cases.
        before, after: Cases -> (case, target) values of the reading's targets, classes as codes, numbers in their
            units; NaN where a target stays as it is. What is written takes each target from the one to the other.
    """

    reading: str
    positions: int | str
    before: Callable[[Counterfactuals], Float[ndarray, "case target"]]
    after: Callable[[Counterfactuals], Float[ndarray, "case target"]]


@dataclass(frozen=True)
class Change:
    """Cases in which one fact is to be changed inside the model, at one or another place.

    Attributes:
        name: Short, unique in the study; in the column `label` of the results.
        words: What is changed, for headings: `a passage is added that shortens the path`.
        cases: (n, seed) -> cases. Those with a column `witness` (a prompt of equal length, as text in words of the
            vocabulary, that tells of the change) have a ceiling, and a positive control: the witness' activations.
        places: Name of a place -> the parts that are written together there.
        by: What layers and doses are chosen by and edits are compared by: `set_error` and `flip_rate` where the first
            choice tells, `log_odds` or `mass_after` (of the new answers) where probabilities move and it does not.
        n, quick: Cases of a whole and of a quick study.
        groups: What a group is called.
    """

    name: str
    words: str
    cases: Callable[[int, int], Counterfactuals]
    places: Mapping[str, Sequence[Part]]
    by: Literal["set_error", "flip_rate", "log_odds", "mass_after"] = "set_error"
    n: int = 400
    quick: int = 160
    groups: str = "cases"


@dataclass(frozen=True)
class Measure:
    """Something else to be measured on the model.

    Attributes:
        rows: (model, seed) -> result rows: `metric`, `value`, `ci_low`, `ci_high`, `n`, and where they apply
            `n_groups`, `stream`, `layer`, `head`, `label`, `control`, `subset`, `p_value`.
        words: What it is, in a sentence or two.
        picture: Rows of this measure -> SVG text, with its caption.
        twin: Whether a randomly initialised model is measured, too (control `random_init`).
        heads: Metric whose best heads are knocked out, beside random heads of the same layers, if any.
        next_tokens: Whether it wants next tokens, which an encoder does not have.
    """

    name: str
    words: str
    rows: Callable[[Model, int], pd.DataFrame]
    picture: Callable[[pd.DataFrame], "Picture"] | None = None
    twin: bool = True
    heads: str | None = None
    next_tokens: bool = False


@dataclass(frozen=True)
class Heads:
    """Attention heads that read a label best, all pushed at the last token while the cases of a change are answered
    (inference-time intervention), beside as many other heads.

    Attributes:
        change: Name of the change.
        label: Label scheme of two classes and one target, which the change takes from one class to the other.
        load: (n, seed) -> prompts with that label, read at their last token, of the kind that the cases are.
        n_heads: How many are pushed; a quarter of all heads where that is fewer.
        n, quick: Prompts of a whole and of a quick study.
    """

    change: str
    label: str
    load: Callable[[int, int], LabelledPrompts]
    n_heads: int = 48
    n: int = 2000
    quick: int = 600


@dataclass(frozen=True)
class Questions:
    """Prompts after which an answer of one token is due.

    Attributes:
        tokens, lengths: As in `LabelledPrompts`.
        table: One row per prompt: `group` (what the question is about) and `split`, as in `LabelledPrompts`.
        right: (prompt, d_vocab) right answers.
        choices: (prompt, d_vocab) what is chosen from; all tokens unless given.
        vocabulary: The word of each token id, where there is one.
    """

    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    table: pd.DataFrame
    right: Bool[ndarray, "prompt d_vocab"]
    choices: Bool[ndarray, "prompt d_vocab"] | None = None
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self):
        if missing := {"group", "split"} - set(self.table):
            raise ValueError(f"the table of questions lacks {sorted(missing)}, it has {list(self.table)}; add them")
        if not self.right.any(1).all():
            raise ValueError(f"question {int((~self.right.any(1)).argmax())} has no right answer; drop it")


@dataclass(frozen=True)
class Answering:
    """What the model answers, drawn from its own next tokens, and what its states tell of these answers: whether one is
    right, and how the model errs.

    Attributes:
        name: Short, unique among readings: those that come of it are called `NAME-before`, `NAME-answer`, `NAME-type`.
        words: What is asked, for headings: `which object belongs to a person`.
        ask: (n, seed) -> questions.
        n, quick: Questions of a whole and of a quick study.
        groups: What a group is called.
    """

    name: str
    words: str
    ask: Callable[[int, int], Questions]
    n: int = 2000
    quick: int = 600
    groups: str = "groups"


@dataclass(frozen=True)
class Picture:
    """SVG text with a viewBox that starts at 0 0, what it shows in a few words, and a caption."""

    title: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Read:
    """What the best probe of a reading (chosen on validation) says of the test examples.

    Attributes:
        rows: Which examples of the prompts.
        values: The probability of the last class where there are two, the most likely code where there are more, the
            number where labels are numbers.
        where: The probe and its site, in words.
        apart: Of numbers, column that blocks are held out by -> what the same probe says after it was fitted without
            the block of each example (NaN where it is in none).
    """

    prompts: LabelledPrompts
    rows: Int[ndarray, " row"]
    values: Float[ndarray, "row target"]
    where: str
    apart: Mapping[str, Float[ndarray, "row target"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Changed:
    """Next-token probabilities of some cases under the edit that did most (chosen on the other half).

    Attributes:
        rows: Which cases.
        before, after, told: Unedited, edited, and of the witness (None without one).
        place: Of the change.
        verb, probe, stream, layer, alpha: The edit, as in the results (`verb` is their column `intervention`).
    """

    cases: Counterfactuals
    rows: Int[ndarray, " row"]
    before: Float[ndarray, "row d_vocab"]
    after: Float[ndarray, "row d_vocab"]
    told: Float[ndarray, "row d_vocab"] | None
    place: str
    verb: str
    probe: str
    stream: str
    layer: int
    alpha: float

    @property
    def where(self) -> str:
        """The edit, in words."""
        return f"{self.verb} along {self.probe} at {self.place}, {self.stream}.{self.layer}, dose {self.alpha:g}"


@dataclass(frozen=True)
class Found:
    """What a study found.

    Attributes:
        model: The name of the model, as in the column `model` of the table; others there are contrasts.
        table: All result rows. Of a reading: `positions` is its name; of a change: `label` is its name, `positions`
            the place; of dynamics: `revision` is `step N`; of a measure: its metrics.
        transitions: One row per followed curve, see `probing.formation.transition`; empty without checkpoints.
        network: The model itself.
        config: The configuration of the run: seed, quick, options.
        readings: Reading -> what it says of the test examples.
        changes: Change -> next tokens before and after.
    """

    model: str
    table: pd.DataFrame
    transitions: pd.DataFrame
    network: Model
    config: Mapping[str, Any]
    readings: Mapping[str, Read]
    changes: Mapping[str, Changed]


@dataclass(frozen=True)
class Study:
    """A study of one task.

    Attributes:
        task: As in `tasks.load(name)`.
        title: Of the report, with a place for the model: `What the model {model} knows of the maze, and uses`.
        question: What is asked and of what kind of model, in two or three sentences.
        model: The reference model that is studied unless another is named.
        readings: In the order of the report; the first is the headline.
        contrasts: Other reference models -> names of the readings that are taken from them, too.
        repeats: Reference models that differ from `model` by the seed alone: `reproduce` studies them, too, and a check
            passes when it does on all of them.
        checks: (found) -> one object of `checks.json` each, see `tasks._checks.check`; one that raises LookupError is
            left out, and the run log says why.
        pictures: (found) -> what the task draws.
        draws: (found, name of a reading, places among its test examples, a name for each) -> SVG text of these examples
            with what is read of them; where it is None they are drawn by `picture` of the task's module.
        shows: Prompt and answer as text for the terminal, if there is something to show.
        heads: Heads that are pushed while the cases of a change are answered.
        answering: Questions that the model answers, to hold what it says against what can be read.
        notes: Sentences for the reader that stand under the question: what is left out, and why.
        text: (n, seed) -> (inputs, next tokens, real), each (prompt, pos): what the model was trained to go on with, on
            prompts that it was not trained on; next tokens are -1 where nothing is asked, `real` is false at padding.
            Unless given, every token of the followed prompts.
    """

    task: str
    title: str
    question: str
    model: str
    behaviour: Behaviour | None = None
    readings: Sequence[Reading] = ()
    changes: Sequence[Change] = ()
    measures: Sequence[Measure] = ()
    contrasts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    repeats: Sequence[str] = ()
    checks: Sequence[Callable[[Found], dict]] = ()
    pictures: Callable[[Found], Sequence[Picture]] | None = None
    draws: Callable[[Found, str, Sequence[int], Sequence[str]], str | None] | None = None
    shows: Callable[[Found], str] | None = None
    heads: Sequence[Heads] = ()
    answering: Sequence[Answering] = ()
    notes: Sequence[str] = ()
    text: Callable[[int, int], tuple[Int[Tensor, "prompt pos"], Int[Tensor, "prompt pos"],
                                     Bool[Tensor, "prompt pos"]]] | None = None

    def __post_init__(self):
        names = [r.name for r in self.readings]
        wanted = [p.reading for c in self.changes for parts in c.places.values() for p in parts]
        wanted += [name for r in self.readings for name in r.transfer]
        wanted += [name for taken in self.contrasts.values() for name in taken]
        if unknown := sorted(set(wanted) - set(names)):
            raise ValueError(f"the study of {self.task} has no reading {unknown[0]!r}; its readings are "
                             f"{', '.join(names) or 'none'}")
        if unknown := sorted({h.change for h in self.heads} - {c.name for c in self.changes}):
            raise ValueError(f"the study of {self.task} pushes heads for {unknown[0]!r}, which is no change of it; its "
                             f"changes are {', '.join(c.name for c in self.changes) or 'none'}")
        for what, found in (("reading", names), ("change", [c.name for c in self.changes]),
                            ("measure", [m.name for m in self.measures])):
            if twice := sorted({name for name in found if found.count(name) > 1}):
                raise ValueError(f"two {what}s of {self.task} are called {twice[0]!r}; give each a name of its own")


def codes(cases: Counterfactuals, targets: Sequence[str], column: str, of: str = "target"
          ) -> Float[ndarray, "case target"]:
    """The codes in `column` of the cases (`was`, `becomes`) at the target that the column `of` names, NaN elsewhere:
    what `Part.before` and `Part.after` are for cases that change one target each.

    Raises:
        ValueError: A case names a target that is not there.
    """
    number = {name: i for i, name in enumerate(targets)}
    if unknown := sorted(set(cases.cases[of].astype(str)) - set(number)):
        raise ValueError(f"the cases change {unknown[0]!r}, which is no target of the reading; there are "
                         f"{', '.join(map(str, targets))}")
    out = np.full((len(cases), len(targets)), np.nan)
    out[np.arange(len(cases)), cases.cases[of].astype(str).map(number).to_numpy()] = cases.cases[column]
    return out
