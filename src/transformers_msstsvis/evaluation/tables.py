"""Names of the official numbers, and tables of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
OVERALL = ("AP", "AP50", "AP75", "AR1", "AR10")
OF_A_CATEGORY = ("AP", "AP50", "AP75")
OF_TRACKING = ("HOTA", "DetA", "AssA", "IDF1")


def format_table(numbers: dict[str, Any], names: dict[Any, str]) -> str:
    """The official numbers and AP by category as text, in percent; `-` where there is no ground truth."""
    overall = _overall(numbers)
    lines = [
        " ".join(f"{key:>6}" for key in overall),
        " ".join(f"{percent(value):>6}" for value in overall.values()),
        "",
    ]
    per_category = numbers.get("per_category", {})
    width = max((len(names[category]) for category in per_category), default=8)
    width = max(width, len("category"))
    if per_category:
        lines.append(" ".join([f"{'category':<{width}}", *(f"{key:>6}" for key in OF_A_CATEGORY)]))
    for category, values in per_category.items():
        columns = " ".join(f"{percent(values[key]):>6}" for key in OF_A_CATEGORY)
        lines.append(f"{names[category]:<{width}} {columns}")
    if "tracking" in numbers:
        rows = _tracking_rows(numbers["tracking"], names)
        width = max(len(row[0]) for row in rows)
        lines += ["", *(f"{row[0]:<{width}} " + " ".join(f"{value:>8}" for value in row[1:]) for row in rows)]
    return "\n".join(lines)


def rich_tables(numbers: dict[str, Any], names: dict[Any, str]) -> list["Table"]:
    """As [`format_table`], for the terminal: tables of `rich`, for precision, recall, categories and tracking."""
    from rich.table import Table

    tables = []
    for kind in ("AP", "AR"):
        overall = {key: value for key, value in _overall(numbers).items() if key.startswith(kind)}
        if overall:
            table = Table(*overall)
            table.add_row(*map(percent, overall.values()))
            tables.append(table)
    if numbers.get("per_category"):
        table = Table("category", *OVERALL)
        for column in table.columns[1:]:
            column.justify = "right"
        for category, values in numbers["per_category"].items():
            table.add_row(names[category], *(percent(values[key]) for key in OVERALL))
        tables.append(table)
    if "tracking" in numbers:
        head, *rows = _tracking_rows(numbers["tracking"], names)
        table = Table(*head)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def _tracking_rows(tracking: dict[str, Any], names: dict[Any, str]) -> list[list[str]]:
    """Head and rows: over all categories, and of each."""
    rows = [(f"score >= {tracking['threshold']:g}", tracking)]
    rows += [(names[category], numbers) for category, numbers in tracking["per_category"].items()]
    values = [[name, *(percent(of[key]) for key in OF_TRACKING), str(of["id_switches"])] for name, of in rows]
    return [["tracking", *OF_TRACKING, "switches"], *values]


def _overall(numbers: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in numbers.items() if isinstance(value, float)}


def percent(value: float) -> str:
    """`0.4567` as `45.7`, and `-` for -1, which stands for no ground truth."""
    return f"{100 * value:.1f}" if value >= 0 else "-"
