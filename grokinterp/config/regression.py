"""RegressionConfig: a task whose labels are numbers instead of classes."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag

from grokinterp.config.checks import STRICT, Fields, check_fields, require_finite, require_seed, require_sizes
from grokinterp.config.task import TaskConfig


@dataclass(frozen=True)
class RegressionConfig(Fields):
    """A student learns the outputs of a teacher, a tanh MLP with fixed random weights (Liu et al. 2022, section 3.1).

    Inputs are drawn from N(0, I): first the training inputs, then the test inputs.

    Example:
        >>> RegressionConfig(n_train=50).d_in
        5
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    split: ClassVar[str] = "drawn"  # training and test inputs are drawn separately

    operation: Literal["teacher_student"] = "teacher_student"
    """source of the labels: the outputs of a random network"""
    d_in: int = 5
    """numbers per input"""
    d_out: int = 5
    """numbers per output"""
    teacher_depth: int = 2
    """number of hidden layers in the teacher"""
    teacher_width: int = 100
    """neurons per hidden layer of the teacher"""
    n_train: int = 100
    """number of training inputs"""
    n_test: int = 100
    """number of test inputs"""
    threshold: float = 0.01
    """an answer counts as correct if its squared error, averaged over the outputs, is below this threshold (0.01 in the
    paper, 0.001 in its code)"""
    data_seed: int = 0
    """seed for the teacher and the inputs"""

    def __post_init__(self) -> None:
        check_fields(self)
        require_sizes(self, ("d_in", "d_out", "teacher_width", "n_train", "n_test"), "teacher_depth")
        require_finite(self.threshold, "threshold", above=True)
        require_seed(self.data_seed, "data_seed")

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.n_train + self.n_test

    @property
    def train_fraction(self) -> float:
        """Fraction of the inputs that is trained on."""
        return self.n_train / self.n_inputs

    @property
    def title(self) -> str:
        """The task in a few words: `teacher_student 5-100-100-5`."""
        widths = [self.d_in, *[self.teacher_width] * self.teacher_depth, self.d_out]
        return f"{self.operation} {'-'.join(map(str, widths))}"


def _kind(task: Any) -> str:
    """The tag of a task configuration, given as an object or as JSON; its operation determines it."""
    operation = task.get("operation") if isinstance(task, dict) else getattr(task, "operation", None)
    return "regression" if operation == "teacher_student" else "classification"


AnyTaskConfig = Annotated[
    Annotated[TaskConfig, Tag("classification")] | Annotated[RegressionConfig, Tag("regression")], Discriminator(_kind)
]
