from worldmodel.training.history import rewind_metrics


def test_lines_that_are_no_rows_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"update": 1}\n[3]\n{"a": 1}\n\xff\n{"update": "x"}\n{"update": 2}\n{"upd')
    assert rewind_metrics(path, 1) == [{"update": 1}]
    assert path.read_text() == '{"update": 1}\n'
    assert path.with_name("metrics-discarded.jsonl").read_text() == '{"update": 2}\n'
