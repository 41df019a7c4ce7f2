"""The article docs/elbo.md as running code: every figure and every number in it is made here.

    python scripts/elbo_tour.py                     under two minutes on one core; writes docs/elbo.md and docs/elbo/
    python scripts/elbo_tour.py --quick --output X  seconds: a smaller everything, to see that it runs

The words are read from docs/elbo.md; what stands there between markers is replaced by what was measured.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the sections are found when this file is run by its path

from scripts.tour import chains, estimators, identity, one_latent, recurrent, static_models  # noqa: E402
from scripts.tour.page import LANGUAGE, Section, fill, save, table  # noqa: E402

SECTIONS: dict[str, Callable[[bool, torch.Generator], Section]] = {
    "evidence": one_latent.evidence,
    "two_kls": one_latent.two_kls,
    "coordinate_ascent": one_latent.coordinate_ascent,
    "mixture": static_models.mixture,
    "factor_analysis": static_models.factor_analysis,
    "vae": static_models.vae,
    "hmm": chains.hmm,
    "linear_gaussian": chains.linear_gaussian,
    "filtering": chains.filtering,
    "tightening": estimators.tightening,
    "wrong": estimators.wrong,
    "sandwich": estimators.between,
    "rssm": recurrent.rssm,
    "identity": identity.identity,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller everything, and other numbers")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of elbo.md and elbo/")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="draw and print these sections, leave the article")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (options.output / "elbo").mkdir(parents=True, exist_ok=True)
    sections, began = {}, time.process_time()
    with matplotlib.rc_context(LANGUAGE):
        for name in options.only or SECTIONS:
            start = time.process_time()
            sections[name] = SECTIONS[name](options.quick, torch.Generator().manual_seed(0))
            save(sections[name], options.output / "elbo" / f"{name}.png")
            print(f"\n{name}, {time.process_time() - start:.1f} s\n\n{table(sections[name].numbers)}")
    if not options.only:
        article = (ROOT / "docs" / "elbo.md").read_text()
        (options.output / "elbo.md").write_text(fill(article, sections))
    print(f"{time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main()
