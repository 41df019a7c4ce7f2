"""List the presets that `--config` takes by name."""

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """None."""


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Print each preset's name and what it is for, group by group."""
    from worldmodel.system.presets import presets

    listed = presets()
    width = max(len(preset.name) for preset in listed)
    for group in dict.fromkeys(preset.group for preset in listed):
        print(f"{group}:")
        for preset in listed:
            if preset.group == group:
                print(f"  {preset.name:<{width}}  {preset.about}".rstrip())
