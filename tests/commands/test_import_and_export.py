"""`worldmodel import` and `worldmodel export`, from one folder to another by way of Minari."""

import sys

import pytest
import torch

from worldmodel.cli import main
from worldmodel.data.replay import Replay
from worlds import register


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The folder `collected`, with eight whole episodes of images and cards and some unfinished ones."""
    register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    options = ["--env.id", "Bytes-v0", "--env.num_envs", "2", "--env.image_size", "32", "--evaluation.episodes", "1"]
    main(["collect", *options, "--rows", "54", "--output", "collected"])
    return tmp_path


def episodes(folder):
    with Replay.open(folder, read_only=True) as replay:
        return list(replay.episodes())


def place(episode, among):
    """Where in a list the same episode is."""
    (place,) = [
        i
        for i, other in enumerate(among)
        if all(torch.equal(x, other.obs[path]) for path, x in episode.obs.items())
        and all(torch.equal(x, y) for x, y in zip(episode[1:], other[1:], strict=True))
    ]
    return place


@pytest.mark.parametrize("source", ["collected", "collected/replay"])
def test_what_is_exported_can_be_imported_and_every_episode_is_in_one_part(world, capsys, source):
    capsys.readouterr()
    main(["export", source, "bytes/random-v0", "--author", "A. Author"])
    said = capsys.readouterr().out
    assert "bytes/random-v0: 8 whole episodes, 48 rows" in said
    assert "6 rows of episodes without a beginning or an end were left out" in said
    main(["import", "minari:bytes/random-v0", "--output", "back", "--heldout", "3", "--image_size", "32"])
    said = capsys.readouterr().out
    assert "back/replay: 30 rows, 5 whole episodes of 6.0 rows on average" in said
    assert "back/heldout: 18 rows, 3 whole episodes of 6.0 rows on average" in said
    assert str(world) not in said
    collected = episodes(world / "collected" / "replay")
    learnt, scored = ([place(e, collected) for e in episodes(world / "back" / part)] for part in ("replay", "heldout"))
    assert sorted(learnt + scored) == list(range(8))


def test_the_seed_of_an_import_decides_what_is_held_out(world):
    main(["export", "collected", "bytes/random-v0"])
    collected = episodes(world / "collected" / "replay")
    chosen = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")):
        main(f"import minari:bytes/random-v0 --output {name} --heldout 3 --image_size 32 --seed {seed}".split())
        chosen[name] = [place(e, collected) for e in episodes(world / name / "heldout")]
    assert chosen["a"] == chosen["b"]
    assert len({tuple(places) for places in chosen.values()}) > 1


@pytest.mark.parametrize(
    "command, named",
    [
        ("export nowhere a/b-v0", "nowhere: expected a data folder or a run's"),
        ("export collected noversion", "dataset: expected an id such as namespace/name-v0"),
        ("import minari:not/there-v0 --output new", "minari:not/there-v0: expected a dataset that is on this machine"),
        ("import bytes/random-v0 --output new", "dataset: expected minari:namespace/name-v0, got 'bytes/random-v0'"),
        ("import minari:a/b-v0 --output collected", "output: expected a folder that does not exist yet, got collected"),
        ("import minari:a/b-v0", "output"),
        (
            "import minari:a/b-v0 --output new --image_size 50",
            "image_size: expected a power of two, at least 16, got 50",
        ),
    ],
)
def test_a_mistake_ends_with_status_2_and_a_sentence(world, capsys, command, named):
    before = sorted(world.iterdir())
    with pytest.raises(SystemExit) as end:
        main(command.split())
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert named in said
    assert "Traceback" not in said
    assert [path for path in sorted(world.iterdir()) if path.name != "minari"] == before


def test_too_many_held_out_episodes_are_refused(world, capsys):
    main(["export", "collected", "bytes/random-v0"])
    with pytest.raises(SystemExit) as end:
        main(["import", "minari:bytes/random-v0", "--output", "new", "--heldout", "8"])
    assert end.value.code == 2
    assert "heldout: expected fewer than the 8 whole episodes there are, got 8" in capsys.readouterr().err
    assert not (world / "new").exists()


def test_without_minari_both_name_the_command_that_installs_it(world, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    for command in ("export collected a/b-v0", "import minari:a/b-v0 --output new"):
        with pytest.raises(SystemExit) as end:
            main(command.split())
        assert end.value.code == 2
        assert "pip install -e '.[minari]' -c constraints.txt" in capsys.readouterr().err
