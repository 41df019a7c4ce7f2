import numpy as np
import pytest

from worldmodel.training.history import rewind_metrics

BAD = [b"[3]", b'{"a": 1}', b"\xff", b'{"update": "x"}', b'{"update": NaN}', b'{"update": 1, "kl": "much"}', b"["]


def test_lines_that_are_no_rows_are_left_out_and_that_is_said_but_for_a_torn_last_one(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    path.write_bytes(b"\n".join([b'{"update": 1, "kl": null}', *BAD, b'{"update": 2}', b'{"upd']))
    (row,) = rewind_metrics(path, 1, said.append)
    assert row["update"] == 1 and np.isnan(row["kl"])
    assert path.read_bytes() == b'{"update": 1, "kl": null}\n'
    assert path.with_name("metrics-discarded.jsonl").read_bytes() == b'{"update": 2}\n'
    assert said == [f"{path}: line {2 + i} of 9 is damaged and was left out" for i in range(len(BAD))]


def test_a_record_that_is_whole_stays_as_it_is_byte_for_byte(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"update": 1,  "kl": 1e-1}\n{"update":2, "kl": 0.30000000000000004}\n')
    before = path.read_bytes()
    assert len(rewind_metrics(path, 2, pytest.fail)) == 2
    assert path.read_bytes() == before
    assert not path.with_name("metrics-discarded.jsonl").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics-discarded.jsonl"])
def test_a_record_that_is_a_link_is_not_written_through(tmp_path, name):
    (tmp_path / "run").mkdir()
    path, elsewhere = tmp_path / "run" / "metrics.jsonl", tmp_path / "elsewhere"
    path.write_bytes(rows := b'{"update": 1}\n{"update": 2}\n')
    elsewhere.write_bytes(rows)
    path.with_name(name).unlink(missing_ok=True)
    path.with_name(name).symlink_to(elsewhere)
    if name == path.name:
        assert rewind_metrics(path, 1, pytest.fail) == [{"update": 1}]
        assert not path.is_symlink()  # replaced by a file
    else:
        with pytest.raises(
            ValueError, match=r"metrics-discarded.jsonl: expected a file .*, found a link to .*elsewhere"
        ):
            rewind_metrics(path, 1, pytest.fail)
        assert path.read_bytes() == rows
    assert elsewhere.read_bytes() == rows
