"""Settings from defaults, files, environment and command line, and the messages for mistakes in them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.errors import UserError
from rltf.settings import Dtype, ModelSettings, PlanOptions, Settings, rewards_of
from rltf.settings.reference import leaf_fields
from rltf.settings_sources import RENAMED, STARTER_CONFIG, CliOptions, load_settings, to_yaml
from tests.tiers import examples

CONFIGS = sorted(STARTER_CONFIG.parent.glob("*.yaml"))
NO_ENVIRONMENT: dict[str, str] = {}


def write(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(text)
    return str(path)


TWO_WORKERS = ["--generator.tensor_parallel_size", "2"]
IPC, NCCL = (["--generator.weight_transfer", way] for way in ("ipc", "nccl"))
HALF_GPUS = ["--learner.num_gpus", "0.5", "--generator.num_gpus", "0.5"]


def refusal(argv: list[str], environ: dict[str, str] = NO_ENVIRONMENT) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(argv, environ)
    return str(caught.value)


def test_the_default_is_the_starter_job() -> None:
    settings, options = load_settings([], NO_ENVIRONMENT)
    assert settings.run.name == "starter"
    assert options == CliOptions(config=STARTER_CONFIG)


def test_later_sources_win_field_by_field(tmp_path: Path) -> None:
    config = write(tmp_path, "learner: {optim: {learning_rate: 1e-5, weight_decay: 0.1, max_grad_norm: 2}}\n")
    environ = {"RLTF_LEARNER__OPTIM__WEIGHT_DECAY": "0.2", "RLTF_LEARNER__OPTIM__MAX_GRAD_NORM": "3", "PATH": "/bin"}
    settings, _ = load_settings(["--config", config, "--learner.optim.max_grad_norm", "4"], environ)
    learner = settings.learner
    assert learner.optim.learning_rate == 1e-5  # YAML 1.1 reads 1e-5 as text
    assert learner.optim.weight_decay == 0.2
    assert learner.optim.max_grad_norm == 4
    assert settings.checkpoint.every == Settings().checkpoint.every


def test_a_switch_and_arguments_as_words_or_yaml(tmp_path: Path) -> None:
    config = write(tmp_path, "model: {chat_template: on, chat_template_kwargs: {enable_thinking: false}}\n")
    model = load_settings(["--config", config], NO_ENVIRONMENT)[0].model
    assert (model.chat_template, model.chat_template_kwargs) == ("on", {"enable_thinking": False})
    argv = ["--model.chat_template", "false", "--model.chat_template_kwargs", "{enable_thinking: true, level: high}"]
    model = load_settings(argv, NO_ENVIRONMENT)[0].model
    assert (model.chat_template, model.chat_template_kwargs) == ("off", {"enable_thinking": True, "level": "high"})
    assert "input should be 'auto', 'on' or 'off'" in refusal(["--model.chat_template", "maybe"])
    assert "input should be a valid dictionary" in refusal(["--model.chat_template_kwargs", "enable_thinking"])
    said = refusal(["--model.prompt_template", "Solve it."])
    assert said.startswith("model.prompt_template (--model.prompt_template): it has neither")


def test_references_follow_the_problems_to_train_on(tmp_path: Path) -> None:
    own = ["--problems.train", "jsonl:own.jsonl"]
    assert load_settings([], NO_ENVIRONMENT)[0].problems.supervised == ("starter:train?references=yes",)
    assert load_settings(own, NO_ENVIRONMENT)[0].problems.supervised == ()
    assert load_settings([], {"RLTF_PROBLEMS__TRAIN": "jsonl:own.jsonl"})[0].problems.supervised == ()
    chosen = {"RLTF_PROBLEMS__SUPERVISED": "jsonl:other.jsonl"}
    assert load_settings([], chosen)[0].problems.supervised == ("jsonl:other.jsonl",)
    config = write(tmp_path, "problems: {train: ['jsonl:a.jsonl'], supervised: ['jsonl:b.jsonl']}\n")
    assert load_settings(["--config", config], NO_ENVIRONMENT)[0].problems.supervised == ("jsonl:b.jsonl",)
    both = [*own, "--problems.supervised", "jsonl:c.jsonl"]
    assert load_settings(["--config", config, *both], NO_ENVIRONMENT)[0].problems.supervised == ("jsonl:c.jsonl",)


def test_every_field_has_a_description() -> None:
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
def test_written_settings_load_as_the_same_settings(tmp_path: Path, preset: str) -> None:
    argv = ["--algorithm", preset, "--evaluation.ks", "1", "--run.seed", "3"]
    settings, _ = load_settings(argv, NO_ENVIRONMENT)
    assert load_settings(["--config", write(tmp_path, to_yaml(settings))], NO_ENVIRONMENT)[0] == settings


def test_lists_are_words_or_yaml(tmp_path: Path) -> None:
    argv = ["--problems.train", "apps:train?difficulty=introductory", "mbpp:rows.jsonl[0:5]"]
    assert load_settings(argv, NO_ENVIRONMENT)[0].problems.train == tuple(argv[1:])
    environ = {"RLTF_EVALUATION__KS": "[1, 2]", "RLTF_PROBLEMS__EVALUATION": "starter:test"}
    settings, _ = load_settings([], environ)
    assert settings.evaluation.ks == (1, 2)
    assert settings.problems.evaluation == ("starter:test",)
    assert settings.problems.evaluation_sets == {}


SETS = {"mbpp": ("mbpp:mbpp.jsonl?split=validation[0:30]",), "other.2": ("starter:test", "jsonl:b.jsonl")}
SETS_AS_JSON = '{"mbpp": "mbpp:mbpp.jsonl?split=validation[0:30]", "other.2": ["starter:test", "jsonl:b.jsonl"]}'
SETS_AS_YAML = """\
problems:
  evaluation:
    mbpp: mbpp:mbpp.jsonl?split=validation[0:30]
    other.2: [starter:test, jsonl:b.jsonl]
"""


def test_sets_of_held_out_problems_have_names(tmp_path: Path) -> None:
    on_the_command_line, _ = load_settings(["--problems.evaluation", SETS_AS_JSON], NO_ENVIRONMENT)
    in_the_environment, _ = load_settings([], {"RLTF_PROBLEMS__EVALUATION": SETS_AS_JSON})
    in_a_file, _ = load_settings(["--config", write(tmp_path, SETS_AS_YAML)], NO_ENVIRONMENT)
    for settings in (on_the_command_line, in_the_environment, in_a_file):
        assert settings.problems.evaluation == settings.problems.evaluation_sets == SETS
        assert load_settings(["--config", write(tmp_path, to_yaml(settings))], NO_ENVIRONMENT)[0] == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a b": "starter:test"}', "has only letters, digits and ._-; got 'a b'"),
        ('{"a": []}', "the set a has no SPEC"),
        ('{"a": 3}', 'expected SPECs, or names with SPECs such as {"mbpp": "mbpp:FILE[0:30]"}; got 3'),
        ("[3]", "expected SPECs, or names with SPECs"),
        ('{"a": "starter:test", "a": "starter:train"}', "a is given twice"),
    ],
)
def test_mistakes_in_sets_come_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    said = refusal(["--problems.evaluation", text])
    assert "--problems.evaluation" in said
    assert message in said
    said = refusal(["--config", write(tmp_path, f"problems:\n  evaluation: {text}\n")])
    assert f"{tmp_path / 'job.yaml'}:2" in said
    assert message in said


def test_a_bracket_without_quotes_is_no_mapping() -> None:
    said = refusal(["--problems.evaluation", "{a: starter:test[:3]}"])
    assert "expected SPECs, or names with SPECs" in said
    assert "got '{a: starter:test[:3]}'" in said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--learner.learning_rat", "1"],
            "unknown option --learner.learning_rat: did you mean --learner.optim.learning_rate?",
        ),
        (["--learning_rate=1"], "did you mean --learner.optim.learning_rate?"),
        (["--num_generation", "1"], "did you mean --generator.num_generations?"),
        (["--lr", "1"], "did you mean --learner.optim.learning_rate?"),
        (["--learner.sft.lr", "1"], "did you mean --learner.sft.learning_rate?"),
        (["--learner.kl_weight", "1"], "it was renamed; use --learner.loss.kl_loss_coef"),
        (["--learner.warm_start.num_steps", "1"], "it was renamed; use --learner.sft.num_steps"),
        (["--generator.greedy", "1"], "it is gone; rewards.baseline decides"),
        (["--generator.engine", "x"], "(--generator.engine): input should be 'vllm' or 'transformers'"),
        (["--learner.optim.decay_steps", "100", "--run.num_steps", "120"], "Set learner.optim.decay_steps to 120 or"),
        (["--evaluation.every", "3", "--buffer.refresh_every", "2"], "set it to 4"),
        (["--plan.num_cpus", "3"], "--plan.num_cpus is an option of `rltf plan`"),
        (["--plan", "--plan.num_cpus", "x"], "plan.num_cpus = 'x' (--plan.num_cpus): input should be a valid number"),
        (["--resume", "x", "--replay", "y"], "give only one of them"),
        (["--zzz"], "the sections are run, model,"),
        (["--buffer.zzz", "1"], "buffer has capacity,"),
        (["stray"], "unexpected argument 'stray'"),
        (["--run.seed", "x"], "run.seed = 'x' (--run.seed): input should be a valid integer"),
        (["--run.name", "a/b"], "run.name = 'a/b' (--run.name): string should match pattern"),
        (["--run.seed"], "argument --run.seed: expected one argument"),
        (["--config", "missing.yaml"], "cannot read the settings file missing.yaml: No such file"),
        (["--resume", "missing"], "--resume missing: not a run folder"),
        (["--resume", "x", "--config", "y"], "leave --config out"),
        (["--sandbox.min_workers", "9", "--sandbox.max_workers", "3"], "max_workers 3 is below min_workers 9"),
        (["--evaluation.ks", "1", "50"], "pass@50 needs at least 50 samples per problem"),
        (["--run.deterministic", "true", "--model.dtype", "bfloat16"], "run.deterministic needs CPUs and float32"),
        (["--run.deterministic", "true", "--buffer.capacity", "512"], "buffer.capacity 512 is below 768"),
        (["--run.deterministic", "true", "--learner.num_threads", "2"], "the order of sums depends on it"),
        (
            ["--run.deterministic", "true", "--buffer.refresh_every", "2", "--checkpoint.every", "3"],
            "the weights that the generators sample with: set it to 4",
        ),
    ],
)
def test_mistakes_on_the_command_line(argv: list[str], message: str) -> None:
    assert message in refusal(argv)


@pytest.mark.parametrize(
    ("actor", "message"),
    [
        ("learner", "{} GPUs, but one actor uses only one, so the others would sit idle; set it to 1, and"),
        ("generator", "num_gpus {}: a generator with generator.tensor_parallel_size 1 uses only one GPU, so the"),
    ],
)
def test_gpus_that_would_sit_idle_are_refused(actor: str, message: str) -> None:
    for few in ("0", "0.25", "1"):
        settings, _ = load_settings([f"--{actor}.num_gpus", few], NO_ENVIRONMENT)
        assert getattr(settings, actor).num_gpus == float(few)
    for many in ("1.5", "4"):
        assert message.format(many) in refusal([f"--{actor}.num_gpus", many])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--generator.num_gpus", "2"], "set generator.tensor_parallel_size to 2 if the model does not fit into one"),
        ([*TWO_WORKERS, "--generator.num_gpus", "1"], "generator.num_gpus is 1: set it to 2, or to 0 for CPUs"),
        ([*TWO_WORKERS, "--generator.engine", "transformers"], "works with vLLM only: set generator.engine to vllm"),
        ([*TWO_WORKERS, "--run.deterministic", "true"], "run.deterministic: with several workers"),
        (
            [*TWO_WORKERS, "--generator.num_gpus", "2", "--learner.num_gpus", "1", *IPC],
            "to share one GPU, but generator.tensor_parallel_size 2 needs as many: use nccl or object_store",
        ),
    ],
)
def test_workers_that_a_generator_cannot_have_are_refused(argv: list[str], message: str) -> None:
    assert message in refusal(argv)


def test_a_generator_has_a_gpu_for_each_worker_or_none() -> None:
    for gpus in ("2", "0"):
        argv = [*TWO_WORKERS, "--generator.num_gpus", gpus, "--learner.num_gpus", "1"]
        assert load_settings(argv, NO_ENVIRONMENT)[0].generator.num_gpus == float(gpus)
    argv = [*TWO_WORKERS, "--generator.num_gpus", "2", "--learner.num_gpus", "1", *NCCL]
    assert load_settings(argv, NO_ENVIRONMENT)[0].generator.tensor_parallel_size == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "set generator.num_gpus (now 0) and learner.num_gpus (now 0) above 0, or set it to object_store"),
        (["--run.deterministic", "true"], "needs GPUs, but run.deterministic needs CPUs: set it to object_store"),
        (["--generator.engine", "transformers"], "set generator.engine to vllm, or set it to object_store"),
        (
            [*HALF_GPUS, "--model.lora.rank", "4", "--model.lora.publish", "adapter"],
            "cannot send adapters alone: set model.lora.publish to merged",
        ),
        (HALF_GPUS, "NCCL cannot connect two processes on one; learner.num_gpus is 0.5, generator.num_gpus 0.5"),
        (
            [*HALF_GPUS, "--generator.num_generators", "2", "--generator.weight_transfer", "ipc"],
            "to share one GPU, but they ask for 1.5 together; learner.num_gpus is 0.5, generator.num_gpus 0.5 and "
            "generator.num_generators 2: lower them, or use nccl",
        ),
    ],
)
def test_impossible_weight_transfers_are_refused(argv: list[str], message: str) -> None:
    way = [] if "--generator.weight_transfer" in argv else ["--generator.weight_transfer", "nccl"]
    refused = refusal([*argv, *way])
    assert "generator.weight_transfer" in refused
    assert message in refused


@pytest.mark.parametrize(
    ("way", "learner_gpus", "generator_gpus"), [("ipc", "0.5", "0.5"), ("nccl", "1", "1"), ("nccl", "0.6", "0.5")]
)
def test_possible_weight_transfers_between_gpus(way: str, learner_gpus: str, generator_gpus: str) -> None:
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
        ("plan:\n  num_cpus: 3\n", 1, "an option of the command `rltf plan`, not a setting"),
        ("model:\n  max_length: 3\n", 2, "it was renamed; use model.max_model_len"),
        ("run: 3\n", 1, "expected settings (NAME: VALUE) under run"),
        ("- 1\n", 1, "expected settings (NAME: VALUE) under the file"),
        ("run: {name: [\n", 2, "invalid YAML"),
        ("run:\n  name: !!python/object:x.y {}\n", 2, "invalid YAML"),
    ],
)
def test_mistakes_in_a_file_come_with_their_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    config = write(tmp_path, text)
    said = refusal(["--config", config])
    assert f"{config}:{line}" in said
    assert message in said


def test_an_empty_section_keeps_its_defaults(tmp_path: Path) -> None:
    config = write(tmp_path, "run:\n  # seed: 3\nmodel:\n  name: x\n")
    settings, _ = load_settings(["--config", config], NO_ENVIRONMENT)
    assert settings.run == Settings().run


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RLTF_LEARNER__LERNING_RATE": "1"}, "did you mean RLTF_LEARNER__OPTIM__LEARNING_RATE?"),
        ({"RLTF_MODEL__MAX_LENGTH": "1"}, "RLTF_MODEL__MAX_LENGTH: it was renamed; use model.max_model_len"),
        ({"RLTF_LEARNER__BATCH_SIZE": "many"}, "(environment variable RLTF_LEARNER__BATCH_SIZE): input should be"),
    ],
)
def test_mistakes_in_the_environment(environ: dict[str, str], message: str) -> None:
    assert message in refusal([], environ)


def test_settings_built_in_code_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLTF_RUN__SEED", "7")
    monkeypatch.setenv("RUN", '{"seed": 7}')
    assert Settings().run.seed == 0


def test_every_new_name_exists() -> None:
    known = {".".join(path[: i + 1]) for path in leaf_fields(Settings) for i in range(len(path))}
    for old, new in RENAMED.items():
        assert old not in known
        assert " " in new or new in known


def test_plan_options_are_not_settings() -> None:
    _, options = load_settings(["--plan", "--plan.num_cpus", "64", "--plan.load_s", "none"], NO_ENVIRONMENT)
    assert options.plan == PlanOptions(num_cpus=64)


def test_a_moved_run_can_be_resumed(tmp_path: Path) -> None:
    settings, _ = load_settings(["--run.seed", "5", "--run.dir", "elsewhere"], NO_ENVIRONMENT)
    (tmp_path / "settings.yaml").write_text(to_yaml(settings))
    resumed, options = load_settings(["--resume", str(tmp_path), "--run.num_steps", "99"], NO_ENVIRONMENT)
    assert options.resume == tmp_path
    assert resumed.run.folder == tmp_path
    assert (resumed.run.seed, resumed.run.num_steps) == (5, 99)


@examples(0.4)
@given(st.sampled_from(sorted(leaf_fields(Settings))), st.data())
def test_one_missing_letter_still_finds_the_option(path: tuple[str, ...], data: st.DataObject) -> None:
    name = ".".join(path)
    position = data.draw(st.integers(len(name) - len(path[-1]), len(name) - 1))
    slip = name[:position] + name[position + 1 :]
    if slip.endswith(".") or tuple(slip.split(".")) in leaf_fields(Settings):
        return
    assert "did you mean --" in refusal([f"--{slip}", "1"])


def test_an_algorithm_fills_in_missing_settings() -> None:
    assert rewards_of("rltf-code").alpha_cap == 1
    assert rewards_of("rltf-code", alpha_cap=3).alpha_cap == 3


@pytest.mark.parametrize(
    ("flags", "on_gpus", "deterministic", "expected"),
    [
        ("fpu avx2", False, False, Dtype.FLOAT32),
        ("fpu avx2 avx512_bf16", False, False, Dtype.BFLOAT16),
        ("fpu amx_bf16", False, False, Dtype.BFLOAT16),
        ("fpu amx_bf16", False, True, Dtype.FLOAT32),
        ("fpu avx2", True, False, Dtype.BFLOAT16),
    ],
)
def test_the_machine_decides_about_the_type_of_the_model(
    flags: str, on_gpus: bool, deterministic: bool, expected: Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr("rltf.settings.choices._CPU_FLAGS", tmp_path / "cpuinfo")
    argv = ["--config", "configs/starter.yaml", "--run.deterministic", str(deterministic), "--model.dtype"]
    if on_gpus:
        argv = ["--generator.num_gpus", "1", *argv]
    assert load_settings([*argv, "auto"])[0].model.dtype is expected
    assert load_settings([*argv, "float32"])[0].model.dtype is Dtype.FLOAT32
    assert Settings(model=ModelSettings(dtype="auto"), generator={"num_gpus": 1}).model.dtype is Dtype.BFLOAT16


def test_decontamination_that_can_do_nothing_is_refused(tmp_path: Path) -> None:
    nothing = ["--problems.evaluation", "[]", "--problems.decontamination.mode", "drop"]
    assert "decontamination.mode drop has nothing to compare with" in refusal(nothing)
    against = ["--problems.decontamination.against", "humaneval:FILE"]
    assert load_settings([*nothing, *against], NO_ENVIRONMENT)[0].problems.decontamination.mode == "drop"
    off = write(tmp_path, "problems:\n  decontamination:\n    mode: off\n")
    assert load_settings(["--config", off], NO_ENVIRONMENT)[0].problems.decontamination.mode == "off"
    assert "decontamination.against has no effect" in refusal(["--config", off, *against])
