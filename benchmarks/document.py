"""`python -m benchmarks.document`: writes the numbers of results.json into the tables of docs/performance.md."""

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def main() -> None:
    machines = json.loads(RESULTS.read_text())["machines"]
    page = PAGE.read_text()

    def fill(block: re.Match[str]) -> str:
        tables = []
        for name, results in machines.items():
            rows = {line["name"]: line for line in results["rows"]}
            chosen = [rows[name] for pattern in block[1].split() for name in rows if re.fullmatch(pattern, name)]
            tables += [f"On {name}:\n\n{table(chosen)}"] if chosen else []
        return f"<!-- rows: {block[1]} -->\n" + "\n\n".join(tables) + "\n<!-- end -->"

    page = re.sub(r"<!-- rows: (.*?) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)
    listed = "\n".join(f"- {results['machine']}" for results in machines.values())
    page = re.sub(
        r"<!-- machines -->.*?<!-- end -->", f"<!-- machines -->\n{listed}\n<!-- end -->", page, flags=re.DOTALL
    )
    PAGE.write_text(page)


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| what | ours | plain | floor | ratio (quartiles) | unit |", "|---|---|---|---|---|---|"]
    for line in rows:
        ratio = "" if line["ratio"] is None else f"**{line['ratio']:g}**"
        if line["spread"]:
            ratio += f" ({line['spread'][0]:g} – {line['spread'][1]:g})"
        values = ["" if line[key] is None else f"{line[key]:g}" for key in ("ours", "reference", "floor")]
        lines.append(f"| `{line['name']}` | {' | '.join(values)} | {ratio} | {line['unit']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
