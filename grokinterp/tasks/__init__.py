"""Tasks: the inputs, their labels, and the split into training and test inputs."""

from grokinterp.tasks.groups import CyclicGroup
from grokinterp.tasks.permutations import s5_elements, s5_inverses, s5_table
from grokinterp.tasks.regression import RegressionTask
from grokinterp.tasks.sums import SumClasses
from grokinterp.tasks.task import Task

AnyTask = Task | RegressionTask

__all__ = ["AnyTask", "CyclicGroup", "RegressionTask", "SumClasses", "Task", "s5_elements", "s5_inverses", "s5_table"]
