"""Prints a finished run as the README quotes it: command, machine, date, times and scores.

python benchmarks/readme_table.py runs/fashion
"""

import json
import sys
from pathlib import Path


def describe(workdir: Path) -> list[str]:
    """Lines of Markdown made from the run's own summary."""
    summary = json.loads((workdir / "summary.json").read_text())
    made, teacher = summary["made"], summary["teacher"]
    times = ", ".join(f"{k} {v:.0f} s" for k, v in summary["seconds"].items())
    lines = [
        f"Teacher {teacher['model']}: {teacher['accuracy']:.2%} of the test images. "
        f"{summary['image_iterations']:,} image-iterations, "
        f"{summary['fraction_of_full']:.2%} of full optimisation.",
        f"{times}. {made['machine']}, {made['date']}.",
        "",
        *(workdir / "report" / "scores.md").read_text().splitlines(),
        "",
        f"Test accuracy in %, mean ± sample standard deviation. {summary['protocol']}.",
    ]
    similarity = summary["within_class_similarity"]
    if similarity:
        values = ", ".join(f"{k} {v:.3f}" for k, v in similarity.items())
        lines.append(f"Within-class cosine similarity of teacher features: {values}.")
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/readme_table.py WORKDIR")
    print("\n".join(describe(Path(sys.argv[1]))))
