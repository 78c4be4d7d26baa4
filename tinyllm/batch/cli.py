"""The command `tinyllm`: run studies and grids of studies from a terminal, in any folder."""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from tinyllm import paths, runs
from tinyllm.batch import grid as grids
from tinyllm.batch import kubernetes as pods
from tinyllm.batch import plan as costs
from tinyllm.batch import status as progress
from tinyllm.batch.grid import Grid
from tinyllm.evaluation import results as evaluation
from tinyllm.params import STAGES, Params

PROFILES = paths.ROOT / "profiles"
EXIT = "Exit status: 0 success; 1 a failed job, another active run, or results that are missing or "
EXIT += "stale; 2 bad input; 130 Ctrl-C."


def run(args: argparse.Namespace) -> int:
    """Run the unfinished notebooks of GRID, then print its results.

    Options for snakemake may follow after --, for example: tinyllm run GRID -- --cores 1
    """
    grid = grids.load(args.grid)
    costs.check(grid)
    for job in grid.jobs:
        costs.resources(job)  # raises an error for a model of unknown size before anything runs
    name = os.path.abspath(args.grid) if os.path.isfile(args.grid) else args.grid
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--profile", str(PROFILES / args.profile), "--keep-going", "--rerun-incomplete"]
    # Manifests replace other triggers, and `locked` snakemake's lock, which outlives a killed run.
    command += ["--rerun-triggers", "mtime", "--nolock"]
    command += ["--dry-run"] if args.dry_run else []
    with locked(grid) as locks:
        for job in grid.jobs:
            job.write()  # only with the lock: another run of the study may be reading these files
        # Snakemake only compares dates, so jobs that are missing or stale by manifests are forced.
        again = [str(job.done) for job in progress.Status(grid).unfinished if job.done.exists()]
        for flag in {"-R", "--forcerun"}.intersection(args.options):  # the last flag counts
            place = args.options.index(flag) + 1
            args.options[place:place] = again
        command += ["--forcerun", *again] if again else []
        # A list, since snakemake changes a plain text; without \u, which it does not decode.
        command += ["--config", f"grid={json.dumps([name], ensure_ascii=False)}"]
        gpu = args.profile != "local" or any(map(shutil.which, ("nvidia-smi", "rocm-smi")))
        env = os.environ if gpu else {"TINYLLM_DEVICE": "cpu"} | os.environ  # ask for no GPU
        if os.environ.get("TINYLLM_DEVICE") == "cpu":
            env = {**env, "CUDA_VISIBLE_DEVICES": ""}  # and use none
        # The child holds the locks, too: it goes on if this process is killed.
        code = subprocess.call([*command, *args.options], env=env, pass_fds=locks)
    if code and not args.dry_run:
        print("", *progress.failures(grid), sep="\n")
    return int(code != 0) if code or args.dry_run or args.options else results(args)


@contextmanager
def locked(grid: Grid) -> Iterator[list[int]]:
    """Hold the locks of a grid's studies; raises RuntimeError if another run holds one.

    Yields their file descriptors. A lock is held until all processes that have it end.
    """
    with ExitStack() as stack:
        locks = []
        for folder in sorted({paths.notebooks(params) for params in grid.studies}):
            folder.mkdir(parents=True, exist_ok=True)
            locks.append(stack.enter_context(open(folder / "run.lock", "w")).fileno())
            try:
                fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy = paths.shown(folder.parent)
                raise RuntimeError(f"{busy}: another `tinyllm run` is active; wait") from None
        yield locks


def plan(args: argparse.Namespace) -> int:
    """Estimate tokens, FLOPs and hours of GRID before running it."""
    grid = grids.load(args.grid)
    costs.check(grid)
    print(costs.report(grid, args.device))
    return 0


def status(args: argparse.Namespace) -> int:
    """Show what is done, failed (and why), stale (and what differs), missing or stored in GRID."""
    print(progress.Status(grids.load(args.grid)).report())
    return 0


def results(args: argparse.Namespace) -> int:
    """Print the stored accuracies of GRID, chance, majority and differences from fine-tuning."""
    from tinyllm.evaluation import summary  # here, because scipy and statsmodels take a second

    now, code = progress.Status(grids.load(args.grid)), 0
    for params in now.grid.studies:
        print(f"\n{params.study}, {params.dataset}, student {params.student}, test:")
        try:
            if stale := now.stale(params):
                raise runs.StaleRun("\n".join(stale))
            print(summary.table(summary.rows_of(params)).to_string(index=False))
            for line in evaluation.baselines(params.study, params.dataset).to_dict("records"):
                if line["split"] == "test":
                    print("chance {chance:.1%}, majority {majority:.1%}".format(**line))
        except (FileNotFoundError, runs.StaleRun) as problem:
            print(problem)
            code = 1
    return code


def store(args: argparse.Namespace, copy: Callable = evaluation.store) -> int:
    """Copy finished students of GRID from runs/ to results/."""
    for params in grids.load(args.grid).studies:
        print(f"{params.study}/{params.dataset}, {params.student}: {len(copy(params))} students")
    return 0


def restore(args: argparse.Namespace) -> int:
    """Copy stored students of GRID from results/ to runs/, unless runs/ has them."""
    return store(args, evaluation.restore)


def figures(args: argparse.Namespace) -> int:
    """Redraw the figures of notebooks 04 and 05 from stored results, without any model."""
    folder = paths.runs() / "figures"
    folder.mkdir(parents=True, exist_ok=True)

    def papermill(study: str, spec: str = "{}") -> subprocess.Popen[bytes]:
        notebook = "04_evaluation" if study else "05_paper_figures"
        command = [sys.executable, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar"]
        command += ["-y", spec, str(paths.ROOT / f"notebooks/{notebook}.ipynb")]
        target = f"{notebook}_{study}.ipynb" if study else f"{notebook}.ipynb"
        return subprocess.Popen([*command, str(folder / target)])

    # One file of a study is enough: notebook 04 shows all its stored datasets.
    files = {"micro": "micro", "laptop": "laptop/obqa", "laptop-whole": "laptop/obqa"}
    specs = {}
    for study, file in files.items():
        if not evaluation.stored(study).empty:
            params = Params.from_yaml(grids.FOLDER / f"{file}.yaml", study=study)
            specs[study] = yaml.safe_dump(params.spec(*STAGES["evaluation"].split()))
    jobs = {study: papermill(study, spec) for study, spec in specs.items()}
    again = [study for study, job in jobs.items() if job.wait()]  # two may have chosen one port
    failed = [study for study in again if papermill(study, specs[study]).wait()]
    # Notebook 05 comes last, since it lists the figures of all.
    if failed or papermill("").wait():
        name = f"04 of {', '.join(failed)}" if failed else "05"
        raise RuntimeError(f"notebook {name} failed: see {folder}")
    print(f"figures: {paths.shown(paths.figures())}; notebooks: {paths.shown(folder)}")
    return 0


def kubernetes(args: argparse.Namespace) -> int:
    """Submit a script as a Job, show a Job's status or cancel Jobs (for profiles/kubernetes)."""
    if args.action == "cancel":
        pods.cancel(args.names)
    elif args.action == "status":
        print(pods.status(args.names[0]))
    else:
        print(pods.submit(Path(args.names[0]), **{n: getattr(args, n) for n in pods.LIMITS}))
    return 0


COMMANDS = (run, plan, status, results, store, restore, figures, kubernetes)


def parser() -> argparse.ArgumentParser:
    """The command line, with one subcommand per function in COMMANDS."""
    whole = argparse.ArgumentParser(prog="tinyllm", description=__doc__, epilog=EXIT)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = {}
    for function in COMMANDS:
        name, text = function.__name__, function.__doc__
        command = commands.add_parser(name, help=text.split("\n")[0], description=text, epilog=EXIT)
        command.set_defaults(function=function)
        add[name] = command.add_argument
        if "GRID" in text:
            add[name]("grid", metavar="GRID", help="parameter file, grid file or name of a grid")
    for name in ("run", "plan"):
        text = "number of parameters of a model of unknown size, for example my/model=3e9"
        add[name]("--parameters", action="append", metavar="MODEL=NUMBER", help=text)
    profiles = sorted(os.listdir(PROFILES))
    add["run"]("--profile", choices=profiles, default="local", help="where to run jobs")
    add["run"]("--dry-run", action="store_true", help="list the jobs that would run")
    add["plan"]("--device", choices=costs.DEVICES, help="default: by student size")
    add["kubernetes"]("action", choices=["submit", "status", "cancel"])
    for name in pods.LIMITS:
        text = f"limit of a new Job{' in MB' if name == 'mem' else ''}, default 1"
        add["kubernetes"](f"--{name}", type=int, default=1, help=text)
    add["kubernetes"]("names", nargs="+", metavar="NAME", help="script to submit, or Jobs")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    args = parser().parse_args(words[:end])
    args.options = words[end + 1 :]
    if getattr(args, "parameters", None):
        os.environ["TINYLLM_PARAMETERS"] = " ".join(args.parameters)
    try:
        return args.function(args)
    except (ValueError, OSError, runs.StaleRun, RuntimeError) as problem:
        print(f"tinyllm: {problem}", file=sys.stderr)
        # A failure (a lock, kubectl) or stale results, or else bad input.
        return 1 if isinstance(problem, RuntimeError | runs.StaleRun) else 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
