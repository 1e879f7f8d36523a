"""Loading the problems of a run, and checking their references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rltf.controller.problems import check_structure, load_problem_sets, without_failing_references
from rltf.errors import UserError
from rltf.settings import ProblemsSettings, SandboxSettings, rewards_of


def write(path: Path, references: dict[str, list[str]], **more: str) -> str:
    tests = [{"stdin": "2\n", "expected": "4\n"}]
    rows = [
        {"task_id": name, "statement": f"Problem {name}.", "tests": tests, "references": programs, **more}
        for name, programs in references.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def test_references_that_fail_their_own_tests_are_left_out(tmp_path: Path) -> None:
    right, wrong = "print(int(input()) ** 2)", "print(5)"
    train = write(tmp_path / "train.jsonl", {"a": [wrong, right], "b": [wrong], "c": []})
    held_out = write(tmp_path / "held_out.jsonl", {"d": [right]})
    sets = load_problem_sets(ProblemsSettings(train=(train,), evaluation=(held_out,)))
    checked = without_failing_references(sets, SandboxSettings(), tmp_path / "references.json")
    assert [(problem.task_id, problem.references) for problem in checked.train] == [("a", (right,)), ("c", ())]
    assert [problem.task_id for problem in checked.supervised] == ["a"]
    assert checked.held_out == sets.held_out
    assert len([text for text in checked.warnings if "2 reference programs fail" in text]) == 1
    reasons = [
        reason for found in json.loads((tmp_path / "references.json").read_text()).values() for reason in found.values()
    ]
    assert sorted(filter(None, reasons)) == ["failed at test 0"] * 2
    only_wrong = load_problem_sets(ProblemsSettings(train=(write(tmp_path / "wrong.jsonl", {"b": [wrong]}),)))
    with pytest.raises(UserError, match="no training problem"):
        without_failing_references(only_wrong, SandboxSettings(), tmp_path / "references.json")


def test_held_out_problems_with_ids_of_training_problems_are_renamed(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"0": ["print(1)"], "1": ["print(2)"]})
    held_out = write(tmp_path / "held_out.jsonl", {"1": ["print(3)"], "2": ["print(4)"]})
    sets = load_problem_sets(ProblemsSettings(train=(train,), evaluation=(held_out,)))
    assert [problem.task_id for problem in sets.held_out] == ["held-out/1", "2"]
    assert [problem.references for problem in sets.by_id.values()] == [
        ("print(1)",),
        ("print(2)",),
        ("print(3)",),
        ("print(4)",),
    ]


def test_named_sets_may_share_problems(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"1": []})
    first = write(tmp_path / "first.jsonl", {"1": [], "2": [], "3": []})
    second = write(tmp_path / "second.jsonl", {"4": []})
    sets = load_problem_sets(
        ProblemsSettings(train=(train,), evaluation={"first": first, "second": [f"{first}[1:2]", second]})
    )
    assert [problem.task_id for problem in sets.held_out] == ["held-out/1", "2", "3", "4"]
    assert sets.evaluation_sets == {"first": ("held-out/1", "2", "3"), "second": ("2", "4")}
    assert list(sets.fingerprints) == ["train", "supervised", "evaluation.first", "evaluation.second"]
    assert list(sets.fingerprints["evaluation.second"]) == ["2", "4"]
    assert sets.without(["4"]).held_out == sets.held_out[:3]
    with pytest.raises(UserError, match=r"all problems of problems\.evaluation\.second fill the model's context"):
        sets.without(["2", "4"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("all", "b"), r"problems\.evaluation\.all: pass@k of all problems has this name"),
        (("a", "hard"), r"problems\.evaluation\.hard: pass@k of the problems of this difficulty has this name"),
    ],
)
def test_a_name_of_another_group_is_refused(tmp_path: Path, names: tuple[str, str], message: str) -> None:
    train = write(tmp_path / "train.jsonl", {"1": []})
    specs = [write(tmp_path / f"{name}.jsonl", {name: []}, difficulty="hard") for name in names]
    with pytest.raises(UserError, match=message):
        load_problem_sets(ProblemsSettings(train=(train,), evaluation=dict(zip(names, specs, strict=True))))


def test_an_id_of_different_problems_in_two_sets_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"0": []})
    specs = {name: write(tmp_path / f"{name}.jsonl", {"1": []}, starter_code=name) for name in ("a", "b")}
    with pytest.raises(UserError, match="task_id 1 stands for one problem in a and for another in b: give one of them"):
        load_problem_sets(ProblemsSettings(train=(train,), evaluation=specs))


def test_a_set_without_a_right_reference_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"0": []})
    specs = {"a": write(tmp_path / "a.jsonl", {"1": []}), "b": write(tmp_path / "b.jsonl", {"2": ["print(5)"]})}
    sets = load_problem_sets(ProblemsSettings(train=(train,), evaluation=specs))
    with pytest.raises(UserError, match=r"problems\.evaluation\.b has no problem left"):
        without_failing_references(sets, SandboxSettings(), tmp_path / "references.json")


def test_pass_rates_are_those_of_the_training_problems(tmp_path: Path) -> None:
    spec = write(tmp_path / "train.jsonl", {"a": [], "b": [], "c": []})
    outcomes = {"a": ["passed", "failed", "infrastructure_error"], "b": ["failed", "timeout"], "elsewhere": ["passed"]}
    rows = [{"task_id": name, "outcome": outcome} for name, found in outcomes.items() for outcome in found]
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ProblemsSettings(train=(spec,), pass_rates=(str(folder),))
    assert load_problem_sets(settings).measured == {"a": (1, 2), "b": (0, 2)}


def test_an_evaluation_of_other_problems_says_nothing_about_pass_rates(tmp_path: Path) -> None:
    settings = ProblemsSettings(train=(write(tmp_path / "train.jsonl", {"a": []}),), pass_rates=(str(tmp_path),))
    with pytest.raises(UserError, match=r"no samples\.jsonl"):
        load_problem_sets(settings)
    (tmp_path / "samples.jsonl").write_text('{"task_id": "elsewhere", "outcome": "passed"}\n')
    with pytest.raises(UserError, match=r"problems\.pass_rates: .* has no programs for problems of problems\.train"):
        load_problem_sets(settings)


def test_the_structure_reward_needs_reference_programs(tmp_path: Path) -> None:
    with_one = load_problem_sets(ProblemsSettings(train=(write(tmp_path / "one.jsonl", {"a": ["print(1)"], "b": []}),)))
    without = load_problem_sets(ProblemsSettings(train=(write(tmp_path / "none.jsonl", {"a": [], "b": []}),)))
    assert check_structure(without, rewards_of("ppo")) == without
    (said,) = check_structure(with_one, rewards_of("ppocoder")).warnings
    assert said == "1 training problems have no reference program, so their structure reward is 0: b"
    with pytest.raises(UserError, match=r"no problem of problems\.train has one: add some, or set it to 0"):
        check_structure(without, rewards_of("ppocoder"))


STATEMENTS = {"a": "Print the square of the number that you read.", "b": "Print the cube of the number that you read."}


def statements(path: Path, **by_id: str) -> str:
    tests = [{"stdin": "2\n", "expected": "4\n"}]
    rows = [
        {"task_id": task_id, "statement": statement, "tests": tests, "references": [f"print({statement!r})"]}
        for task_id, statement in by_id.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def contaminated(folder: Path, evaluation: dict[str, str] | None = None, **decontamination: object) -> ProblemsSettings:
    """Two training problems, a and b; x is a, and y is in neither."""
    held_out = {"x": STATEMENTS["a"].upper(), "y": "Print nothing."} if evaluation is None else evaluation
    return ProblemsSettings(
        train=(statements(folder / "train.jsonl", **STATEMENTS),),
        evaluation=(statements(folder / "held_out.jsonl", **held_out),) if held_out else (),
        decontamination=decontamination,
    )


def test_overlaps_with_held_out_problems_are_reported(tmp_path: Path) -> None:
    sets = load_problem_sets(contaminated(tmp_path))
    (overlap,) = sets.overlaps
    assert (overlap.train.task_id, overlap.benchmark, overlap.problem.task_id) == ("a", "evaluation", "x")
    assert [problem.task_id for problem in sets.train] == ["a", "b"]
    assert sets.warnings == (
        "1 of 2 training problems overlap with a benchmark (all in contamination.jsonl of the run folder): jsonl a is "
        "like x of evaluation (the same statement)",
    )
    unsearched = load_problem_sets(contaminated(tmp_path, mode="off"))
    assert (unsearched.overlaps, unsearched.warnings) == ((), ())


def test_overlapping_training_problems_are_dropped(tmp_path: Path) -> None:
    reported = load_problem_sets(contaminated(tmp_path))
    sets = load_problem_sets(contaminated(tmp_path, mode="drop"))
    assert [problem.task_id for problem in sets.train] == ["b"]
    assert [problem.task_id for problem in sets.supervised] == ["b"]
    assert sets.held_out == reported.held_out
    assert "1 of 2 training problems overlap with a benchmark and are dropped" in sets.warnings[0]
    assert {name: list(found) for name, found in sets.fingerprints.items()} == {
        "train": ["b"],
        "supervised": ["b"],
        "evaluation": ["x", "y"],
    }
    assert sets.overlaps == reported.overlaps


def test_further_benchmarks_are_compared_with(tmp_path: Path) -> None:
    other = statements(tmp_path / "other.jsonl", z=STATEMENTS["b"])
    sets = load_problem_sets(contaminated(tmp_path, {}, mode="drop", against=(other,)))
    assert [(overlap.train.task_id, overlap.benchmark) for overlap in sets.overlaps] == [("b", other)]
    assert [problem.task_id for problem in sets.train] == ["a"]
    assert sets.held_out == ()


def test_dropping_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"problems\.decontamination\.mode drop leaves no training problem"):
        load_problem_sets(contaminated(tmp_path, STATEMENTS, mode="drop"))
