"""Runs judged one after the other; those of the same settings but seeds share a table of mean and spread."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from evaluation.transfer import Question, answer, ask
from training.build import start
from training.run_dir import find_run
from training.settings import MAY_CHANGE
from utils import distributed
from utils.config import diff_keys
from utils.errors import UserError
from utils.files import write_json


def evaluate_runs(words: list[str], data: str | None) -> list[dict[str, Any]]:
    """What `main.py evaluate` does. Collective: the results are equal on all ranks.

    words: folders of runs and `section.key=value`; data: as in `transfer.ask`. Where two runs or more differ in their
    seeds alone, mean and spread of their scores are printed and written beside the first of them:
    evaluation-NAME-and-N-more.json.

    Raises:
        UserError: no run there, or what `transfer.ask` refuses: before any run is judged.
    """
    paths = list(dict.fromkeys(Path(word) for word in words if "=" not in word or Path(word).is_dir()))
    changes = [word for word in words if Path(word) not in paths]
    if not paths:
        raise UserError("evaluate", "no run given", "for instance main.py evaluate runs/NAME")
    directories = [find_run(path) for path in paths]
    questions = [ask(directory, data, changes) for directory in directories]
    device = start(questions[0].own.run)
    results = []
    for directory, question in zip(directories, questions, strict=True):
        if len(paths) > 1 and distributed.is_main():
            print(f"\n{directory.path}", flush=True)
        results.append(answer(directory, question, device))
    for group in same_but_seeds(questions):
        _report([paths[place] for place in group], [results[place] for place in group])
    return results


def same_but_seeds(questions: list[Question]) -> list[list[int]]:
    """The places of two runs or more whose settings differ in nothing but seed, name and where things lie."""
    groups: list[list[int]] = []
    for place, question in enumerate(questions):
        for group in groups:
            first = questions[group[0]].own.to_values()
            if all(key.startswith(("run.", *MAY_CHANGE)) for key in diff_keys(first, question.own.to_values())):
                group.append(place)
                break
        else:
            groups.append([place])
    return [group for group in groups if len(group) > 1]


def spread(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each score that all results have: its mean over runs, and the standard deviation of a run (n - 1)."""
    numbers = [numbers_of(result) for result in results]
    common = [name for name in numbers[0] if all(name in other for other in numbers)]
    values = {name: [each[name] for each in numbers] for name in common}
    return {name: {"mean": mean(each), "deviation": stdev(each)} for name, each in values.items()}


def numbers_of(result: dict[str, Any]) -> dict[str, float]:
    """The scores in an evaluation.json by name, in the order of its table."""
    found: dict[str, float] = {}
    others = [result[other] for other in ("embedding", "assigned") if result.get(other)]
    found |= {f"clusters: {key}": value for key, value in (result["scores"] or {}).items()}
    for row in [*others, *result["baselines"]]:
        found |= {f"{row['name']}, {row['features']}: {key}": value for key, value in (row["scores"] or {}).items()}
    for name in ("knn", "linear"):
        if result.get(name):
            found[f"{name}: accuracy"] = result[name]["accuracy"]
    scored = (result.get("retrieval") or {}).items()
    return found | {f"retrieval: {name}": value for name, value in scored if isinstance(value, float)}


def _report(paths: list[Path], results: list[dict[str, Any]]) -> None:
    """Print and write what several seeds give. Rank 0 does."""
    if not distributed.is_main():
        return
    first, table = results[0], spread(results)
    seeds = [result["seed"] for result in results]
    print(f"\n{len(paths)} runs of {first['method']} that differ in their seeds alone ({', '.join(map(str, seeds))})")
    print(f"{first['data']}: {first['protocol']}; K = {first['n_clusters']}; mean, standard deviation of a run (n - 1)")
    width = max(map(len, table), default=0)
    for name, row in table.items():
        print(f"{name:{width}}  {row['mean']:.4f} ± {row['deviation']:.4f}")
    path = paths[0].resolve().with_name(f"evaluation-{paths[0].resolve().name}-and-{len(paths) - 1}-more.json")
    write_json(path, {"runs": paths, "seeds": seeds, "spread": table, "results": results})
    print(f"wrote {path}", flush=True)
