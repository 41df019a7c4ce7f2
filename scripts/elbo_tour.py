"""The article docs/elbo.md and its Chinese version as running code: every figure and every number is made here.

    python scripts/elbo_tour.py                     under two minutes on one core; writes both and docs/elbo/
    python scripts/elbo_tour.py --quick --output X  seconds: a smaller everything, to see that it runs

The words are read from the articles; what stands there between markers is replaced by what was measured. Nothing is
measured twice: the Chinese tables are the English ones, phrase by phrase (scripts/tour/chinese.py).
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
from scripts.tour.chinese import chinese  # noqa: E402
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
ARTICLES: dict[str, Callable[[str], str]] = {"elbo.md": str, "elbo.zh.md": chinese}  # how each puts a table's cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller everything, and other numbers")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of the articles and of elbo/")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="draw and print these sections, leave the articles")
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
        filled = {name: fill((ROOT / "docs" / name).read_text(), sections, say) for name, say in ARTICLES.items()}
        for name, article in filled.items():
            (options.output / name).write_text(article)
    print(f"{time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main()
