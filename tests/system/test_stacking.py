"""Presets that contradict each other are said to, and those that go together are not."""

from worldmodel.system.stacking import contradictions


def test_two_recipes_are_told_apart_by_what_the_later_one_wins_and_what_stays():
    one = {"loss.free_nats": 3.0, "loss.free_nats_rule": "mean", "decoder.std": "fixed"}
    two = {"loss.free_nats": 1.0, "decoder.std": "fixed", "loss.dyn": 1.0}
    (said,) = contradictions([("recipes/dreamer1", one), ("recipes/dreamer3", two)])
    assert said == (
        "recipes/dreamer1 and recipes/dreamer3 contradict each other: recipes/dreamer3 wins in loss.free_nats; "
        "loss.free_nats_rule stays as recipes/dreamer1 says"
    )


def test_nothing_is_said_of_a_task_with_a_size_of_files_of_ones_own_or_of_what_agrees():
    small, large = {"rssm.deter": 1}, {"rssm.deter": 2}
    assert contradictions([("pendulum", small), ("sizes/large", large)]) == []
    assert contradictions([("mine.yaml", small), ("sizes/large", large)]) == []
    assert contradictions([("sizes/large", large), ("sizes/large", large)]) == []
    assert contradictions([("recipes/smoothing", small), ("recipes/dreamer3", {"loss.dyn": 1.0})]) == []
    assert contradictions([("recipes/smoothing", small), ("recipes/dreamer3", small)]) == []


def test_every_two_of_several_are_looked_at():
    stacked = [("sizes/small", {"a": 1, "b": 1}), ("sizes/medium", {"a": 2}), ("sizes/large", {"a": 3, "b": 2})]
    assert [said.split(" contradict")[0] for said in contradictions(stacked)] == [
        "sizes/small and sizes/medium",
        "sizes/small and sizes/large",
        "sizes/medium and sizes/large",
    ]
