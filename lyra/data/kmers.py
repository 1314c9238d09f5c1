"""Clusters of sequences by the k-mers that they share.

If a share p of the residues of two sequences are identical and the others differ at places that are independent of each
other, a k-mer of the one survives in the other with probability p^k. Those that do not survive are there by chance with
probability c, see `Words.chance`. So two sequences count as p identical where at least p^k + (1 - p^k) c of the k-mers
of the shorter one are in the longer one, and more of them than unrelated sequences would share.

The rule's limits: at exactly p identity it finds about half of the pairs, since the number of k-mers that survive
varies; substitutions that stand together leave more k-mers whole than p^k, and every insertion costs k - 1 of them;
short sequences and low identities leave too few k-mers to tell from chance: they are refused where the usual sequence
is that short, and where only some are, these mostly stand alone. Repeats and unusual compositions are not looked at.
Opposite strands of DNA are different sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.sparse import csr_matrix

SHORTEST, LONGEST = 2, 12  # k
FEWEST = 3  # k-mers that sequences of the usual length must share, since fewer say nothing
BY_CHANCE = 0.05  # unrelated sequences, at most, that one may be expected to be taken with
QUICK = 0.01  # share of k-mers in common by chance, up to which counting them is quick
BLOCK = 1024  # sequences compared at once


@dataclass(frozen=True)
class Words:
    """The rule of this module for S sequences.

    Attributes:
        k: the length of a word; identity: p.
        agree: q, the probability that two residues agree by chance: the sum of squared frequencies.
        count: S, the number of sequences that each may be taken with by chance.
    """

    k: int
    identity: float
    agree: float
    count: int

    def chance(self, words: np.ndarray | int) -> np.ndarray:
        """The probability that a k-mer is among the `words` of an unrelated sequence: 1 - (1 - q^k)^words."""
        return -np.expm1(np.asarray(words) * np.log1p(-(self.agree**self.k)))

    def needed(self, words: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How many of the `words` k-mers of a sequence must be among the `others` of a longer one."""
        survive = self.identity**self.k
        return words * (survive + (1 - survive) * self.chance(others))

    def telling(self, shared: np.ndarray, words: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Whether so many shared k-mers are more than those of unrelated sequences, among all of them."""
        return chance_of_as_many(shared, words * self.chance(others), self.agree) * self.count <= BY_CHANCE

    def tells(self, words: np.ndarray) -> np.ndarray:
        """Whether sequences with so many k-mers each that are as identical as asked for can be told from unrelated."""
        shared = np.ceil(self.needed(words, words))
        return (self.identity**self.k * words >= FEWEST) & self.telling(shared, words, words)


def chance_of_as_many(shared: np.ndarray, mean: np.ndarray, agree: float) -> np.ndarray:
    """An upper bound of the probability that unrelated sequences share `shared` k-mers or more, on average `mean`.

    A run of letters that agree has several k-mers in it, so they come in clumps: a Poisson number of clumps, whose
    sizes are geometric since a run goes on with probability q, `agree` (the Polya-Aeppli distribution). Its generating
    function is exp(a (z - 1) / (1 - q z)) with a = (1 - q) mean, and exp(a (z - 1) / (1 - q z)) / z^shared is a bound
    for every z > 1 (Chernoff's), least where q^2 z^2 - (2 q + a (1 - q) / shared) z + 1 = 0.
    """
    shared, rate = np.maximum(shared, 1e-9), (1 - agree) * np.asarray(mean)
    middle = 2 * agree + rate * (1 - agree) / shared
    z = 2 / (middle + np.sqrt(np.maximum(middle**2 - 4 * agree**2, 0)))  # the smaller root
    with np.errstate(over="ignore"):
        bound = np.exp(rate * (z - 1) / (1 - agree * z) - shared * np.log(z))
    return np.where(z > 1, np.minimum(bound, 1), 1.0)


def choose_words(sequences: list[np.ndarray], identity: float, letters: int) -> Words | None:
    """The rule with the k by which `identity` identical sequences of the usual (median) length are told from others.

    It is the smallest one, which survives best, unless unrelated sequences share more than 1% of such k-mers: they take
    time. None if sequences so short and so different cannot be told.
    """
    length = int(np.median([len(tokens) for tokens in sequences]))
    flat = np.concatenate(sequences)
    counts = np.bincount(flat[flat >= 0], minlength=letters)
    agree = min(float(((counts / max(1, counts.sum())) ** 2).sum()), 1 - 1e-9)
    found = None
    for k in range(SHORTEST, min(LONGEST, length) + 1):
        rule, count = Words(k, identity, agree, len(sequences)), np.array(length - k + 1)
        if rule.tells(count):
            found = rule
            if rule.chance(count) <= QUICK:
                break
    return found


def lowest_identity(sequences: list[np.ndarray], above: float, letters: int) -> float | None:
    """The lowest identity, in hundredths and not below `above`, for which there is a rule; None if there is none."""
    candidates = (percent / 100 for percent in range(ceil(100 * above), 101))
    return next((identity for identity in candidates if choose_words(sequences, identity, letters)), None)


def word_table(sequences: list[np.ndarray], k: int, letters: int) -> csr_matrix:
    """(S, K) 0 or 1, which of the K different k-mers each sequence has; those with an unknown residue do not count."""
    lengths = np.array([len(tokens) for tokens in sequences])
    flat = np.concatenate([*sequences, np.full(k, -1, dtype=np.int8)]).astype(np.int64)
    count = len(flat) - k
    codes, known = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
    for j in range(k):
        codes = codes * letters + flat[j : j + count]
        known &= flat[j : j + count] >= 0
    owner = np.repeat(np.arange(len(sequences)), lengths)
    known &= np.arange(count) + k <= np.cumsum(lengths)[owner]
    words, columns = np.unique(codes[known], return_inverse=True)
    ones = np.ones(len(columns), dtype=np.int32)
    table = csr_matrix((ones, (owner[known], columns)), shape=(len(sequences), max(1, len(words))))
    table.data[:] = 1  # a k-mer that is there twice counts once
    return table


def cluster_by_words(sequences: list[np.ndarray], rule: Words, letters: int) -> np.ndarray:
    """(S,) int, greedy clusters: from the longest sequence on, each joins the one that it is most like.

    Where it is like none (see this module), it is the first of a new cluster; members are compared with the first one
    only. Shared k-mers are counted over an inverted index (a sparse product), a block of sequences at a time. 10,000
    unrelated proteins of 300 residues, the slowest case, take about 10 s on one core, families much less; time grows
    with the square of the number of clusters.
    """
    order = np.argsort([-len(tokens) for tokens in sequences], kind="stable")
    table = word_table([sequences[i] for i in order], rule.k, letters)
    words = np.diff(table.indptr)
    cluster = np.full(len(order), -1, dtype=np.int64)
    firsts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(order), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(order)))
        if len(firsts):
            likeness = _likeness(table[block] @ table[firsts].T, words[block], words[firsts], rule)
            best = _row_maxima(likeness)
            cluster[block[best >= 0]] = firsts[best[best >= 0]]
            block = block[best < 0]
        likeness = _likeness(table[block] @ table[block].T, words[block], words[block], rule).toarray()
        new = np.zeros(0, dtype=np.int64)
        for i, row in enumerate(block):
            if len(new) and likeness[i, new].max() > 0:
                cluster[row] = block[new[likeness[i, new].argmax()]]
            else:
                cluster[row] = row
                new = np.append(new, i)
        firsts = np.concatenate([firsts, block[new]])
    found = np.empty(len(order), dtype=np.int64)
    found[order] = cluster
    return np.unique(found, return_inverse=True)[1]


def _likeness(shared: csr_matrix, words: np.ndarray, others: np.ndarray, rule: Words) -> csr_matrix:
    """Shared k-mers of (sequences, others) as a multiple of those needed, of the pairs that the rule takes as alike."""
    rows = np.repeat(np.arange(len(words)), np.diff(shared.indptr))
    survive = rule.identity**rule.k
    enough = shared.data >= survive * words[rows]  # most pairs end here
    rows, columns, counts = rows[enough], shared.indices[enough], shared.data[enough]
    multiple = counts / rule.needed(words[rows], others[columns])
    alike = multiple >= 1
    alike[alike] = rule.telling(counts[alike], words[rows[alike]], others[columns[alike]])
    return csr_matrix((multiple[alike], (rows[alike], columns[alike])), shape=shared.shape)


def _row_maxima(table: csr_matrix) -> np.ndarray:
    """(S,) the column of the largest entry of each row; -1 where a row is empty."""
    filled = np.diff(table.indptr) > 0
    best = np.full(len(filled), -1, dtype=np.int64)
    best[filled] = np.asarray(table[filled].argmax(axis=1)).ravel()
    return best
