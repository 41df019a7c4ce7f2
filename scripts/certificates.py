"""The table of certificates in docs/evidence.md, of runs whose evidence was measured.

    worldmodel evidence RUN --particles 1024 --episodes 4     # for each
    python scripts/certificates.py RUN ...                    # the table

Rows of earlier runs are kept in docs/certificates.jsonl and stay in the table.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from docs_blocks import kept_results, markdown_table, write_block

from worldmodel.runs.folder import read_settings
from worldmodel.training.checkpoint import read_counters

NUMBERS = "certificates.jsonl"
# Of the estimates with the most particles, and of every part.
KEPT = ("particles", "gap", "width", "degenerate_rows", "doubts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of measured runs")
    runs = map(read, parser.parse_args().runs)
    write_block("evidence.md", "certificates", table(kept_results(NUMBERS, runs, which)))


def read(run: Path) -> dict[str, Any]:
    """What was measured of a run's best weights, and what they are of: its name and seed, after how many updates."""
    config, found = read_settings(run), json.loads((run / "evidence" / "evidence.json").read_text())
    counters = read_counters(run / "checkpoints" / "best.safetensors")
    parts = [{key: one[key] for key in ("first", "last", *KEPT)} for one in found["parts"]]
    return {
        **{"name": config.name, "seed": config.seed},
        **{"steps": counters["env_steps"], "updates": counters["updates"]},
        **{"runs": found["runs"], "episodes": found["episodes"]},
        **{"rows": found["rows"], "whole": {key: found["estimates"][-1][key] for key in KEPT}, "parts": parts},
    }


def which(one: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells rows of the table apart, in their order."""
    return one["name"], one["seed"], one["whole"]["particles"]


def table(results: Iterable[Mapping[str, Any]]) -> str:
    columns = ("run", "its seed", "weights after", "measured on", "particles")
    columns += ("sandwich, steps 1 to 8", "gap", "sandwich, after step 8", "gap", "sandwich, whole", "gap")
    rows = []
    for one in results:
        size = f"{one['episodes']} episodes, {one['rows']} steps"
        weights = f"{one['steps']:,} steps, {one['updates']:,} updates"
        cells = (one["name"], one["seed"], weights, size, f"{one['whole']['particles']:,}")
        certificates = (cell for part in (*one["parts"], one["whole"]) for cell in certificate(part))
        rows.append((*cells, *certificates))
    return markdown_table(columns, rows)


def certificate(one: Mapping[str, Any]) -> tuple[str, str]:
    """Sandwich and gap in nats per step, with their errors over episodes."""
    width, gap = (f"{mean:.3f} ± {error:.3f}" for mean, error in (one["width"], one["gap"]))
    return width, "in doubt" if one["doubts"] else gap


if __name__ == "__main__":
    main()
