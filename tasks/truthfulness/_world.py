"""The co-occurrence world: people and what they do, in documents whose statements tend to be true or false together.

    <bos> ada does speak dutch . ben doesn't play harp . mia does visit oslo . ada does study law .

There is a fact for every person and topic: the one language that they speak, city that they visit, instrument that
they play, subject that they study. A document is truthful or not (even odds); each of its statements is true
accordingly, or the other way round with probability `eps`. An affirmative statement names the right object where it is
true and any other one where it is false; a negated one the other way round. Nothing says which statements are true:
what can be known is that the objects of a document are right together or wrong together.

Source: Ravfogel et al., arXiv:2510.15804 (the world, with two statements); several topics, the noise `eps`, longer
documents and negation are ours.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

SUBJECTS = tuple("ada ben cai dan eva fay gus hal ida jan kai lea mia ned ola pam quin ray sue tom una val wes xia yan "
                 "zoe abe bea cleo dov edi finn gia hugo ivy joe kim leo max nia otto pia rex sam tess ugo vera will"
                 .split())
OBJECTS = {
    "visit": tuple("oslo rome lima cairo paris tokyo delhi quito dakar hanoi seoul milan perth turin basel accra"
                   .split()),
    "speak": tuple("dutch hindi greek welsh thai czech irish malay latin danish polish swahili tamil basque finnish "
                   "urdu".split()),
    "play": tuple("harp cello flute piano banjo viola drums lute oboe tuba organ sitar guitar violin zither horn"
                  .split()),
    "study": tuple("law art maths music logic optics botany ethics physics history geology anatomy poetry drama algebra"
                   " ecology".split()),
}
TOPICS = tuple(OBJECTS)
N_OBJECTS = 16
PAD, BOS, DOES, DOESNT, STOP, VERDICT, FALSE, TRUE = range(8)
SPECIALS = ("<pad>", "<bos>", "does", "doesn't", ".", "verdict:", "FALSE", "TRUE")
WORDS = (*SPECIALS, *SUBJECTS, *TOPICS, *(word for words in OBJECTS.values() for word in words))
SUBJECT = len(SPECIALS)
TOPIC = SUBJECT + len(SUBJECTS)
OBJECT = TOPIC + len(TOPICS)
PLACES = {"subject": 1, "polarity": 2, "topic": 3, "object": 4, "period": 5}  # of the first statement
STATEMENTS, EPS = 4, 0.15  # of the documents that models are trained on
LENGTH = 5  # tokens of a statement
FACTS: Int[ndarray, "topic subject"] = np.random.default_rng(20).integers(0, N_OBJECTS, (len(TOPICS), len(SUBJECTS)))


@dataclass(frozen=True)
class Documents:
    """Statements by their parts, each (document, statement): numbers of subject and topic, the number of the object
    within its topic, whether the statement is negated, and whether it is true."""

    subject: Int[ndarray, "document statement"]
    topic: Int[ndarray, "document statement"]
    said: Int[ndarray, "document statement"]
    negated: Bool[ndarray, "document statement"]
    true: Bool[ndarray, "document statement"]

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def right(self) -> Int[ndarray, "document statement"]:
        """Token of the object that is a fact of the subject and the topic."""
        return OBJECT + N_OBJECTS * self.topic + FACTS[self.topic, self.subject]

    @property
    def tokens(self) -> Int[ndarray, "document pos"]:
        """Token ids, beginning with `<bos>`; statement k from 0 has its object at 4 + 5 k."""
        parts = [SUBJECT + self.subject, np.where(self.negated, DOESNT, DOES), TOPIC + self.topic,
                 OBJECT + N_OBJECTS * self.topic + self.said, np.full_like(self.said, STOP)]
        written = np.stack(parts, -1).reshape(len(self), -1)
        return np.concatenate([np.full((len(self), 1), BOS), written], 1)


def documents(n: int, rng: np.random.Generator, statements: int = STATEMENTS, *, eps: float = EPS,
              negation: float | int | Float[ndarray, "document 1"] = 0.0,
              true: Bool[ndarray, "#document #statement"] | None = None,
              topics: tuple[int, ...] = tuple(range(len(TOPICS))),
              subjects: tuple[int, ...] = tuple(range(len(SUBJECTS)))) -> Documents:
    """Random documents.

    Args:
        eps: Chance that a statement is not as true as its document; 0.5 makes statements independent.
        negation: Share of negated statements, of all documents or of each.
        true: Which statements are true, if that is not left to chance.
    """
    shape = (n, statements)
    truthful, odd = rng.random((n, 1)) < 0.5, rng.random(shape) < eps
    true = (truthful ^ odd) if true is None else np.broadcast_to(true, shape)
    negated = rng.random(shape) < negation
    subject, topic = rng.choice(subjects, shape), rng.choice(topics, shape)
    right = FACTS[topic, subject]
    wrong = (right + rng.integers(1, N_OBJECTS, shape)) % N_OBJECTS
    return Documents(subject, topic, np.where(true ^ negated, right, wrong), negated, true)


def bayes(true: Bool[ndarray, "*document before"], eps: float = EPS) -> Float[ndarray, "*document"]:
    """Probability that the next statement of a document is true, for somebody who knows the truth of those before it:
    also the probability of the right object, where the statement is affirmative."""
    n_true, n_false = true.sum(-1), (~true).sum(-1)
    log_odds = (n_true - n_false) * (np.log1p(-eps) - np.log(eps))
    truthful = 1 / (1 + np.exp(-log_odds))
    return truthful * (1 - eps) + (1 - truthful) * eps


def next_tokens(made: Documents, eps: float = EPS) -> Float[ndarray, "document pos d_vocab"]:
    """The distribution from which every token after `<bos>` was drawn, for somebody who knows all facts and has read
    the document up to there; `does` or `doesn't` as it is."""
    before = np.stack([bayes(made.true[:, :k], eps) for k in range(made.true.shape[1])], 1)
    p_right = np.where(made.negated, 1 - before, before)[..., None]
    out = np.zeros((*made.true.shape, LENGTH, len(WORDS)))
    subject, polarity, topic, said, stop = np.moveaxis(out, -2, 0)
    subject[..., SUBJECT:TOPIC], topic[..., TOPIC:OBJECT], stop[..., STOP] = 1 / len(SUBJECTS), 1 / len(TOPICS), 1
    np.put_along_axis(polarity, np.where(made.negated, DOESNT, DOES)[..., None], 1, -1)
    of_topic = OBJECT + N_OBJECTS * made.topic[..., None] + np.arange(N_OBJECTS)
    np.put_along_axis(said, of_topic, (1 - p_right) / (N_OBJECTS - 1), -1)
    np.put_along_axis(said, made.right[..., None], p_right, -1)
    return out.reshape(len(made), -1, len(WORDS))


def likely(made: Documents) -> Bool[ndarray, "document statement"]:
    """What the object and the polarity of a statement say about its truth to somebody who knows no fact, only how often
    every object occurs: an affirmative statement is likelier true than false if its object is named more often than the
    16 of its topic on average, which is if more than 3 of the 48 subjects have it; a negated one, if not."""
    count = np.stack([np.bincount(row, minlength=N_OBJECTS) for row in FACTS])
    return (count[made.topic, made.said] > len(SUBJECTS) / N_OBJECTS) ^ made.negated


def text(tokens: Int[ndarray, "prompt pos"]) -> list[str]:
    """Prompts as words, without padding."""
    return [" ".join(WORDS[t] for t in row if t != PAD) for row in tokens]
