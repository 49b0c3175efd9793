"""Prints the lowest version of each dependency that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def floors(requirements: list[str]) -> list[str]:
    """`name==version.*` for each `name>=version`, so that the last patch release of the lowest version is taken.

    >>> floors(["torch>=2.6", "transformer-lens>=3.9,<4"])
    ['torch==2.6.*', 'transformer-lens==3.9.*']
    """
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement) for requirement in requirements]
    return [f"{match[1]}=={match[2]}.*" for match in found if match is not None]


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = [*project["optional-dependencies"]["dev"]]
    wanted = ("pytest", "beartype", "hypothesis", "nbclient", "nbformat", "ipykernel", "pytest-xdist")
    tested = [requirement for requirement in tools if re.match(r"[\w-]+", requirement)[0] in wanted]
    print("\n".join(floors([*project["dependencies"], *tested])))


if __name__ == "__main__":
    main()
