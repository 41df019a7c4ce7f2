"""Where the packages are; everything else is in pyproject.toml.

`envs/worldmodel_envs` is installed as `worldmodel_envs`, and the presets in `configs/` as data inside `worldmodel`:
neither takes a name that somebody else's project may have.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["worldmodel*"]), *find_packages("envs"), "worldmodel.configs"],
    package_dir={"worldmodel_envs": "envs/worldmodel_envs", "worldmodel.configs": "configs"},
)
