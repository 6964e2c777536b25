"""Prints a finished run as the README quotes it: command, machine, date, times and scores.

python benchmarks/readme_table.py runs/fashion
"""

import json
import sys
from pathlib import Path

from delt_jax.data import TEST_IMAGES
from delt_jax.evaluation.dd_ranking import RankCorrelation, Robustness
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.reporting import tables


def describe(workdir: Path) -> list[str]:
    """Lines of Markdown made from the run's own summary."""
    summary = json.loads((workdir / "summary.json").read_text())
    made, teacher = summary.get("made"), summary["teacher"]
    times = ", ".join(f"{k} {v:.0f} s" for k, v in summary["seconds"].items() if v)
    scored = summary.get("scored_on", TEST_IMAGES)
    rows = [ScoreRow.from_dict(row) for row in summary["scores"]]
    robust = [Robustness(**r) for r in summary["robustness"]]
    ranks = [RankCorrelation(**r) for r in summary["rank_correlations"]]
    lines = [
        f"Teacher {teacher['model']}: {teacher['accuracy']:.2%} of the {scored}. "
        f"{summary['image_iterations']:,} image-iterations, "
        f"{summary['fraction_of_full']:.2%} of full optimisation.",
        f"{times}." + (f" {made['machine']}, {made['date']}." if made else ""),
        "",
        *tables.as_text(tables.sections(rows, robust, ranks, scored=scored)),
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
