"""The command `transformers-msstsvis`: what all its parts have in common."""

import os
import runpy
import signal
import subprocess
import sys
import time
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from tqdm import tqdm

import transformers_msstsvis
from transformers_msstsvis import commands, extras, startup
from transformers_msstsvis.commands import (
    command_line,
    evaluate,
    make_synthetic,
    predict,
    train,
    validate,
)
from transformers_msstsvis.data import synthetic
from transformers_msstsvis.data.sampling import SAMPLINGS
from transformers_msstsvis.data.validate import validate as validate_file
from transformers_msstsvis.evaluation import evaluate_model

ROOT = Path(__file__).parents[1]
PROGRAM = ("-m", "transformers_msstsvis")
QUICK = [[], *([name] for name in commands.COMMANDS if name != "train")]
# An interpreter without the libraries of the extras, and a list of what a command has loaded.
WITHOUT_EXTRAS = """
import runpy, sys
for name in ("accelerate", "datasets", "evaluate"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("loaded", *sorted({"torch", "transformers", "numpy", "PIL"}.intersection(sys.modules)))
"""


def start(*arguments, **settings):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **settings)


@pytest.mark.parametrize("command", QUICK, ids=lambda command: command[0] if command else "none")
def test_help_answers_at_once(command):
    begin = time.perf_counter()
    done = start(*PROGRAM, *command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" ".join(["usage: transformers-msstsvis", *command]))
    assert time.perf_counter() - begin < 3  # PyTorch alone takes more on a busy machine
    if not command:
        assert all(name in done.stdout for name in commands.COMMANDS)


def test_a_part_is_needed_and_known():
    for arguments in ([], ["predictt"]):
        with pytest.raises(SystemExit) as exit_info:
            commands.main(arguments)
        assert exit_info.value.code == 2
    with pytest.raises(SystemExit) as exit_info:
        commands.main(["--version"])
    assert exit_info.value.code == 0


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("benchmark.py", "benchmark"),
        ("convert_checkpoint.py", "convert"),
        ("evaluate.py", "evaluate"),
        ("make_synthetic.py", "make_synthetic"),
        ("predict.py", "predict"),
        ("train.py", "train"),
    ],
)
def test_scripts_are_the_commands(script, name):
    main = runpy.run_path(str(ROOT / "scripts" / script))["main"]
    assert main is import_module(f"transformers_msstsvis.commands.{name}").main
    assert name.replace("_", "-") in commands.COMMANDS


@pytest.mark.parametrize("module", ["predict", "commands.predict"])
def test_the_modules_of_prediction_are_the_command(module):
    done = start("-m", f"transformers_msstsvis.{module}", "nowhere.mp4")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: nowhere.mp4 does not exist")


def test_lists_repeated_for_a_quick_help_are_those_of_the_package():
    told = train.Arguments.__dataclass_fields__["sampling"].metadata["help"]
    assert all(name in told for name in SAMPLINGS)


# ------------------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize("flag", ["--max-frames", "--max_frames"])
def test_either_spelling_of_a_flag(flag):
    assert predict.parse_arguments([flag, "7"]).max_frames == 7
    assert predict.parse_arguments([f"{flag}=7"]).max_frames == 7
    assert evaluate.parse_arguments([flag, "7", "--dataset", "d.json"]).max_frames == 7


def test_either_spelling_leaves_values_alone():
    args = predict.parse_arguments(["--json", "a-b_c.json", "--", "--max_frames"])
    assert (args.json, args.videos) == ("a-b_c.json", ["--max_frames"])


@pytest.mark.parametrize("dash", ["-", "_"])
def test_either_spelling_in_training(dash, tmp_path):
    flags = f"--num_frames 3 --output_dir {tmp_path} --use_cpu True --no_flip --max_steps=4".replace("_", dash)
    flags = flags.replace(str(tmp_path).replace("_", dash), str(tmp_path))
    arguments, training = train.parse_arguments(flags.split())
    assert (arguments.num_frames, arguments.flip, training.max_steps) == (3, False, 4)


@pytest.mark.parametrize(
    ("script", "flags", "function", "beside"),
    [
        (evaluate, ["--dataset", "x"], evaluate_model, {"validate"}),
        (make_synthetic, ["--output", "x"], synthetic.make_synthetic, set()),
        (validate, ["x"], validate_file, set()),
    ],
)
def test_what_the_command_takes_one_call_takes_by_the_same_names(script, flags, function, beside, monkeypatch):
    monkeypatch.setattr(script, "run", lambda work, arguments, *more: arguments)
    taken = vars(script.main(flags)).keys() - beside
    assert taken == signature(function).parameters.keys() - {"progress"}


@pytest.mark.parametrize(
    ("flag", "other"), [("--json", "--json_path"), ("--masks", "--masks_dir"), ("--max_frames", "--max-frames")]
)
def test_names_of_python_are_flags(flag, other):
    assert predict.parse_arguments([flag, "3"]) == predict.parse_arguments([other, "3"])


# ------------------------------------------------------------------------------------------------------------ errors


def fail(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such\n  thing"), "error: no such thing"),
        (FileNotFoundError(2, "No such file or directory", "x"), "error: [Errno 2] No such file or directory: 'x'"),
        (KeyError("id"), "error: KeyError: 'id'"),
        (AssertionError(), "error: AssertionError"),
        (RuntimeError(), "error: RuntimeError"),
        (
            ValueError(
                "Could not load model x with any of (<class 'A'>,). See the original errors:\n\nwhile loading with A, "
                'an error is thrown:\nTraceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n'
                "ValueError: num_queries is 0; expected at least 1\n\n\n"
            ),
            "error: num_queries is 0; expected at least 1",
        ),
        (
            ModuleNotFoundError("No module named 'datasets.config'", name="datasets.config"),
            'error: the library datasets is missing; install it with: pip install "transformers_msstsvis[train]"',
        ),
        (ModuleNotFoundError("No module named 'nothing'", name="nothing"), "error: No module named 'nothing'"),
    ],
)
def test_errors_are_one_line(capsys, error, line):
    assert command_line.run(fail, error) == 1
    assert capsys.readouterr().err == f"{line}\n"


def test_long_errors_are_cut(capsys):
    assert command_line.run(fail, ValueError("x" * 10**6)) == 1
    assert len(capsys.readouterr().err) < 3000


def test_tracebacks_on_request(capsys, monkeypatch):
    assert command_line.run(fail, ValueError("no"), verbose=lambda: True) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    assert command_line.run(fail, ValueError("no")) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.endswith("error: no\n")


def test_interrupted(capsys):
    assert command_line.run(fail, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(os.name != "posix", reason="signals of a terminal")
def test_ctrl_c_with_workers(tmp_path):
    """A terminal sends it to all processes of the command."""
    command = [sys.executable, *PROGRAM, "make-synthetic", "--output", "out", "--videos", "5000", "--workers", "2"]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored below a shell's background job
    )
    until = time.monotonic() + 100
    while not list(tmp_path.glob("out/JPEGImages/*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    told = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert told.splitlines()[-1] == "interrupted"
    assert "Traceback" not in told
    assert "Exception" not in told


def test_the_last_line_is_below_the_progress_bars(capsys):
    bar = tqdm(total=3)

    def work():
        bar.update()
        raise ValueError("no")

    assert command_line.run(work) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: no"


def test_exit_status():
    assert command_line.run(lambda: None) == 0
    assert command_line.run(lambda: 3) == 3


def test_a_reader_that_has_enough(tmp_path):
    (tmp_path / "annotations.json").write_text('{"videos": [], "annotations": [], "categories": []}')
    command = f"{sys.executable} -m transformers_msstsvis validate annotations.json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "1\n"
    assert "Exception ignored" not in done.stderr
    assert "error" not in done.stderr


# ------------------------------------------------------------------------------------------------------------ extras


def test_what_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    message = r'the library datasets is missing; install it with: pip install "transformers_msstsvis\[train\]"'
    with pytest.raises(ModuleNotFoundError, match=message):
        extras.require("datasets")
    with pytest.raises(ModuleNotFoundError, match=message):
        transformers_msstsvis.load_vis_dataset("annotations.json")
    with pytest.raises(ModuleNotFoundError, match=r"accelerate is missing.*\[train\]"):
        train.parse_arguments(["--output_dir", "out"])
    assert transformers_msstsvis.VideoInstances


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["predict.py", "--help"], 0, "usage: transformers-msstsvis predict"),
        (["train.py", "--help"], 0, "usage: transformers-msstsvis train"),
        (["train.py", "--output_dir", "out"], 1, "the library accelerate is missing; install it with: pip install"),
    ],
)
def test_without_the_extras(arguments, status, told, tmp_path):
    script, *flags = arguments
    done = start("-c", WITHOUT_EXTRAS, ROOT / "scripts" / script, *flags, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if script == "predict.py":
        assert done.stdout.endswith("loaded\n")


# ---------------------------------------------------------------------------------------------------- start of process


def test_how_long_threads_spin_is_set_before_they_are_there():
    told = "import os, sys, transformers_msstsvis; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    as_command = f"import sys; sys.argv[0] = sys.orig_argv[1] = '/bin/transformers-msstsvis'; {told}"
    assert start("-c", as_command, env=environment).stdout == "10000 False\n"
    for name, value, count in (("OMP_WAIT_POLICY", "ACTIVE", "None"), ("GOMP_SPINCOUNT", "7", "7")):
        assert start("-c", as_command, env={**environment, name: value}).stdout == f"{count} False\n"
    assert start("-c", told, env=environment).stdout == "None True\n"  # a library leaves the environment alone


@pytest.mark.parametrize(
    ("program", "original", "command"),
    [
        ("/usr/bin/transformers-msstsvis", ["python", "/usr/bin/transformers-msstsvis", "predict"], True),
        ("-m", ["python", "-m", "transformers_msstsvis", "predict"], True),
        ("-m", ["python", "-u", "-m", "transformers_msstsvis.data.validate"], True),
        (str(ROOT / "scripts" / "train.py"), ["python", str(ROOT / "scripts" / "train.py")], True),
        ("-m", ["python", "-m", "pytest"], False),
        ("/elsewhere/scripts/train.py", ["python", "/elsewhere/scripts/train.py"], False),
        # The worker of a command has to find the models registered when it unpickles its task.
        ("/usr/bin/transformers-msstsvis", ["python", "-c", "from multiprocessing.spawn import"], False),
        ("", ["python"], False),
    ],
)
def test_what_starts_a_process(monkeypatch, program, original, command):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "orig_argv", original)
    assert startup.is_command() is command


def test_importing_the_package_registers_and_names_everything():
    code = (
        "import transformers_msstsvis as package, transformers\n"
        "from transformers.pipelines import PIPELINE_REGISTRY as registry\n"
        "assert 'video-instance-segmentation' in registry.supported_tasks\n"
        "assert transformers.AutoConfig.for_model('seqformer').model_type == 'seqformer'\n"
        "assert all(getattr(package, name) for name in package.__all__)\n"
        "assert set(package.__all__) <= set(dir(package))\n"
    )
    done = start("-c", code)
    assert done.returncode == 0, done.stderr
