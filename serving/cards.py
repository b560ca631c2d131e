"""Model card and technical file (EU AI Act, Annex IV) of a promotion, made from its record alone.

What a pipeline cannot know is a marked blank, never a guess.
"""

from __future__ import annotations

from typing import get_args

from pipeline.columns import ColumnKind
from pipeline.gate_rules import LOWER_IS_BETTER
from pipeline.record import PromotionRecord
from pipeline.refs import NO_SKILL, Verdict
from serving.changes import changes, metrics
from serving.markdown import escape, page, templates

MOST = 200  # rows of a table
SHORT = 500  # letters of the description in a short card
CARD, FILE = "model_card", "technical_file"


def cards(record: PromotionRecord, before: PromotionRecord | None) -> dict[str, str]:
    """Name -> content of every file: both documents as Markdown and HTML, and their plots.

    `before` is the record of the version that served until then, for what has changed.
    """
    from serving.gate_plots import plots  # noqa: PLC0415 (matplotlib, which only this needs)

    figures = plots(record.gates) if record.gates else {}
    figures = {f"plots/{name}.svg": drawing for name, drawing in figures.items()}
    winner = record.evaluation.winner if record.evaluation else None
    schema = record.dataset.row_schema if record.dataset else None
    sizes = (
        (("numeric", schema.numeric), ("categorical", schema.categorical), ("timestamp", schema.timestamp))
        if schema
        else ()
    )
    kinds = tuple((kind, names) for kind in get_args(ColumnKind) if schema and (names := schema.names(kind)))
    environment = templates()
    files = dict(figures)
    for name, title in ((CARD, "Model card"), (FILE, "Technical file")):
        text = environment.get_template(f"{name}.md.j2").render(
            record=record,
            spec=record.spec,
            fitted=next((one for one in record.models if one.candidate == winner), None),
            graph=next((one for one in record.onnx if one.candidate == winner), None),
            lower=record.spec is not None and record.spec.primary in LOWER_IS_BETTER,
            metrics=_served(record) or metrics(record),
            approval=_approval(record),
            kinds=kinds,
            tensors=tuple((one, len(names)) for one, names in sizes if names),
            before=before,
            changed=changes(before, record) if before else (),
            figures=figures,
            most=MOST,
        )
        text = _tidy(text)
        files |= {
            f"{name}.md": text,
            f"{name}.html": page(f"{title}: {record.model} version {record.version}", text, figures),
        }
    return files


def short(record: PromotionRecord) -> str:
    """The card in a few lines of Markdown, for where versions are listed."""
    spec, gates = record.spec, record.gates
    lines = [escape(spec.description[:SHORT])] if spec and spec.description else []
    if spec and (value := (_served(record) or metrics(record)).get(spec.primary)) is not None:
        lines.append(f"**{escape(spec.primary)}** {escape(value)} on held-out rows")
    if gates:
        lines.append("**gates** " + ", ".join(f"{escape(one.gate)} {one.shown}" for one in gates.verdicts))
    if record.dataset:
        lines.append(f"**rows** {record.dataset.rows:,} of {escape(record.dataset.source)}")
    if approval := _approval(record):
        lines.append(f"**approved** by {escape(approval)}")
    if record.kind == "refusal":
        lines.append("**refused** " + escape("; ".join(record.reasons)))
    more = "" if record.kind == "refusal" else "; model card and technical file: `record/` of the run's artifacts"
    lines.append(f"**record** `{record.key}`{more}")
    return "\n\n".join(lines)


def _served(record: PromotionRecord) -> dict[str, str]:
    """Metrics of what the server answered, by gate quality."""
    found: tuple[Verdict, ...] = record.gates.verdicts if record.gates else ()
    numbers = {name: value for one in found if one.gate == "quality" for name, value in one.numbers.items()}
    return {name: f"{value:.6g}" for name, value in numbers.items() if name != NO_SKILL}


def _approval(record: PromotionRecord) -> str:
    said = record.approval
    if said is None:
        return ""
    when = f" on {record.times.approved_at}" if record.times.approved_at else ""
    return f"{said.by}{when}, by {said.via}" + (f": {said.note}" if said.note else "")


def _tidy(text: str) -> str:
    """Without the empty lines that templates leave."""
    kept: list[str] = []
    for line in text.strip().splitlines():
        if line.strip() or (kept and kept[-1]):
            kept.append(line.rstrip())
    return "\n".join(kept) + "\n"
