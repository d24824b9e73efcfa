"""Put the records of accuracy.py into the README's table, between its two marks.

python benchmarks/table.py            # prints the table
python benchmarks/table.py --write    # and puts it into README.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
START, END = "<!-- figures -->", "<!-- /figures -->"
HEAD = ["| data, images not trained on | budget | scores | training took | cores | peak memory, train / predict |",
        "|---|---|---|---|---|---|"]


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def row(record: dict) -> str:
    """One line of the table."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in record["scores"].items())
    if len(record["classes"]) > 1:
        scores += " (" + ", ".join(f"{name} {value:.3f}" for name, value in record["classes"].items()) + ")"
    memory = " / ".join(f"{record[step]['peak_bytes'] / 2**30:.1f} GB" for step in ("train", "predict"))
    cells = (f"{record['what']} (`{record['name']}`, {record['cases']} images)", record["budget"], scores,
             duration(record["train"]["seconds"]), record["machine"].split()[0], memory)
    return "| " + " | ".join(cells) + " |"


def table(records: list[dict]) -> str:
    """The table, and on what it was measured."""
    machines = sorted({f"{r['machine'].partition(', ')[2]}, {r['device']}, {r['date']}" for r in records})
    lines = [*HEAD, *(row(r) for r in sorted(records, key=lambda r: (r["name"], r["train"]["seconds"])))]
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--write", action="store_true", help="replace what stands between the marks in README.md")
    options = parser.parse_args()
    found = [json.loads(path.read_text("utf-8")) for path in sorted(options.results.glob("*.json"))]
    records = [r for r in found if isinstance(r, dict) and "budget" in r]  # other benchmarks keep theirs there too
    if not records:
        sys.exit(f"no record in {options.results}; accuracy.py makes them")
    made = table(records)
    print(made)
    if options.write:
        before, start, rest = README.read_text("utf-8").partition(START)
        _, end, after = rest.partition(END)
        if not (start and end):
            sys.exit(f"{README} has no marks {START} … {END}")
        README.write_text(f"{before}{START}\n{made}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
