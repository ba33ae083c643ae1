"""What the papers' public code adds to the share of tests passed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CRASHED = ("exception", "syntax_error", "memory", "killed", "forged")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicShaping:
    """Penalties, bonuses and tie-breaks of the public code of the papers, on the completions of one group.

        base    = time_out, crash or none_passed where that happened, else the share passed
        reward  = clip(base + banned strings + non-ASCII + brevity + copies + tie-break, least, most)

    The tie-break ranks the texts of a group whose rewards are all equal by length, the shortest first.
    Brevity and tie-break shorten answers whatever the divergence, so no claim about length can be made with
    this on. Whether the reported runs used it is not known.

    Attributes:
        none_passed: base where no test passed.
        crash: base where the program raised, did not parse, or ended without an answer.
        time_out: base where it ran out of time.
        banned: strings that a completion should not hold.
        banned_penalty: for each of them that it holds.
        non_ascii_penalty: for a completion with any character that is not ASCII.
        brief: fewer characters than this earn `brief_bonus`, if a test passed.
        brief_bonus: see `brief`.
        short: fewer characters than this earn `short_bonus`, if a test passed and it is not brief.
        short_bonus: see `short`.
        copy_penalty: for a completion whose text came earlier in its group.
        tie_break: half the range of the tie-break.
        least: lowest reward.
        most: highest reward.

    References:
        The public code of paper B, https://arxiv.org/abs/2602.04380
    """

    none_passed: float
    crash: float
    time_out: float
    banned: Sequence[str]
    banned_penalty: float
    non_ascii_penalty: float
    brief: int
    brief_bonus: float
    short: int
    short_bonus: float
    copy_penalty: float
    tie_break: float
    least: float
    most: float

    def __call__(self, texts: Sequence[str], shares: Sequence[float], outcomes: Sequence[str]) -> list[float]:
        """The rewards of one group.

        Args:
            texts: its completions.
            shares: of the tests that each passed; NaN where nobody can say, and the reward is NaN too.
            outcomes: as `CodeTests` names them.
        """
        rewards: list[float] = []
        for index, (text, share, outcome) in enumerate(zip(texts, shares, outcomes, strict=True)):
            reward = self._base(share, outcome)
            reward += sum(self.banned_penalty for string in self.banned if string in text)
            reward += 0.0 if text.isascii() else self.non_ascii_penalty
            reward += self._brevity(text) if share > 0 else 0.0
            reward += self.copy_penalty if text in texts[:index] else 0.0
            rewards.append(share if math.isnan(share) else reward)
        self._break_ties(rewards, texts)
        return [
            reward if math.isnan(reward) else min(max(reward, self.least), self.most) for reward in rewards
        ]

    def _base(self, share: float, outcome: str) -> float:
        if outcome == "time_out":
            return self.time_out
        if outcome in CRASHED and share == 0:
            return self.crash
        return share or self.none_passed

    def _brevity(self, text: str) -> float:
        if len(text) < self.brief:
            return self.brief_bonus
        return self.short_bonus if len(text) < self.short else 0.0

    def _break_ties(self, rewards: list[float], texts: Sequence[str]) -> None:
        known = [index for index, reward in enumerate(rewards) if not math.isnan(reward)]
        if len(known) > 1 and len({rewards[index] for index in known}) == 1:
            ranked = sorted(known, key=lambda index: len(texts[index]))
            for rank, index in enumerate(ranked):
                rewards[index] += self.tie_break * (1 - 2 * rank / (len(ranked) - 1))
