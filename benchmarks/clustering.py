"""Speed, memory and quality of torch_clustering beside scikit-learn and faiss, on one thread of a CPU.

    python benchmarks/clustering.py --help
    python benchmarks/clustering.py --only pass,gmm --json results.json

Values are CPU times of the process (unless a unit says otherwise), medians of repeats that take turns with the peers in
one process after a warm-up. All is run twice: with OpenBLAS as installed, and with OPENBLAS_CORETYPE=SKYLAKEX, which on
an AVX-512 CPU gives NumPy, SciPy, scikit-learn and faiss the kernels that their wheels do not choose by themselves.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
CASES = ("pass", "fit", "restarts", "seeding", "gmm", "memory", "quality", "estep")
UNTUNED = {"memory", "quality", "estep"}  # what the peers' BLAS does not change, or has no peer


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": f"{options.library}{os.pathsep}{ROOT}"}
    environment.pop("OPENBLAS_CORETYPE", None)
    if options.section == "tuned":
        environment["OPENBLAS_CORETYPE"] = "SKYLAKEX"
    if environment != dict(os.environ):  # libraries read these when they are loaded: start again
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, str(Path(__file__).resolve()), *arguments], environment)
    report = measure(options)
    if options.section == "both" and tunable(options.only, report):
        report["sections"]["tuned"] = tuned_section(options)
    finish(report, options)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), metavar="CASE[,CASE]", help="of " + ", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="sizes / 10 and few repeats: ratios without a verdict")
    parser.add_argument("--repeats", type=int, metavar="N", help="repeats of each case instead of its own number")
    parser.add_argument("--section", choices=("both", "default", "tuned"), default="both", help="which OpenBLAS")
    parser.add_argument(
        "--library", type=Path, default=ROOT, metavar="DIR", help="folder with another torch_clustering"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    options = parser.parse_args(arguments)
    options.library = options.library.resolve()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(CASES):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The report of one section, printed as it grows."""
    import torch

    import torch_clustering
    from benchmarks import clustering_cases, clustering_measure, clustering_processes
    from benchmarks.clustering_bars import as_record, measurement_table

    if options.library not in Path(torch_clustering.__file__).parents:
        sys.exit(f"--library {options.library}: no torch_clustering there")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # runs that end after a few passes have not converged: they are meant to
    cases = {
        "pass": clustering_cases.passes,
        "fit": clustering_cases.fits,
        "restarts": clustering_cases.restarts,
        "seeding": clustering_cases.seeding,
        "gmm": clustering_cases.mixtures,
        "memory": clustering_processes.memory,
        "quality": clustering_cases.quality,
        "estep": clustering_processes.e_step,
    }
    section = "tuned" if options.section == "tuned" else "default"
    gemm = clustering_measure.gemm_speeds(1 if options.quick else 5)
    run = clustering_measure.Run(options.quick, options.repeats, max(gemm.values()))
    measurements = []
    print(f"\n== OpenBLAS {section}; best GEMM {run.best_gflops:.0f} GFLOP/s of {gemm}", flush=True)
    for name in options.only:
        if section == "tuned" and name in UNTUNED:
            continue
        for measurement in cases[name](run):
            measurements.append(as_record(measurement))
            print(measurement_table([measurement]), flush=True)
    return {
        "date": clustering_measure.now(),
        "commit": clustering_measure.commit(options.library),
        "library": str(options.library),
        "quick": options.quick,
        "machine": clustering_measure.machine(),
        "versions": clustering_measure.versions(),
        "sections": {section: {"gemm": gemm, "blas": clustering_measure.blas(), "measurements": measurements}},
    }


def tunable(only: list[str], report: dict[str, Any]) -> bool:
    """Whether the tuned section has anything to measure on this CPU."""
    if not report["machine"].get("avx512"):
        print("\nno AVX-512 here: there is nothing to tune")
        return False
    return bool(set(only) - UNTUNED)


def tuned_section(options: argparse.Namespace) -> Any:
    """The tuned section, measured by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tuned.json"
        command = [
            sys.executable,
            __file__,
            "--section",
            "tuned",
            "--json",
            str(file),
            "--only",
            ",".join(options.only),
        ]
        command += ["--library", str(options.library)]
        command += ["--quick"] if options.quick else []
        command += ["--repeats", str(options.repeats)] if options.repeats else []
        subprocess.run(command, check=True)
        return json.loads(file.read_text())["sections"]["tuned"]


def finish(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Print ratios beside bars and the machine; write the JSON file."""
    from benchmarks.clustering_bars import bar_table, from_record, judged

    sections = {
        name: [from_record(record) for record in section["measurements"]]
        for name, section in report["sections"].items()
    }
    report["bars"] = judged(sections, full_size=not options.quick)
    if options.section == "both":
        print(f"\n{bar_table(report['bars'])}\n")
        print("\n".join(f"{name}: {report[name]}" for name in ("machine", "versions", "commit", "date")))
        print("\n".join(f"BLAS {name}: {section['blas']}" for name, section in report["sections"].items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
