"""Presets, the YAML files of settings that come with this package: tasks, sizes and recipes, found by name.

They are in `configs/`, at the top of a checkout or inside an installed package.
"""

import difflib
from pathlib import Path
from typing import NamedTuple

from worldmodel.system.installation import PRESETS, checkout

SUFFIX = ".yaml"
SWEEPS = "sweeps"  # a subfolder whose files are for `wandb sweep`, and no settings of a run
TASKS = "tasks"  # the group of the presets that are in no subfolder


class Preset(NamedTuple):
    """A file of settings that comes with this package."""

    name: str  # such as "pendulum" or "sizes/medium"
    path: Path

    @property
    def group(self) -> str:
        """Its subfolder, or `tasks`."""
        folder, _, _ = self.name.rpartition("/")
        return folder or TASKS

    @property
    def about(self) -> str:
        """The first line of the file's comment."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""


def presets() -> list[Preset]:
    """All presets: tasks first, then sizes and recipes, by name."""
    top = checkout()
    folder = PRESETS if top is None else top / "configs"
    paths = [path for path in folder.rglob(f"*{SUFFIX}") if path.parent != folder / SWEEPS]
    found = [Preset(path.relative_to(folder).with_suffix("").as_posix(), path) for path in paths]
    return sorted(found, key=lambda preset: (preset.group != TASKS, preset.group != "sizes", preset.name))


def find_preset(name: str) -> Path:
    """The file of settings for a path or a preset's name; a file that exists comes before a preset of that name.

    Args:
        name: the path of a YAML file; or a preset's name, such as "pendulum", "sizes/medium" or "recipes/dreamer3",
            with or without .yaml.
    Raises:
        ValueError: if it is neither; the message lists presets with similar names.
    """
    if Path(name).is_file():
        return Path(name)
    known = {preset.name: preset.path for preset in presets()}
    wanted = name.removesuffix(SUFFIX)
    if wanted in known:
        return known[wanted]
    raise ValueError(f"config: expected a file or the name of a preset, got {name!r}; {_advice(wanted, list(known))}")


def _advice(wanted: str, known: list[str]) -> str:
    """A hint: presets with similar names, in any folder, or the command that lists all."""
    last = wanted.rpartition("/")[2]
    of_last = {name.rpartition("/")[2]: name for name in known}
    if last in of_last:
        near = [of_last[last]]
    else:
        near = difflib.get_close_matches(wanted, known) + [of_last[x] for x in difflib.get_close_matches(last, of_last)]
    listed = " or ".join(dict.fromkeys(near))
    return f"did you mean {listed}?" if near else "`worldmodel presets` lists them"
