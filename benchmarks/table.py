"""Put the records of accuracy.py, architectures.py and methods.py into tables of the documents, between their marks.

python benchmarks/table.py            # prints the tables
python benchmarks/table.py --write    # and puts them into README.md and docs/methods.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README, DOCS = HERE.parent / "README.md", HERE.parent / "docs/methods.md"
START, END = "<!-- figures -->", "<!-- /figures -->"
METHODS = ("<!-- methods -->", "<!-- /methods -->")
ARCHITECTURES = ("<!-- architectures -->", "<!-- /architectures -->")
HEAD = ["| data, images not trained on | budget | scores | training took | cores | peak memory, train / predict | on |",
        "|---|---|---|---|---|---|---|"]


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
    how = f"; predicted with `{' '.join(record['predicting'])}`" if record.get("predicting") else ""
    cells = (f"{record['what']} (`{record['name']}`, {record['cases']} images{how})", record["budget"], scores,
             duration(record["train"]["seconds"]), record["machine"].split()[0], memory, record["date"])
    return "| " + " | ".join(cells) + " |"


def table(records: list[dict]) -> str:
    """The table, and on what it was measured; a row is as old as its date."""
    machines = sorted({f"{r['machine'].partition(', ')[2]}, {r['device']}" for r in records})
    lines = [*HEAD, *(row(r) for r in sorted(records, key=lambda r: (r["name"], r["train"]["seconds"])))]
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}, with the code of the day named."])


def architectures(records: list[dict]) -> str:
    """One row per data set and network."""
    lines = ["| data, images not trained on | budget | network | Dice | HD95 | s per step | steps | parameters |",
             "|---|---|---|---|---|---|---|---|"]
    for record in sorted(records, key=lambda r: r["name"]):
        for row in record["rows"]:
            dice, hd95 = (with_interval(row, name) for name in ("dice", "hd95"))
            cells = (f"`{record['name']}`, {record['cases']} images", record["limit"], f"`{row['network']}`", dice,
                     f"{hd95} {record['unit']}", f"{row['step_seconds']:.3f}",
                     f"{row['folds']} × {row['steps']}" if row["folds"] > 1 else row["steps"],
                     f"{row['parameters'] / 1e6:.2f} M")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    machines = sorted({f"{row['machine']}, {row['device']}, {row['date']}" for r in records for row in r["rows"]})
    return "\n".join([*lines, "", f"In brackets 95 % intervals over the images. Measured on {'; '.join(machines)}."])


def methods(records: list[dict]) -> str:
    """One row per data set and method, best first; "at best" are the ceilings at IoU 0.5, 0.75 and 0.9."""
    lines = ["| data, images not trained on | budget | method | AP@0.5 | AP | PQ | at best | steps |",
             "|---|---|---|---|---|---|---|---|"]
    for record in sorted(records, key=lambda r: r["name"]):
        for row in sorted(record["rows"], key=lambda r: -r["headline"]["ap@0.50"]):
            chosen = f" ({row['chosen']})" if row["method"] == "automatic" else ""
            reached = (f"{row['headline'][name]:.3f}" for name in ("ap@0.50", "ap", "pq"))
            ceiling = ", ".join(f"{value:.3f}" for value in row["ceiling"].values())
            cells = (f"`{record['name']}`, {record['cases']} images", record["limit"], f"`{row['method']}`{chosen}",
                     *reached, ceiling, row["steps"])
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    machines = sorted({f"{row['machine']}, {row['device']}, {row['date']}" for r in records for row in r["rows"]})
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}."])


def with_interval(row: dict, name: str) -> str:
    """A score and, where it has one, its interval."""
    value, ends = row["scores"].get(name), row["intervals"].get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends and None not in ends else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--write", action="store_true", help="replace what stands between the marks")
    options = parser.parse_args()
    found = [json.loads(path.read_text("utf-8")) for path in sorted(options.results.glob("*.json"))]
    records = [r for r in found if isinstance(r, dict)]  # other benchmarks keep theirs there too
    accuracy = [r for r in records if "train" in r]
    compared = [r for r in records if r.get("kind") == "architectures"]
    if not accuracy:
        sys.exit(f"no record in {options.results}; accuracy.py makes them")
    instances = [r for r in records if r.get("kind") == "methods"]
    made = [(README, (START, END), table(accuracy)),
            *([(README, ARCHITECTURES, architectures(compared))] if compared else []),
            *([(DOCS, METHODS, methods(instances))] if instances else [])]
    print("\n\n".join(text for _, _, text in made))
    for path, marks, text in made if options.write else ():
        put(text, path, *marks)


def put(text: str, path: Path, start: str, end: str) -> None:
    """Replace what stands between the marks in a document."""
    before, first, rest = path.read_text("utf-8").partition(start)
    _, last, after = rest.partition(end)
    if not (first and last):
        sys.exit(f"{path} has no marks {start} … {end}")
    path.write_text(f"{before}{start}\n{text}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
