"""Panels, rows and dashboards as data, and their Grafana JSON.

The JSON is built with Grafana's own SDK, which is generated from Grafana's schemas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

TAG = "llamatelemetry"
DATA_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TRACES = (
    '/explore?left={"datasource":"tempo","queries":[{"refId":"A","queryType":"traceql",'
    '"query":"{resource.service.name=~\\"${service:pipe}\\"}"}],'
    '"range":{"from":"${__from}","to":"${__to}"}}'
)
"""Explore of the trace store, with the traces of the selected services and time range."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's name of the unit.
        warning, critical: Thresholds, in `unit`, from which a value is shown yellow and red.
        is_stat: Whether the panel shows one number, as the first row of a dashboard does.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    warning: float | None = None
    critical: float | None = None
    maximum: float | None = None
    is_stat: bool = False

    def build(self) -> Any:
        """Return the builder of the panel."""
        panel: Any = stat.Panel() if self.is_stat else timeseries.Panel()
        panel.title(self.title).description(self.description).unit(self.unit)
        panel.datasource(DATA_SOURCE).thresholds(self._thresholds()).min(0)
        if self.maximum is not None:
            panel.max(self.maximum)
        for number, query in enumerate(self.queries):
            target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
            panel.with_target(target.ref_id(chr(ord("A") + number)).range().exemplar(True))
        if self.is_stat:
            return panel.height(4).span(4).graph_mode(BigValueGraphMode.AREA)
        if self.warning is not None:
            style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
            panel.thresholds_style(style)
        panel.legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        return panel.fill_opacity(8).height(9).span(8)

    def _thresholds(self) -> dashboard.ThresholdsConfig:
        steps = [Threshold(value=None, color="green")]
        for value, color in ((self.warning, "yellow"), (self.critical, "red")):
            if value is not None:
                steps.append(Threshold(value=value, color=color))
        return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


@dataclass(frozen=True)
class Variable:
    """A variable that filters by the values of a label, with the entry All."""

    name: str
    label: str
    query: str

    def build(self) -> dashboard.QueryVariable:
        """Return the builder of the variable."""
        variable = dashboard.QueryVariable(self.name).label(self.label).query(self.query)
        variable.datasource(DATA_SOURCE).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        variable.sort(VariableSort.ALPHABETICAL_ASC).include_all(True).all_value(".*")
        return variable.multi(True)


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: panels by row. `uid` is part of its address, so it must not change."""

    uid: str
    title: str
    description: str
    rows: dict[str, Sequence[Panel]]
    variables: Sequence[Variable] = field(default_factory=tuple)

    def build(self) -> Any:
        """Return the model of the dashboard, ready for JSON."""
        board = dashboard.Dashboard(self.title).uid(self.uid).description(self.description)
        board.tags([TAG]).time("now-1h", "now").refresh("30s").timezone("browser")
        board.tooltip(DashboardCursorSync.CROSSHAIR).readonly()
        board.with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        for variable in self.variables:
            board.with_variable(variable.build())
        links = dashboard.DashboardLink("llamatelemetry").type(DashboardLinkType.DASHBOARDS)
        board.link(links.tags([TAG]).as_dropdown(True).include_vars(True).keep_time(True))
        if any(variable.name == "service" for variable in self.variables):
            traces = dashboard.DashboardLink("Traces").type(DashboardLinkType.LINK).url(TRACES)
            board.link(traces.keep_time(True).target_blank(True))
        for title, panels in self.rows.items():
            board.with_row(dashboard.Row(title))
            for panel in panels:
                board.with_panel(panel.build())
        return board.build()
