"""RegressionConfig: a task whose answers are numbers, not classes."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag

from grokinterp.config.checks import DEEPEST, STRICT, WIDEST, check_fields, require, require_finite, require_in
from grokinterp.config.task import TaskConfig


@dataclass(frozen=True)
class RegressionConfig:
    """A student learns the outputs of a teacher, a tanh MLP that stays as it was drawn (Liu et al. 2022, section 3.1).

    Inputs are drawn from N(0, I), those of training first, then those of the test.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    split: ClassVar[str] = "drawn"  # training and test inputs are two draws, not two parts of all inputs

    operation: Literal["teacher_student"] = "teacher_student"
    """what is computed: the outputs of a random network"""
    d_in: int = 5
    """numbers in an input"""
    d_out: int = 5
    """numbers in an output"""
    teacher_depth: int = 2
    """hidden layers of the teacher"""
    teacher_width: int = 100
    n_train: int = 100
    n_test: int = 100
    threshold: float = 0.01
    """an example counts as answered right where its squared error, averaged over the outputs, is below this (0.01 in
    the paper, 0.001 in its code)"""
    data_seed: int = 0
    """seed of the teacher and of the inputs"""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("d_in", "d_out", "teacher_width", "n_train", "n_test"):
            require_in(getattr(self, name), name, 1, WIDEST)
        require_in(self.teacher_depth, "teacher_depth", 1, DEEPEST)
        require_finite(self.threshold, "threshold", above=True)
        require(0 <= self.data_seed < 2**32, f"data_seed must lie in [0, 2^32), but is {self.data_seed}")

    @property
    def n_inputs(self) -> int:
        """Number of inputs that are drawn."""
        return self.n_train + self.n_test

    @property
    def train_fraction(self) -> float:
        """Share of them that is trained on."""
        return self.n_train / self.n_inputs

    @property
    def title(self) -> str:
        """The task in a few words: `teacher_student 5-100-100-5`."""
        widths = [self.d_in, *[self.teacher_width] * self.teacher_depth, self.d_out]
        return f"{self.operation} {'-'.join(map(str, widths))}"


def _kind(task: Any) -> str:
    """Which of the two a configuration is, given as an object or as JSON; the operation says it."""
    operation = task.get("operation") if isinstance(task, dict) else getattr(task, "operation", None)
    return "regression" if operation == "teacher_student" else "classification"


AnyTaskConfig = Annotated[
    Annotated[TaskConfig, Tag("classification")] | Annotated[RegressionConfig, Tag("regression")], Discriminator(_kind)
]
