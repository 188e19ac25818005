"""Pictures and tables of a plan, for runtime/planning and 20."""

import plotly.graph_objects as go

from stal_nb.app.drawing import LAYOUT
from stal_nb.app.run_view import duration

PART_COLOURS = {"weights": "#1f4e79", "gradients": "#2e75b6", "momentum": "#9dc3e6", "teacher": "#70ad47",
                "memory bank": "#bf9000", "activations": "#c55a11"}


def memory_figure(
    plans: dict,  # name -> bytes by part, of `memory_plan`
    title: str,
) -> go.Figure:
    "Memory of each device by what it is for, one bar a plan."
    names = [str(name) if not isinstance(name, int) else f"{name} GPU{'s' if name > 1 else ''}" for name in plans]
    figure = go.Figure()
    for part, colour in PART_COLOURS.items():
        sizes = [plan[part] / 1e9 for plan in plans.values()]
        figure.add_bar(y=names, x=sizes, name=part, orientation="h", marker_color=colour,
                       hovertemplate=f"{part}: %{{x:.2f}} GB<extra>%{{y}}</extra>")
    totals = [plan["all"] / 1e9 for plan in plans.values()]
    figure.add_scatter(x=totals, y=names, mode="text", text=[f" {t:.1f} GB" for t in totals],
                       textposition="middle right", showlegend=False, hoverinfo="skip")
    figure.update_layout(**{**LAYOUT, "height": 130 + 50 * len(plans)}, title=title, barmode="stack",
                         xaxis_title="GB on each device", legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 1.15 * max(totals)])
    return figure


def plan_table(
    plan: dict,  # of `Run.plan`
):  # pandas.DataFrame
    "The stages of a plan: labels, steps, epochs and time of each, and of all."
    import pandas as pd

    rows = [{"stage": stage["stage"], "labelled images": f"{stage['labelled']:,}", "steps": f"{stage['steps']:,}",
             "epochs": f"{stage['epochs']:.1f}",
             "time": f"about {duration(stage['seconds'])}"} for stage in plan["stages"]]
    steps = sum(stage["steps"] for stage in plan["stages"])
    rows.append({"stage": "all", "labelled images": "", "steps": f"{steps:,}", "epochs": "",
                 "time": f"about {duration(plan['seconds'])}"})
    return pd.DataFrame(rows).set_index("stage")


def byte_count(count: float) -> str:
    "Bytes with a unit: 1.5 GB."
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:,.3g} TB"
