"""The report as tables in Markdown."""

from typing import Any

from .operator_speed import KERNEL
from .system_speed import PRECISIONS

OTHERS = ("PyTorch", "PyTorch, compiled", "transformers", "deformops")


def markdown(report: dict[str, Any]) -> str:
    """One page: checks, operator, inference, training, and what is missing."""
    minutes = report.get("seconds", 0.0) / 60
    parts = [
        f"# On {device_name(report)}",
        f"{report['date']}, {report['machine']}; {minutes:.1f} of {report['minutes']:g} minutes.",
        *_checks(report),
        *_without_kernel(report),
        *_operator(report),
        *_systems(report, "inference", "Inference: frames per second, and peak memory in GB"),
        *_systems(report, "training", "Training step: frames per second, and peak memory in GB"),
        *_missing(report),
    ]
    return "\n\n".join(parts)


def operator_rows(report: dict[str, Any]) -> dict[tuple, dict[str, Any]]:
    """By workload, frames, dtype and pass: `roofline_s` and all sides, those of compiled PyTorch among them."""
    rows: dict[tuple, dict[str, Any]] = {}
    for step in report["steps"]:
        if step["section"] == "operator" and step["status"] == "done":
            key = tuple(step[name] for name in ("workload", "frames", "dtype", "pass"))
            row = rows.setdefault(key, {"roofline_s": step["result"]["roofline_s"], "sides": {}})
            row["sides"] = {**step["result"]["sides"], **row["sides"]}  # the kernel is in both: as it was at first
    return rows


def system_rows(report: dict[str, Any], section: str) -> dict[str, dict[tuple[str, bool], dict[str, Any]]]:
    """By model, and by precision and whether it is compiled, the step."""
    rows: dict[str, dict[tuple[str, bool], dict[str, Any]]] = {}
    for step in report["steps"]:
        if step["section"] == section:
            rows.setdefault(step["model"], {})[step["precision"], step["compiled"]] = step
    return rows


def columns(compiled: bool) -> list[tuple[str, bool]]:
    return [(precision, other) for other in ((False, True) if compiled else (False,)) for precision in PRECISIONS]


def title(precision: str, compiled: bool) -> str:
    return f"{precision}, compiled" if compiled else precision


def device_name(report: dict[str, Any]) -> str:
    described = (step["result"] for step in report["steps"] if step.get("check") == "device" and "result" in step)
    return next(described, {}).get("name") or report["device"]


def _checks(report: dict[str, Any]) -> list[str]:
    rows = [
        [step["check"], step["status"], _seconds(step), step.get("message") or _told(step.get("result"))]
        for step in report["steps"]
        if step["section"] == "checks"
    ]
    return _section("Checks", ["check", "", "seconds", ""], rows)


def _without_kernel(report: dict[str, Any]) -> list[str]:
    after = report.get("without_kernel_after")
    return [f"As it failed ({after}), all that follows is measured without the kernel."] if after else []


def _operator(report: dict[str, Any]) -> list[str]:
    rows = []
    for key, row in operator_rows(report).items():
        kernel = row["sides"].get(KERNEL, {})
        told = ["", ""]
        if "seconds" in kernel:
            median = kernel["seconds"]["median"]
            told = [f"{1e6 * median:.4g}", f"{100 * row['roofline_s'] / median:.0f}%"]
        rows.append([*map(str, key), *told, *(_side(row["sides"].get(other)) for other in OTHERS)])
    heads = ["workload", "frames", "value", "pass", "kernel, µs", "of the roofline", *OTHERS]
    note = (
        "Times as long as the kernel takes. The roofline is a copy of as many bytes as inputs and outputs have; what "
        "fits into the caches can be faster."
    )
    return _section("Operator", heads, rows, note)


def _systems(report: dict[str, Any], section: str, head: str) -> list[str]:
    models = system_rows(report, section)
    shown = columns(any(compiled for row in models.values() for _, compiled in row))
    rows = [[name, *(_speed(row.get(column)) for column in shown)] for name, row in models.items()]
    return _section(head, ["model", *(title(*column) for column in shown)], rows)


def _missing(report: dict[str, Any]) -> list[str]:
    lines = []
    for step in report["steps"]:
        if step["status"] != "done":
            lines.append(f"- {step['name']}: {step['status']}" + (f", {step['message']}" if "message" in step else ""))
        elif step["section"] == "operator":
            for side, row in step["result"]["sides"].items():
                lines += [f"- {step['name']}, {side}: {row['failed']}"] if "failed" in row else []
    return ["## What is missing", "\n".join(lines)] if lines else []


def _section(head: str, names: list[str], rows: list[list[str]], note: str = "") -> list[str]:
    if not rows:
        return []
    lines = [names, ["---"] * len(names), *rows]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return [f"## {head}", *([note] if note else []), table]


def _side(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "ratio" in row:
        return f"{row['ratio']['median']:.2f}"
    if "seconds" in row:  # there is no kernel beside it
        return f"{1e6 * row['seconds']['median']:.4g} µs"
    return next(status for status in ("absent", "failed") if status in row)


def _speed(step: dict[str, Any] | None) -> str:
    if step is None:
        return ""
    if step["status"] != "done":
        return step["status"]
    result = step["result"]
    peak = result["peak_bytes"]
    return f"{result['frames_per_s']:.4g}" + ("" if peak is None else f" ({peak / 1e9:.2f})")


def _seconds(step: dict[str, Any]) -> str:
    return f"{step['seconds']:.1f}" if "seconds" in step else ""


def _told(result: dict[str, Any] | None) -> str:
    told = {key: f"{value:.2g}" if isinstance(value, float) else value for key, value in (result or {}).items()}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items())
