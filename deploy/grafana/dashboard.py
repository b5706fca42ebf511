#!/usr/bin/env python3
"""Prints dashboard.json, made with Grafana's own SDK (its version is pinned in .ci/tools.txt).

    "$(.ci/tools)/python" deploy/grafana/dashboard.py > deploy/grafana/dashboard.json
"""

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
OK = 'reason=~"accepted|quarantined|duplicate|filtered|empty"'
FAILURES = "overloaded|draining|broker_unavailable|broker_timeout|broker_refused|store_unavailable|internal"
LATER = f'reason=~"{FAILURES}"'
SOURCES = 'source!="none"'
NATIVE = (
    " Works with classic buckets and with native histograms with custom buckets"
    " (convert_classic_histograms_to_nhcb): the second half of each query is for those."
)


def select(metric, *labels):
    """A selector of one of the bridge's metrics, or of a metric of its process."""
    name = metric if metric.startswith("process_") else f"attio_bridge_{metric}"
    labels = ", ".join(('job=~"$job"', 'instance=~"$instance"', *labels))
    return f"{name}{{{labels}}}"


def rate(metric, *labels, by):
    return f"sum by ({by}) (rate({select(metric, *labels)}[$__rate_interval]))"


def gained(metric, *labels):
    return f"sum(increase({select(metric, *labels)}[$__range]))"


def quantile(q, metric):
    classic = f"sum by (le) (rate({select(metric + '_bucket')}[$__rate_interval]))"
    native = f"sum(rate({select(metric)}[$__rate_interval]))"
    return f"histogram_quantile({q}, {classic}) or histogram_quantile({q}, {native})"


def latency(metric):
    return [(quantile(q, metric), f"p{q * 100:g}") for q in (0.5, 0.99)]


def query(expr, legend, instant=False, ref="A"):
    made = prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).ref_id(ref)
    return made.instant() if instant else made.range()


def thresholds(*steps):
    built = [Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(built)


def number(title, expr, description, unit="locale", good=None, bad=None, width=4, texts=None, legend=""):
    """One number. `good`: any other value is red. `bad`: this value and more are red. `texts`: shown for 0 and 1.

    The unit locale shows every digit of a count. increase() extrapolates to the edges of the time range, so counts in
    it are rounded.
    """
    steps = [(None, "blue")]
    if good is not None:
        steps = [(None, "red"), (good, "green"), (good + 0.001, "red")]
    if bad is not None:
        steps = [(None, "green"), (bad, "red")]
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit)
    panel = panel.thresholds(thresholds(*steps)).reduce_options(reduce).no_value("no data")
    if unit == "locale":
        panel = panel.decimals(0)
    if texts:
        panel = panel.mappings([ValueMap({str(n): ValueMappingResult(text=text) for n, text in enumerate(texts)})])
    if legend:
        panel = panel.text_mode(kinds.BigValueTextMode.VALUE_AND_NAME)
    panel = panel.graph_mode(kinds.BigValueGraphMode.NONE).with_target(query(expr, legend, instant=True))
    return panel.height(4).span(width)


def graph(title, queries, description, unit="short", stacked=False, width=8, colors=None, many=False):
    """Lines. `colors`: of the names that match a pattern. `many`: names get a column of their own."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(kinds.LegendDisplayMode.LIST)
    legend = legend.placement(kinds.LegendPlacement.RIGHT if many else kinds.LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI)
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit)
    panel = panel.legend(legend).tooltip(tooltip).min(0).height(8).span(width).line_width(1)
    if stacked:
        panel = panel.fill_opacity(30).stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    for names, color in (colors or {}).items():
        fixed = DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})
        panel = panel.override_by_regexp(f"/^({names})$/", [fixed])
    for ref, (expr, name) in zip("ABCD", queries):
        panel = panel.with_target(query(expr, name, ref=ref))
    return panel


PER_INSTANCE = "job, instance"
UNACCOUNTED = (
    "sum(abs("
    + " - ".join(
        f"sum by ({PER_INSTANCE}) ({select(metric)})"
        for metric in ("events_received_total", "events_total", "events_in_flight")
    )
    + "))"
)

PROMISE = [
    number(
        "Deliveries accepted",
        gained("deliveries_total", OK),
        "Answered 200 in the time range: the broker has acknowledged every event, or a filter dropped it.",
    ),
    number(
        "Events stored",
        gained("events_total", 'result=~"published|quarantined"'),
        "Acknowledged by the broker in the time range, those in quarantine included.",
    ),
    number(
        "Events unaccounted for",
        UNACCOUNTED,
        "Received, without a result, and not in flight. Always 0: anything else is a bug, see"
        " AttioBridgeAccountUnbalanced in the runbook.",
        good=0,
    ),
    number(
        "Told to come back",
        gained("deliveries_total", LATER),
        "Answered 503 or 500 in the time range. Attio repeats them; nothing is lost by that.",
    ),
    number(
        "Broker connected",
        f"min({select('bus_up')})",
        "Whether every bridge has a connection to the broker.",
        good=1,
        texts=("no", "yes"),
    ),
    number(
        "Broker lost data",
        gained("bus_data_losses_total"),
        "Times that the broker no longer held what it had acknowledged. See AttioBridgeBusDataLoss in the runbook.",
        bad=0.5,
    ),
    graph(
        "Events by result",
        [(rate("events_total", by="result") + " > 0", "{{result}}")],
        "What became of each event; results that do not occur are left out."
        " `failed` events were answered 503 and are repeated by Attio.",
        unit="eps",
        stacked=True,
        width=12,
        colors={"published": "green", "failed": "red", "duplicate|filtered": "blue", "quarantined": "orange"},
    ),
    graph(
        "Events unaccounted for",
        [(UNACCOUNTED, "unaccounted for"), (f"sum({select('events_in_flight')})", "in flight")],
        "The red line stays at 0. In flight: received, and waiting for the broker.",
        width=12,
        colors={"unaccounted for": "red", "in flight": "blue"},
    ),
]

EDGE = [
    graph(
        "Deliveries by reason",
        [(rate("deliveries_total", SOURCES, by="reason") + " > 0", "{{reason}}")],
        "Each reason has a section in the runbook. Reasons that do not occur are left out. Red: answered 503 or 500;"
        " purple: refused with 401, as the signature or the timestamp is missing or wrong.",
        unit="reqps",
        stacked=True,
        colors={
            "accepted": "green",
            FAILURES: "red",
            "duplicate|filtered|empty": "blue",
            "quarantined": "orange",
            "(signature|timestamp)_.*": "purple",
        },
    ),
    graph(
        "Time to the answer",
        latency("delivery_duration_seconds"),
        "From the request's head to its answer. Attio waits 5 s." + NATIVE,
        unit="s",
    ),
    graph(
        "Requests for no source",
        [(rate("deliveries_total", 'source="none"', by="reason") + " > 0", "{{reason}}")],
        "Wrong paths and scanners. A webhook with a wrong target URL ends here, too.",
        unit="reqps",
    ),
    number(
        "Since the last valid delivery",
        f"time() - max by (source) ({select('last_delivery_timestamp_seconds')} > 0)",
        "By source. A source that received nothing since the bridge's start is left out.",
        unit="s",
        width=12,
        legend="{{source}}",
    ),
    number(
        "Share told to come back",
        f"{gained('deliveries_total', LATER, SOURCES)} / {gained('deliveries_total', SOURCES)}",
        "Of all deliveries to a source in the time range, those answered 503 or 500.",
        unit="percentunit",
        width=12,
    ),
]

DEDUP = [
    graph(
        "Signatures by result",
        [(rate("signature_verifications_total", by="source, result"), "{{source}} {{result}}")],
        "Anything but ok: a wrong secret, a changed body, or a forgery.",
        unit="ops",
        colors={".* ok": "green"},
    ),
    graph(
        "Signatures by secret",
        [(rate("signature_verifications_total", 'result="ok"', by="source, secret"), "{{source}} {{secret}}")],
        "In a rotation: the old secret can be removed once its line stays at 0.",
        unit="ops",
    ),
    graph(
        "Dedup lookups",
        [(rate("dedup_lookups_total", by="result"), "{{result}}")],
        "hit: acknowledged before. joined: the first copy is in flight. miss: published.",
        unit="ops",
    ),
    graph(
        "Ids remembered",
        [(select("dedup_entries"), "{{instance}}")],
        "Compare with dedup.capacity.",
    ),
    graph(
        "Ids forgotten",
        [(rate("dedup_evictions_total", by="cause"), "{{cause}}")],
        "capacity: before the end of dedup.window, so that a late repeat is stored twice.",
        unit="ops",
    ),
    graph(
        "Events without an id",
        [(rate("identity_missing_total", by="source"), "{{source}}")],
        "Published without dedup: neither an event id nor an Idempotency-Key.",
        unit="ops",
    ),
]

STORE = [
    graph(
        "Dedup store reached",
        [(select("dedup_store_up"), "{{instance}}")],
        "0 while the store is away: dedup.on_store_failure says what happens then. Always 1 without a store.",
    ),
    graph(
        "Dedup store requests",
        [(rate("dedup_store_requests_total", by="result"), "{{result}}")],
        "Ids claimed in the store that replicas share, and claims ended there.",
        unit="ops",
        colors={"failed": "red", "hit": "dark-green"},
    ),
    graph(
        "Time to the dedup store's answer",
        latency("dedup_store_duration_seconds"),
        "Of a request for claims. dedup.store_timeout bounds it. No data without a store." + NATIVE,
        unit="s",
    ),
]

STATES = [
    number(
        "Lag of the states",
        f"max({select('state_lag_seconds')})",
        "Age of the oldest event that is not done: state.settle and a read, unless something holds it up."
        " See AttioBridgeStateLag in the runbook.",
        unit="s",
        width=6,
    ),
    number(
        "Stuck entities",
        f"sum({select('state_stuck')})",
        "Cannot be read, and are tried again. See AttioBridgeStateStuck in the runbook.",
        bad=0.5,
        width=6,
    ),
    number(
        "States published",
        gained("state_published_total"),
        "States and tombstones that the broker has acknowledged in the time range.",
        width=6,
    ),
    number(
        "Rate limited by Attio",
        gained("state_rate_limited_total"),
        "Answers 429 in the time range. The limit is one for everything that a workspace runs.",
        width=6,
    ),
    graph(
        "Lag of the states, by process",
        [(select("state_lag_seconds"), "{{instance}}")],
        "By process. On Kafka one follows; a second takes over.",
        unit="s",
        width=6,
    ),
    graph(
        "Events that wait for a state",
        [
            (f"sum({select('state_backlog')})", "taken and not done"),
            (f"sum({select('state_stuck')})", "entities stuck"),
        ],
        "More wait on the bus: look at the group's lag there.",
        width=6,
    ),
    graph(
        "Reads of Attio",
        [(rate("state_reads_total", by="result") + " > 0", "{{result}}")],
        "Requests by result. state.reads_per_second bounds them.",
        unit="reqps",
        stacked=True,
        width=6,
    ),
    graph(
        "Events by what became of them",
        [(rate("state_events_total", by="result") + " > 0", "{{result}}")],
        "coalesced: answered by the read of an earlier event of the entity.",
        unit="eps",
        stacked=True,
        width=6,
    ),
]

BUS = [
    graph(
        "Broker connected, by bridge",
        [(select("bus_up"), "{{instance}} {{bus}}")],
        "1 while the bridge has a connection to the broker.",
    ),
    graph(
        "Publishes by result",
        [(rate("publish_attempts_total", by="result") + " > 0", "{{result}}")],
        "Messages handed to the client of the bus that have a result.",
        unit="ops",
        stacked=True,
        colors={"acknowledged": "green"},
    ),
    graph(
        "Time to the acknowledgement",
        latency("publish_duration_seconds"),
        "From the client's queue to the result. http.answer_timeout bounds what a delivery waits for." + NATIVE,
        unit="s",
    ),
    graph(
        "Publishes by address",
        [
            (
                rate("publish_attempts_total", 'result="acknowledged"', by="destination") + " > 0",
                "{{destination}}",
            )
        ],
        "Acknowledged messages.",
        unit="ops",
        stacked=True,
        width=12,
        many=True,
    ),
    graph(
        "Publishes in flight",
        [(select("publish_in_flight"), "{{instance}}")],
        "Each keeps its delivery's place in http.max_in_flight, also after the delivery was answered 503.",
        width=6,
    ),
    graph(
        "Clients replaced, data lost",
        [
            (f"sum(increase({select('bus_rebuilds_total')}[$__rate_interval]))", "clients replaced"),
            (f"sum(increase({select('bus_data_losses_total')}[$__rate_interval]))", "broker lost data"),
        ],
        "See AttioBridgeClientRebuilt and AttioBridgeBusDataLoss in the runbook.",
        width=6,
    ),
]

RUNTIME = [
    graph(
        "CPU",
        [(f"rate({select('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}")],
        "Cores in use. The counter has whole seconds, so that short ranges look uneven.",
        width=6,
    ),
    graph(
        "Memory",
        [(select("process_resident_memory_bytes"), "{{instance}}")],
        "Resident. Dedup needs about 100 bytes per id.",
        unit="bytes",
        width=6,
    ),
    graph(
        "Open files",
        [(f"{select('process_open_fds')} / {select('process_max_fds')}", "{{instance}}")],
        "Of the limit. Each connection is one.",
        unit="percentunit",
        width=6,
    ),
    graph(
        "Reloads",
        [
            (
                f"sum by (result) (increase({select('config_reloads_total')}[$__rate_interval]))",
                "{{result}}",
            )
        ],
        "Of secrets and slugs. After a failed one the previous ones stay in use.",
        width=6,
    ),
    number(
        "Bridges",
        f"count by (version, revision) ({select('build_info')})",
        "Scraped instances, by version.",
        width=8,
        legend="{{version}} {{revision}}",
    ),
    number(
        "Since the youngest start",
        f"time() - max({select('process_start_time_seconds')})",
        "Of the instance that started last.",
        unit="s",
        width=8,
    ),
    number(
        "Log lines dropped",
        gained("log_dropped_total"),
        "In the time range, because nothing read standard error fast enough.",
        bad=0.5,
        width=8,
    ),
]


def variable(name, label, values):
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(values)
    made = made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return made.multi(True).include_all(True).all_value(".*").current({"text": "All", "value": "$__all"})


def build():
    board = dashboard.Dashboard("attio-bridge").uid("attio-bridge").tags(["attio-bridge"])
    board = board.description("Made by deploy/grafana/dashboard.py. What each alert means: deploy/runbook.md.")
    board = board.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    board = board.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    board = board.with_variable(variable("job", "Job", "label_values(attio_bridge_build_info, job)"))
    instances = 'label_values(attio_bridge_build_info{job=~"$job"}, instance)'
    board = board.with_variable(variable("instance", "Instance", instances))
    rows = [
        ("The promise", PROMISE),
        ("Edge", EDGE),
        ("Verification and dedup", DEDUP),
        ("Shared dedup", STORE),
        ("Bus", BUS),
        ("States, of attio-bridge state run", STATES),
        ("Runtime", RUNTIME),
    ]
    for title, panels in rows:
        row = dashboard.Row(title)
        if panels is STATES:
            # Folded: where no `state run` is scraped, it has no data.
            for panel in panels:
                row = row.with_panel(panel)
        board = board.with_row(row)
        for panel in panels if panels is not STATES else []:
            board = board.with_panel(panel)
    return board.build()


if __name__ == "__main__":
    print(JSONEncoder(sort_keys=True, indent=2).encode(build()))
