"""The summary: shows the report as tables."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hasql.cli.report import MovedName, Report

__all__ = ("summary",)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def summary(report: Report) -> RenderableType:
    """Make the tables that are shown at the end of a demo."""
    table = Table(
        title=f"{report.fault}, {report.face}, PostgreSQL {report.postgresql}",
        title_style="bold",
        title_justify="left",
        show_header=False,
        box=box.ROUNDED,
        border_style="dim",
    )
    table.add_column("measure")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("remark", style="dim")
    for rows in (_outage_rows, _operation_rows, _row_rows):
        for name, value, remark, style in rows(report):
            table.add_row(name, Text(value, style), remark)
        table.add_section()
    parts: list[RenderableType] = [table]
    if report.errors:
        parts.append(_errors(report))
    return Group(*parts, _verdict(report))


_Row = tuple[str, str, str, str]


def _moved_rows(moved: MovedName, report: Report) -> list[_Row]:
    new_after = "never" if moved.new_after is None else _milliseconds(moved.new_after)
    return [
        (
            "last write by the old address",
            _milliseconds(moved.old_for),
            f"after {moved.name} had left {moved.left}; its TTL is {moved.ttl} s",
            "bold green",
        ),
        ("first write by the new one", new_after, f"by {moved.to}", ""),
        (
            "longest pause in writes",
            _milliseconds(report.longest_pause_in_writes),
            "since the name moved, and while the nameserver was stopped",
            "bold",
        ),
        ("longest pause in reads", _milliseconds(report.longest_pause_in_reads), "", ""),
    ]


def _outage_rows(report: Report) -> list[_Row]:
    outage = report.outage
    if report.moved is not None:
        return _moved_rows(report.moved, report)
    if outage is None:
        return [
            (
                "longest pause in reads",
                _milliseconds(report.longest_pause_in_reads),
                "time in which no read ended, of all readers",
                "bold",
            ),
            ("slowest read", _milliseconds(report.slowest_read), "", ""),
            ("longest pause in writes", _milliseconds(report.longest_pause_in_writes), "", ""),
        ]
    return [
        (
            "time without writes",
            _milliseconds(outage.without_writes),
            "last acknowledged before to first acknowledged after the fault",
            "bold",
        ),
        (
            "  of it without a master",
            _milliseconds(outage.without_master),
            "from the fault until the new master says it accepts writes",
            "",
        ),
        (
            "  added by hasql",
            _milliseconds(outage.added_by_hasql),
            "from then to the first write acknowledged through the pool",
            "bold green",
        ),
        (
            "longest pause in reads",
            _milliseconds(report.longest_pause_in_reads),
            "the replicas went on serving",
            "",
        ),
    ]


def _operation_rows(report: Report) -> list[_Row]:
    excess = report.most_failures_of_one_task > 1
    remark = "in flight at the fault, or begun before it could be noticed" if report.failed else ""
    if excess:
        remark = f"up to {report.most_failures_of_one_task} of one task: more than in flight"
    return [
        ("operations", f"{report.writes + report.reads:,}", _split(report), ""),
        ("failed operations", f"{report.failed:,}", remark, "red" if excess else ""),
        ("acquires that waited", f"{report.waits:,}", _waiting(report), ""),
    ]


def _waiting(report: Report) -> str:
    if not report.waits and not report.retries:
        return ""
    longest = _milliseconds(report.longest_wait)
    return f"{longest} the longest, and {report.retries:,} tries on another connection or host"


def _split(report: Report) -> str:
    return f"{report.writes:,} writes, {report.reads:,} reads in {report.load_seconds:.1f} s"


def _row_rows(report: Report) -> list[_Row]:
    rows = report.rows
    return [
        ("acknowledged rows", f"{rows.acknowledged:,}", "", ""),
        ("  verified present", f"{rows.present:,}", "looked up on the last master", "green"),
        (
            "  not shipped",
            f"{rows.not_shipped:,}",
            "died with the old master before asynchronous replication had sent them"
            if rows.not_shipped
            else "",
            "yellow" if rows.not_shipped else "",
        ),
        (
            "  lost otherwise",
            f"{rows.lost:,}",
            "acknowledged by the wrong server: must be 0",
            "bold red" if rows.lost else "green",
        ),
    ]


def _errors(report: Report) -> Table:
    table = Table(
        "failed", "times", "error", box=box.ROUNDED, border_style="dim", header_style="bold"
    )
    for each in report.errors:
        table.add_row(each.operation, str(each.count), each.error)
    return table


def _verdict(report: Report) -> Text:
    if not report.ok:
        return Text("Not as it should be: " + "; ".join(report.problems) + ".", "bold red")
    words = "Service came back, and no acknowledged row is missing"
    if report.rows.not_shipped:
        words += " except those that the old master had not shipped"
    return Text(words + ".", "bold green")
