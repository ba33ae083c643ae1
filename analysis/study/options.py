"""How a comparison is made, as a command line has it and an archive keeps it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from analysis.data.export import Export
from analysis.data.schema import Json
from analysis.study.budgets import read_budget
from analysis.study.study import Study, study


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Of a comparison; `analysis.study.study` says what each is."""

    axis: str | None = None
    baseline: str | None = None
    by: Sequence[str] = field(default_factory=list)
    metric: str | None = None
    margin: float | None = None
    budget: Sequence[str] = field(default_factory=list)
    allow: Sequence[str] = field(default_factory=list)

    def of(self, export: Export, *, compared: bool = True) -> Study:
        """The study of an export; of runs that are only listed one by one where they are not compared."""
        made = study(
            export,
            axis=self.axis,
            baseline=self.baseline,
            by=self.by,
            metric=self.metric,
            allow=self.allow,
            compared=compared,
            budgets=[read_budget(text) for text in self.budget],
        )
        return made if self.margin is None else made.with_margin(self.margin)

    def entry(self) -> Json:
        """For `archive.json`."""
        return asdict(self)
