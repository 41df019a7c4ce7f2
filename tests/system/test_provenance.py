"""The commit that a repository has checked out, read without git and compared with what git says."""

import shutil
import subprocess
import sys

import pytest

from worldmodel.system.provenance import provenance, read_commit

AUTHOR = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]


def git(folder, *arguments) -> str:
    done = subprocess.run(["git", *AUTHOR, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    top = tmp_path / "top"
    top.mkdir()
    git(top, "init", "-q")
    git(top, "commit", "-q", "--allow-empty", "-m", "one")
    return top


def test_the_commit_of_a_branch_is_read_loose_packed_and_detached(repository):
    first = git(repository, "rev-parse", "HEAD")
    assert read_commit(repository) == first
    git(repository, "pack-refs", "--all")
    assert not list((repository / ".git" / "refs" / "heads").iterdir())
    assert read_commit(repository) == first
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    assert read_commit(repository) == git(repository, "rev-parse", "HEAD") != first
    git(repository, "checkout", "-q", "--detach", first)
    assert read_commit(repository) == first


def test_the_commit_of_a_worktree_is_its_own(repository, tmp_path):
    git(repository, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "-q", "--allow-empty", "-m", "two")
    for pack in (False, True):
        if pack:
            git(repository, "pack-refs", "--all")
        assert read_commit(tmp_path / "tree") == git(tmp_path / "tree", "rev-parse", "HEAD")
    assert read_commit(tmp_path / "tree") != read_commit(repository)


@pytest.mark.parametrize("head", ["", "ref: refs/heads/nothing", "not a commit", "\xff"])
def test_what_is_no_repository_or_damaged_has_no_commit(head, tmp_path):
    assert read_commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(head, encoding="latin-1")
    assert read_commit(tmp_path) is None


def test_the_command_is_quoted_so_that_a_shell_reads_it_back(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["worldmodel", "train", "--name", "two words"])
    assert provenance()["command"] == "worldmodel train --name 'two words'"
