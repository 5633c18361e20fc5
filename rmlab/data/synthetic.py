"""A generated world with a known gold reward: the embedded default data, and the yardstick every loss is held to.

The problem: a dial with the digits 0 to 9 is turned up or down by a list of small amounts. A solution writes one line
per turn, and each line is judged against the line before it, whatever happened earlier:

    Turn the dial down by 2 1 3 from 1          the prompt
    2 to 9                                      +1: from 1 down 2 is 9
    still 9                                      0: true, and leads nowhere
    1 to 6                                      -1: from 9 down 1 is 8
    3 to 3                                      +1: from 6 down 3 is 3; the answer, 3, is wrong (it is 5)

Every line needs the direction that only the prompt gives, and the first one its start too. The gold reward is
`ANSWER` if the last digit is the answer, `WRONG` for every wrong line and `NEUTRAL` for every redundant one; divided by
the temperature it is in log-odds units. Pairs, graded K-wise lists, outcome labels and step labels all follow from it.

Any example can be made without the ones before it: randomness comes from (seed, split, index) alone, and a seeded
permutation of all problems gives train its first and val its last ones, so no prompt comes twice.

Left out: lines that copy an amount wrongly and problems of several kinds; both make a tiny model slower, not the world
more useful.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from random import Random
from typing import final

from rmlab.batch import Completion, Example, Ranking, Step
from rmlab.data.source import SetAside
from rmlab.errors import UsageError

ANSWER, WRONG, NEUTRAL = 1.0, -1.0, -0.25  # the gold reward, before the temperature
DIGITS, AMOUNTS, DIRECTIONS = 10, (1, 2, 3), {"up": 1, "down": -1}
_EDITION = "dial 1"  # part of the fingerprint; changes with the text or the drawing of examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Where the dial stands, which way it turns (+1 or -1) and by how much each time."""

    start: int
    sign: int
    amounts: tuple[int, ...]

    @property
    def answer(self) -> int:
        """Returns the digit the dial ends on."""
        return (self.start + self.sign * sum(self.amounts)) % DIGITS

    @property
    def text(self) -> str:
        """Returns the prompt; the start stands last, as a line's own digit does."""
        direction = next(name for name, sign in DIRECTIONS.items() if sign == self.sign)
        return f"Turn the dial {direction} by {' '.join(map(str, self.amounts))} from {self.start}\n"


@final
class World:
    """Examples of the dial world; implements `rmlab.data.source.Source`.

    `length` turns a problem, `completions` different solutions a prompt. A turn is wrong with probability `noise` and
    followed by a redundant line with probability `neutral`. One ranking of all completions is drawn from Plackett-Luce
    on gold (Gumbel noise added to `Completion.gold`, sorted; Yellott 1977), so every pair of it is Bradley-Terry:
    P(a above b) = sigmoid(gold_a - gold_b). Its grades are the perturbed utilities, in log-odds units.
    Raises `UsageError` for options that cannot be met.
    """

    def __init__(
        self,
        prompts: int = 10_000,
        val_prompts: int = 1_000,
        completions: int = 4,
        length: int = 6,
        noise: float = 0.2,
        neutral: float = 0.2,
        temperature: float = 0.3,
        seed: int = 1,
    ) -> None:
        self.counts = {"train": prompts, "val": val_prompts}
        self.completions, self.length, self.seed = completions, length, seed
        self.noise, self.neutral, self.temperature = noise, neutral, temperature
        self.problems = DIGITS * len(DIRECTIONS) * len(AMOUNTS) ** max(length, 0)
        self._check()

    def _check(self) -> None:
        bounds = {"length": (1, 40), "noise": (0.05, 0.8), "neutral": (0.0, 0.8), "temperature": (1e-3, 1e3)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"data.{name} is {getattr(self, name)}, expected a number from {low} to {high}")
        most = 2**self.length
        if not 1 <= self.completions <= most:
            raise UsageError(
                f"data.completions is {self.completions}, expected 1 to {most} different solutions of "
                f"{self.length} turns; type a smaller data.completions or a larger data.length"
            )
        if min(self.counts.values()) < 1 or sum(self.counts.values()) > self.problems:
            raise UsageError(
                f"data.prompts is {self.counts['train']} and data.val_prompts is {self.counts['val']}, expected at "
                f"least 1 each and together at most the {self.problems} problems of {self.length} turns; type a larger "
                f"data.length for more"
            )

    def splits(self) -> tuple[str, ...]:
        return ("train", "val")

    def fingerprint(self) -> str:
        options = (self.counts, self.completions, self.length, self.noise, self.neutral, self.temperature, self.seed)
        return hashlib.sha256(f"{_EDITION} {options}".encode()).hexdigest()[:16]

    def read(self, split: str) -> Iterator[Example | SetAside]:
        for index in range(self.counts[split]):
            yield self.example(split, index)

    def example(self, split: str, index: int) -> Example:
        """Returns one example; the same for the same (seed, split, index), whatever else is made."""
        problem = self.problem(split, index)
        random = Random(f"{self.seed} {split} {index}")
        solutions: dict[str, Completion] = {}
        while len(solutions) < self.completions:
            solution = self._solution(problem, random)
            solutions.setdefault(str(solution.text), solution)
        completions = tuple(solutions.values())
        utility = [c.gold - log(random.expovariate(1.0)) for c in completions]  # -log of an exponential is Gumbel
        order = tuple(sorted(range(len(completions)), key=lambda i: -utility[i]))
        ranking = Ranking(order=order, grades=tuple(utility[i] for i in order))
        return Example(
            prompt=problem.text,
            completions=completions,
            rankings=(ranking,) if len(order) > 1 else (),
            source="dial",
            id=f"{split}:{index}",
        )

    def problem(self, split: str, index: int) -> Problem:
        """Returns the problem of an example: train counts the shuffled problems from the front, val from the back."""
        number = _shuffled(index if split == "train" else self.problems - 1 - index, self.problems, self.seed)
        number, start = divmod(number, DIGITS)
        number, direction = divmod(number, len(DIRECTIONS))
        amounts = []
        for _ in range(self.length):
            number, choice = divmod(number, len(AMOUNTS))
            amounts.append(AMOUNTS[choice])
        return Problem(start=start, sign=tuple(DIRECTIONS.values())[direction], amounts=tuple(amounts))

    def _solution(self, problem: Problem, random: Random) -> Completion:
        lines: list[str] = []
        labels: list[int] = []
        digit = problem.start
        for amount in problem.amounts:
            wrong = random.random() < self.noise
            slip = random.randrange(1, DIGITS) if wrong else 0
            digit = (digit + problem.sign * amount + slip) % DIGITS
            lines.append(f"{amount} to {digit}")
            labels.append(-1 if wrong else 1)
            if random.random() < self.neutral:
                lines.append(f"still {digit}")
                labels.append(0)
        right = digit == problem.answer
        reward = ANSWER * right + WRONG * labels.count(-1) + NEUTRAL * labels.count(0)
        ends = [len("\n".join(lines[: i + 1])) for i in range(len(lines))]  # the newline between lines is in no step
        return Completion(
            text="\n".join(lines),
            outcome=float(right),
            gold=reward / self.temperature,
            steps=tuple(Step(end=end, label=label) for end, label in zip(ends, labels, strict=True)),
        )


def _shuffled(number: int, size: int, seed: int) -> int:
    """Returns where a seeded permutation of range(size) sends `number`: a Feistel network, walked until inside."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = number >> half, number & mask
        for turn in range(4):
            key = hashlib.blake2b(f"{seed} {turn} {right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(key) & mask)
        number = (left << half) | right
        if number < size:
            return number
