"""The two papers' published numbers, as data: each with how surely it is known and where it was read.

Marks: V read in the paper or its authors' post; S a third party's summary; C the authors' public code; I
inferred. Where value and row of a number are known differently, the weaker mark stands and the note says why.
`docs/papers.md` has the settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GBMPO = "2602.04380"
COUNTERFACTUAL = "2602.09331"
TITLES: Mapping[str, str] = {
    GBMPO: "Beyond KL Divergence: Policy Optimization with Flexible Bregman Divergences for LLM Reasoning",
    COUNTERFACTUAL: "Beyond Uniform Credit: Causal Credit Assignment for Policy Optimization",
}
MARKS: Mapping[str, str] = {
    "V": "read in the paper or its authors' post",
    "S": "a third party's summary",
    "C": "the authors' public code",
    "I": "inferred",
}
# A small world that stands in for a benchmark: differences may be set beside each other, levels may not.
TWINS: Mapping[str, str] = {
    "gsm8k": "gsm8k",
    "arithmetic": "gsm8k",
    "chain_sum": "gsm8k",
    "mbpp": "mbpp",
    "mbpp_sanitized": "mbpp",
    "mbpp_plus": "mbpp",
    "tiny_functions": "mbpp",
}
BENCHMARKS: Mapping[str, str] = {"gsm8k": "GSM8K", "mbpp": "MBPP"}
# Our choices that are a paper's arm.
SAME: Mapping[str, Sequence[str]] = {
    "kl": ("kl", "kl_k3"),
    "probl2": ("probl2",),
    "neural_mirror": ("neural_mirror",),
    "neural_mirror_learned": ("neural_mirror_learned",),
    "uniform": ("uniform",),
    "counterfactual": ("counterfactual",),
    "inverted": ("inverted", "counterfactual_inverted", "counterfactual_inverted_public"),
}


@dataclass(frozen=True, slots=True)
class Published:
    """One published number.

    Attributes:
        paper: arXiv id.
        benchmark: gsm8k or mbpp.
        axis, arm: what was varied, and the choice on it, by the names of our configs.
        quantity: accuracy, pass@1, spread (over runs), length (percent against KL), gain (points over the
            baseline).
        low, high: the number, or the range that is printed; None where there are only words.
        mark: of MARKS.
        source: where it was read.
        note: what else to know.
    """

    paper: str
    benchmark: str
    axis: str
    arm: str
    quantity: str
    low: float | None
    high: float | None
    mark: str
    source: str
    note: str = ""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.note} [{self.mark}]"
        if self.low != self.high:
            return f"{self.low:g} to {self.high:g} [{self.mark}]"
        return f"{self.low:g} [{self.mark}]"


ROW = "the range is printed; which row has it is inferred from the text"
POST = "the authors' post"


def _b(
    benchmark: str, arm: str, quantity: str, value: float | None, mark: str, source: str, note: str = ""
) -> Published:
    return Published(GBMPO, benchmark, "divergence", arm, quantity, value, value, mark, source, note)


def _a(
    benchmark: str,
    arm: str,
    quantity: str,
    low: float | None,
    high: float | None,
    mark: str,
    source: str,
    note: str = "",
) -> Published:
    return Published(COUNTERFACTUAL, benchmark, "weighting", arm, quantity, low, high, mark, source, note)


NUMBERS: Sequence[Published] = (
    _b("gsm8k", "kl", "accuracy", 81.2, "V", "abstract", "Dr. GRPO; the coefficient is not known"),
    _b("gsm8k", "probl2", "accuracy", 86.7, "V", "abstract"),
    _b("gsm8k", "neural_mirror", "accuracy", 85.1, "I", POST, ROW),
    _b("gsm8k", "neural_mirror_learned", "accuracy", 85.5, "I", POST, ROW),
    _b("mbpp", "kl", "pass@1", 59.8, "V", POST),
    _b("mbpp", "probl2", "pass@1", 60.2, "V", POST),
    _b("mbpp", "neural_mirror", "pass@1", 60.1, "I", POST, ROW),
    _b("mbpp", "neural_mirror_learned", "pass@1", 60.8, "I", POST, ROW),
    _b("mbpp", "kl", "spread", 0.7, "S", "a machine-written note"),
    _b("mbpp", "neural_mirror", "spread", 0.6, "I", POST, "the value is printed; the row is inferred"),
    _b(
        "mbpp",
        "neural_mirror_learned",
        "spread",
        0.2,
        "I",
        POST,
        "the value is printed; the row is inferred. 0.7 to 0.2 agrees with 'down about 70%'",
    ),
    _b("mbpp", "probl2", "length", None, "V", POST, "comparable"),
    _b("mbpp", "neural_mirror", "length", -24.0, "I", POST, ROW),
    _b("mbpp", "neural_mirror_learned", "length", -36.0, "I", POST, ROW),
    _a("gsm8k", "counterfactual", "gain", 0.8, 1.1, "V", POST, "over vanilla DAPO, three models, none named"),
    _a("gsm8k", "inverted", "gain", None, None, "V", "abstract", "hurts"),
    _a("mbpp", "counterfactual", "gain", None, None, "S", "sciencestack", "no clear gain"),
)
# What the papers say beside accuracies.
CLAIMS: Sequence[tuple[str, str, str]] = (
    (COUNTERFACTUAL, "reaches DAPO's final accuracy much earlier, as early as step 100 against 500", "V"),
    (
        COUNTERFACTUAL,
        "3.5% of reasoning spans are distractors: masking them raises the answer's probability",
        "V",
    ),
    (COUNTERFACTUAL, "calculation steps rank above scaffolding text", "V"),
    (COUNTERFACTUAL, "gradient mass concentrates on spans of high importance; the share is not known", "S"),
    (
        GBMPO,
        "random initialisation of the neural map already has most of the gain; evolution strategies mainly "
        "cut variance and length",
        "V",
    ),
)


def canonical(choice: str) -> str | None:
    """The papers' arm that a choice of ours is; None where it is none of theirs."""
    return next((arm for arm, names in SAME.items() if choice in names), None)


def published(axis: str, choice: str, dataset: str, quantity: str) -> Published | None:
    """The published number of an arm, on the benchmark that a dataset is or stands in for."""
    arm, benchmark = canonical(choice), TWINS.get(dataset)
    wanted = (axis, arm, benchmark, quantity)
    matching = (
        number for number in NUMBERS if (number.axis, number.arm, number.benchmark, number.quantity) == wanted
    )
    return next(matching, None)


def gain(axis: str, choice: str, baseline: str, dataset: str) -> tuple[float, float, str] | None:
    """The published difference of an arm from a baseline, in points: low, high and the weaker mark."""
    if stated := published(axis, choice, dataset, "gain"):
        if stated.low is None or stated.high is None or canonical(baseline) != "uniform":
            return None
        return stated.low, stated.high, stated.mark
    for quantity in ("accuracy", "pass@1"):
        ours, base = published(axis, choice, dataset, quantity), published(axis, baseline, dataset, quantity)
        if ours and base and ours.low is not None and base.low is not None:
            value = round(ours.low - base.low, 10)
            return value, value, max((ours.mark, base.mark), key=list(MARKS).index)
    return None
