"""What a run's evidence is measured on, by what, and where it is written."""

import json
from itertools import islice
from pathlib import Path

from worldmodel.checks import require_several
from worldmodel.config import Config
from worldmodel.data.batches import pad_episodes, select
from worldmodel.data.replay import Replay
from worldmodel.evaluation.evidence import EvidenceReport
from worldmodel.models.world_model import WorldModel
from worldmodel.runs.folder import stored_data
from worldmodel.system.files import make_own_folder, write_whole
from worldmodel.types import Batch

PILOTS = 6  # training episodes that the proposal of the particles is chosen on
PILOT_ROWS = 32  # the longest beginning of such an episode that is used, in steps
PARTICLES = (16, 128)
PARTICLES_OF_IMAGES = (2, 8, 32)  # decoding an image takes about a thousand times as long as a vector
EVIDENCE_ROWS = 1_000  # of the episodes whose evidence is measured, at most, unless their number is given
SCORED_ROWS = 4_000  # of those whose gap and rate are decomposed, likewise
ROWS_OF_IMAGES = 400


def usual_particles(model: WorldModel) -> tuple[int, ...]:
    """The numbers of particles that a model is measured with unless others are asked for."""
    return PARTICLES_OF_IMAGES if _has_images(model) else PARTICLES


def scored_episodes(model: WorldModel, episodes: Batch, count: int | None, most: int = SCORED_ROWS) -> Batch:
    """The first `count` of the episodes, or as many as have `most` rows (of images less); ValueError below two."""
    if count is not None:
        require_several(episodes=count)
    else:
        rows = episodes.valid.sum(1).cumsum(0)
        count = max(2, int((rows <= (min(most, ROWS_OF_IMAGES) if _has_images(model) else most)).sum()))
    return select(episodes, slice(count))


def pilot_episodes(config: Config, folder: Path, model: WorldModel) -> Batch | None:
    """The beginnings of a few training episodes; none where the replay was removed, or holds no whole episode."""
    replay, _ = stored_data(config, folder)
    if not replay.exists():
        return None
    with Replay.open(replay, read_only=True) as stored:
        episodes = list(islice(stored.episodes(), PILOTS))
    return pad_episodes(episodes, PILOT_ROWS).to(model.device) if episodes else None


def write_evidence(folder: Path, report: EvidenceReport) -> Path:
    """Write what was measured to FOLDER/evidence: -> that folder."""
    from worldmodel.report.evidence import evidence_figure  # and so matplotlib, which opening a run does not need
    from worldmodel.report.figures import render

    numbers, picture = json.dumps(report.as_json()), render(evidence_figure(report))
    folder = folder / "evidence"
    make_own_folder(folder)
    write_whole(folder / "evidence.json", numbers)
    write_whole(folder / "evidence.png", picture)
    return folder


def _has_images(model: WorldModel) -> bool:
    return any(leaf.kind == "image" for leaf in model.spec.observations.values())
