from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from errors import UserError
from settings import Settings, rewards_of
from settings_sources import STARTER_CONFIG, CliOptions, leaf_fields, load_settings, to_yaml

CONFIGS = sorted(STARTER_CONFIG.parent.glob("*.yaml"))
NO_ENVIRONMENT: dict[str, str] = {}


def write(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(text)
    return str(path)


HALF_GPUS = ["--learner.num_gpus", "0.5", "--generator.num_gpus", "0.5"]


def refusal(argv: list[str], environ: dict[str, str] = NO_ENVIRONMENT) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(argv, environ)
    return str(caught.value)


def test_without_arguments_it_is_the_starter_job() -> None:
    settings, options = load_settings([], NO_ENVIRONMENT)
    assert settings.run.name == "starter"
    assert options == CliOptions(config=STARTER_CONFIG, dry_run=False, resume=None)


def test_later_sources_win_field_by_field(tmp_path: Path) -> None:
    config = write(tmp_path, "learner: {optim: {learning_rate: 1e-5, weight_decay: 0.1, max_grad_norm: 2}}\n")
    environ = {"RLTF_LEARNER__OPTIM__WEIGHT_DECAY": "0.2", "RLTF_LEARNER__OPTIM__MAX_GRAD_NORM": "3", "PATH": "/bin"}
    settings, _ = load_settings(["--config", config, "--learner.optim.max_grad_norm", "4"], environ)
    learner = settings.learner
    assert learner.optim.learning_rate == 1e-5  # YAML 1.1 reads 1e-5 as text
    assert learner.optim.weight_decay == 0.2
    assert learner.optim.max_grad_norm == 4
    assert settings.checkpoint.every == Settings().checkpoint.every


def test_every_field_has_a_description_and_an_option() -> None:
    for path, field in leaf_fields(Settings).items():
        assert field.description, path
        assert field.description.endswith("."), path


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_loads(config: Path) -> None:
    settings, _ = load_settings(["--config", str(config)], NO_ENVIRONMENT)
    assert settings.run.name


def test_short_options_and_flags_without_a_value() -> None:
    settings, _ = load_settings(["--model", "some/model", "--problems.validate", "--run.seed", "3"], NO_ENVIRONMENT)
    assert (settings.model.name, settings.problems.validate_references, settings.run.seed) == ("some/model", True, 3)
    assert not load_settings(["--problems.validate", "false"], NO_ENVIRONMENT)[0].problems.validate_references
    assert "model.name = ''" in refusal(["--model", ""])


@pytest.mark.parametrize("preset", ["rltf", "rltf-paper", "rltf-code"])
def test_what_a_run_writes_down_loads_as_the_same_settings(tmp_path: Path, preset: str) -> None:
    argv = ["--algorithm", preset, "--evaluation.ks", "1", "--run.seed", "3"]
    settings, _ = load_settings(argv, NO_ENVIRONMENT)
    assert load_settings(["--config", write(tmp_path, to_yaml(settings))], NO_ENVIRONMENT)[0] == settings


def test_lists_come_as_words_or_as_yaml(tmp_path: Path) -> None:
    argv = ["--problems.train", "apps:train?difficulty=introductory", "mbpp:rows.jsonl[0:5]"]
    assert load_settings(argv, NO_ENVIRONMENT)[0].problems.train == tuple(argv[1:])
    environ = {"RLTF_EVALUATION__KS": "[1, 2]", "RLTF_PROBLEMS__EVALUATION": "starter:test"}
    settings, _ = load_settings([], environ)
    assert settings.evaluation.ks == (1, 2)
    assert settings.problems.evaluation == ("starter:test",)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--learner.learning_rat", "1"],
            "unknown option --learner.learning_rat: did you mean --learner.optim.learning_rate?",
        ),
        (["--learning_rate=1"], "did you mean --learner.optim.learning_rate?"),
        (["--num_generation", "1"], "did you mean --generator.num_generations?"),
        (["--zzz"], "the sections are run, model,"),
        (["--buffer.zzz", "1"], "buffer has capacity,"),
        (["stray"], "unexpected argument 'stray'"),
        (["--run.seed", "x"], "run.seed = 'x' (--run.seed): input should be a valid integer"),
        (["--run.name", "a/b"], "run.name = 'a/b' (--run.name): string should match pattern"),
        (["--run.seed"], "argument --run.seed: expected one argument"),
        (["--config", "missing.yaml"], "cannot read the settings file missing.yaml: No such file"),
        (["--resume", "missing"], "--resume missing: no run folder"),
        (["--resume", "x", "--config", "y"], "leave --config out"),
        (["--sandbox.min_workers", "9", "--sandbox.max_workers", "3"], "max_workers 3 is below min_workers 9"),
        (["--evaluation.ks", "1", "50"], "pass@50 needs at least as many programs"),
        (["--run.deterministic", "true", "--model.dtype", "bfloat16"], "on CPUs in float32 alone"),
        (["--run.deterministic", "true", "--buffer.capacity", "512"], "buffer.capacity 512 is below 768"),
        (
            ["--run.deterministic", "true", "--buffer.refresh_every", "2", "--checkpoint.every", "3"],
            "checkpoint.every 3 is no multiple of buffer.refresh_every 2",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_named(argv: list[str], message: str) -> None:
    assert message in refusal(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "set generator.num_gpus (now 0) and learner.num_gpus (now 0) above 0, or set it to object_store"),
        (["--run.deterministic", "true"], "needs GPUs, and run.deterministic CPUs: set it to object_store"),
        (["--generator.engine", "transformers"], "set generator.engine to vllm, or set it to object_store"),
        (
            [*HALF_GPUS, "--model.lora.rank", "4", "--model.lora.publish", "adapter"],
            "sends all weights, not adapters alone: set model.lora.publish to merged",
        ),
        (HALF_GPUS, "NCCL takes no two processes on one; learner.num_gpus is 0.5, generator.num_gpus 0.5"),
        (
            [*HALF_GPUS, "--generator.num_generators", "2", "--generator.weight_transfer", "ipc"],
            "parts of one GPU, which must come to 1 together; learner.num_gpus is 0.5, generator.num_gpus 0.5 and "
            "generator.num_generators 2: lower them, or use nccl",
        ),
    ],
)
def test_ways_for_weights_that_cannot_be_are_refused(argv: list[str], message: str) -> None:
    way = [] if "--generator.weight_transfer" in argv else ["--generator.weight_transfer", "nccl"]
    refused = refusal([*argv, *way])
    assert "generator.weight_transfer" in refused
    assert message in refused


@pytest.mark.parametrize(
    ("way", "learner_gpus", "generator_gpus"), [("ipc", "0.5", "0.5"), ("nccl", "1", "1"), ("nccl", "0.6", "0.5")]
)
def test_ways_for_weights_between_gpus(way: str, learner_gpus: str, generator_gpus: str) -> None:
    gpus = ["--learner.num_gpus", learner_gpus, "--generator.num_gpus", generator_gpus]
    settings, _ = load_settings(["--generator.weight_transfer", way, *gpus], NO_ENVIRONMENT)
    assert settings.generator.weight_transfer == way


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("run:\n  name: x\n  sed: 1\n", 3, "unknown setting run.sed: did you mean run.seed?"),
        ("run: {}\nlerner:\n  batch_size: 1\n", 2, "unknown setting lerner"),
        ("run:\n  seed: -1\n", 2, "greater than or equal to 0"),
        ("run:\n  seed: 1\n  seed: 2\n", 3, "run.seed is given twice"),
        ("run: 3\n", 1, "expected a mapping of settings under run"),
        ("- 1\n", 1, "expected a mapping of settings under the file"),
        ("run: {name: [\n", 2, "no valid YAML"),
        ("run:\n  name: !!python/object:x.y {}\n", 2, "no valid YAML"),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    config = write(tmp_path, text)
    said = refusal(["--config", config])
    assert f"{config}:{line}" in said
    assert message in said


def test_a_section_without_lines_keeps_its_defaults(tmp_path: Path) -> None:
    config = write(tmp_path, "run:\n  # seed: 3\nmodel:\n  name: x\n")
    settings, _ = load_settings(["--config", config], NO_ENVIRONMENT)
    assert settings.run == Settings().run


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RLTF_LEARNER__LERNING_RATE": "1"}, "did you mean RLTF_LEARNER__OPTIM__LEARNING_RATE?"),
        ({"RLTF_LEARNER__BATCH_SIZE": "many"}, "(environment variable RLTF_LEARNER__BATCH_SIZE): input should be"),
    ],
)
def test_mistakes_in_the_environment_are_named(environ: dict[str, str], message: str) -> None:
    assert message in refusal([], environ)


def test_settings_built_in_a_program_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLTF_RUN__SEED", "7")
    monkeypatch.setenv("RUN", '{"seed": 7}')
    assert Settings().run.seed == 0


def test_resume_takes_the_settings_of_the_run_wherever_its_folder_is_now(tmp_path: Path) -> None:
    settings, _ = load_settings(["--run.seed", "5", "--run.dir", "elsewhere"], NO_ENVIRONMENT)
    (tmp_path / "settings.yaml").write_text(to_yaml(settings))
    resumed, options = load_settings(["--resume", str(tmp_path), "--run.num_steps", "99"], NO_ENVIRONMENT)
    assert options.resume == tmp_path
    assert resumed.run.folder == tmp_path
    assert (resumed.run.seed, resumed.run.num_steps) == (5, 99)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(["--help"], NO_ENVIRONMENT)
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{'.'.join(path)}" in shown for path in leaf_fields(Settings))


@settings_of_hypothesis(max_examples=40)
@given(st.sampled_from(sorted(leaf_fields(Settings))), st.data())
def test_one_slip_in_an_option_still_finds_it(path: tuple[str, ...], data: st.DataObject) -> None:
    name = ".".join(path)
    position = data.draw(st.integers(len(name) - len(path[-1]), len(name) - 1))
    slip = name[:position] + name[position + 1 :]
    if slip.endswith(".") or tuple(slip.split(".")) in leaf_fields(Settings):
        return
    assert "did you mean --" in refusal([f"--{slip}", "1"])


def test_a_preset_fills_what_is_not_given() -> None:
    assert rewards_of("rltf-code").alpha_cap == 1
    assert rewards_of("rltf-code", alpha_cap=3).alpha_cap == 3
