#!/usr/bin/env python3
"""How far the bridge scales: the figures of deploy/scaling.md and its plot, calculated and simulated from what was
measured. Without packages; a few seconds.

    python3 deploy/scaling.py            writes the tables into scaling.md, and images/scaling.svg
    python3 deploy/scaling.py --check    fails if they differ
"""

import math
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).parent
GIB = 1024**3

# --- Measured -------------------------------------------------------------------------------------------------------

# CPU microseconds of the bridge per delivery of one event, by deliveries per second on two cores: tests/bench/report.md,
# at 25 and 1,000 a second and with 64 connections. Kafka with linger 0 where it is cheaper, else with 1 ms.
CPU = {
    "kafka": [(25, 949.6), (976, 168.8), (35859, 27.1)],
    "nats": [(25, 588.3), (976, 136.7), (34366, 27.7)],
}
# What one bridge on two cores published in that report, with client and broker on the same cores.
SATURATION = {"kafka": 35859, "nats": 34366}
# What a store in Redis adds to the bridge, likewise, to standard output: stdout-redis less stdout.
STORE = [(25, 327.8), (976, 92.0), (42500, 4.5)]
# Bytes per id: in the bridge (56 to 78 in the bench's README, 105 in its report; 100 is what capacities are planned
# with), in redis-server 7.0.15 (deploy/docs/replicas.md) and in nats-server 2.15 for a stream's duplicate window (a
# million ids).
LOCAL, REDIS, WINDOW = 100, 181, 257
# CPU microseconds of that redis-server per id (claim, read, commit), alone and in pipelines of 64.
REDIS_CPU, REDIS_PIPELINED = 34, 7
# Bytes on the wire to the broker per event of the bench, and bytes of its request.
RECORD, REQUEST = 960, 970

# --- Attio ----------------------------------------------------------------------------------------------------------

PER_URL = 25  # deliveries per second to one URL, retries included; Attio spreads the rest out
RETRIES = 10  # in about three days, each wait twice the one before; the exact waits are not published
FIRST_RETRY = 72 * 3600 / (2**RETRIES - 1)  # seconds
WINDOW_96H = 96 * 3600
RATES = (25, 1000, 10_000, 100_000)

# --- Assumed --------------------------------------------------------------------------------------------------------

POD = 0.6  # share of a pod's two cores to plan with; the rest is for retries and a pod that is gone
MEMORY = 64 * GIB  # of a Redis or NATS server
CONSUMER = 1000  # events per second that one consumer of a partition handles
PARTITION = 10_000_000  # bytes per second that one Kafka partition takes


def cpu(points, rate):
    """CPU microseconds per delivery of a bridge at this rate, between and beyond the measured points on a log scale."""
    for (low, dear), (high, cheap) in zip(points, points[1:]):
        if rate <= high:
            share = max(0, math.log(rate / low) / math.log(high / low))
            return dear * (cheap / dear) ** share
    return points[-1][1]


def replicas(bus, rate):
    """Bridges on two cores each, one of which may be gone."""
    count = 1
    while rate / count * cpu(CPU[bus], rate / count) > 2e6 * POD or rate / count > SATURATION[bus] * POD:
        count += 1
    return count + 1


def number(value):
    """With three significant digits at most."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


# --- Steady load ----------------------------------------------------------------------------------------------------


def steady():
    head = ["deliveries per second"] + [number(rate) for rate in RATES]
    rows = [
        ["URLs at Attio's limit", *(number(rate / PER_URL) for rate in RATES)],
        *(
            [f"bridges on two cores, {name}", *(replicas(bus, rate) for rate in RATES)]
            for bus, name in (("kafka", "Kafka"), ("nats", "NATS"))
        ),
        *(
            [f"CPU cores of all bridges, {name}"]
            + [number(rate * cpu(CPU[bus], rate / replicas(bus, rate)) / 1e6) for rate in RATES]
            for bus, name in (("kafka", "Kafka"), ("nats", "NATS"))
        ),
        [
            "… more with a store in Redis, Kafka",
            *(number(rate * cpu(STORE, rate / replicas("kafka", rate)) / 1e6) for rate in RATES),
        ],
        ["ids of 96 h, millions", *(number(rate * WINDOW_96H / 1e6) for rate in RATES)],
        ["… in the bridges' memory, all together, GiB", *(number(rate * WINDOW_96H * LOCAL / GIB) for rate in RATES)],
        ["… in Redis, GiB", *(number(rate * WINDOW_96H * REDIS / GIB) for rate in RATES)],
        ["Redis, CPU cores (pipelined)", *(number(rate * REDIS_PIPELINED / 1e6) for rate in RATES)],
        ["Redis, CPU cores (one by one)", *(number(rate * REDIS_CPU / 1e6) for rate in RATES)],
        ["JetStream's window of 2 h, GiB", *(number(rate * 7200 * WINDOW / GIB) for rate in RATES)],
        ["Kafka partitions for the consumers", *(number(math.ceil(rate / CONSUMER)) for rate in RATES)],
        ["to the broker, MB/s", *(number(rate * RECORD / 1e6) for rate in RATES)],
    ]
    return table(head, rows)


def limits():
    """Up to which rate each part lasts."""
    rows = [
        ("JetStream's duplicate window of 2 h, one server with 64 GiB", MEMORY / (7200 * WINDOW)),
        ("96 h of ids in one Redis with 64 GiB", MEMORY / (WINDOW_96H * REDIS)),
        ("96 h of ids in one bridge with 4 GiB", 4 * GIB / (WINDOW_96H * LOCAL)),
        ("one Redis by CPU, one by one", 1e6 / REDIS_CPU),
        ("one Redis by CPU, pipelined", 1e6 / REDIS_PIPELINED),
        ("one bridge on two cores, Kafka", SATURATION["kafka"] * POD),
        ("one bridge on two cores, NATS", SATURATION["nats"] * POD),
        ("one Kafka partition, by its consumer", CONSUMER),
        ("one Kafka partition, by the broker", PARTITION / RECORD),
        ("one URL, by Attio", PER_URL),
    ]
    rows.sort(key=lambda row: row[1])
    return table(["limit", "deliveries per second"], [(name, number(float(f"{rate:.2g}"))) for name, rate in rows])


# --- An hour's outage -----------------------------------------------------------------------------------------------


def storm(load, capacity=PER_URL, outage=3600, hours=30, step=5):
    """One URL at this share of Attio's limit through an outage, in steps of seconds: deliveries that are sent in a second,
    by time, the time in seconds from the end of the outage until nothing waits, and the most retries of a delivery.

    A delivery that fails is due again after its wait. Attio sends at most its limit, retries that are due first. Above
    its capacity the bridge answers 503.
    """
    steps = int(hours * 3600 / step)
    due = [[0.0] * (steps + 1) for _ in range(RETRIES + 1)]
    queued = [0.0] * (RETRIES + 1)
    begin, sent, cleared, most, waiting = 3600, [], None, 0, 0.0
    for now in range(steps):
        for attempt in range(1, RETRIES + 1):
            queued[attempt] += due[attempt][now]
        queued[0] += load * PER_URL * step
        room, going = PER_URL * step, [0.0] * (RETRIES + 1)
        for attempt in range(RETRIES, -1, -1):
            going[attempt] = min(queued[attempt], room)
            queued[attempt] -= going[attempt]
            room -= going[attempt]
        sent.append(sum(going) / step)
        down = begin <= now * step < begin + outage
        accepted = 0 if down else min(1, capacity * step / max(sum(going), 1e-9))
        waiting += load * PER_URL * step - accepted * sum(going)
        for attempt in range(RETRIES):
            failed = going[attempt] * (1 - accepted)
            if failed > 1e-6:
                most = max(most, attempt + 1)
                again = now + max(1, round(FIRST_RETRY * 2**attempt / step))
                due[attempt + 1][min(again, steps)] += failed
        if now * step > begin + outage and cleared is None and waiting < 1:
            cleared = now * step - begin - outage
    return sent, cleared, most


def duration(seconds):
    if seconds is None:
        return "more than a day"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


LOADS = (0.2, 0.5, 0.8, 0.95)


def storms():
    rows = []
    for load in LOADS:
        for capacity, name in ((PER_URL, "25 × URLs"), (1.2 * load * PER_URL, "1.2 × the mean")):
            sent, cleared, most = storm(load, min(capacity, PER_URL))
            after = sent[7200 // 5 :]
            rows.append([
                f"{load * PER_URL:g}", name, number(max(after)), number(max(after) / (load * PER_URL)),
                most, duration(cleared),
            ])
    head = ["mean per URL", "bridges can take", "most per second and URL", "× the mean", "most retries of one", "over after"]
    return table(head, rows)


# --- A balancer that balances connections ---------------------------------------------------------------------------


def spread():
    """The busiest replica's load over the mean, where every connection stays on the replica that it was opened to: the
    99th percentile of random assignments of 4 connections per URL."""
    random.seed(18)
    rows = []
    for urls in (1, 10, 100, 1000):
        row = [urls]
        for count in (2, 3, 10, 30):
            worst = []
            for _ in range(300):
                loads = [0] * count
                for _ in range(4 * urls):
                    loads[random.randrange(count)] += 1
                worst.append(max(loads) * count / (4 * urls))
            row.append(number(sorted(worst)[297]))
        rows.append(row)
    return table(["URLs"] + [f"{count} replicas" for count in (2, 3, 10, 30)], rows)


# --- The plot -------------------------------------------------------------------------------------------------------

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
STYLE = """<style>
text { font: 12px sans-serif; fill: #333 } .grid { stroke: #ddd } .axis { stroke: #888 } .back { fill: #fff }
.title { font-weight: bold; font-size: 13px } .down { fill: #f2dede }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .grid { stroke: #333 } .axis { stroke: #777 } .back { fill: #0d1117 } .down { fill: #4a2326 }
}
</style>"""


def panel(left, title, xs, ys, series, shade=None):
    """A panel at a left edge: xs and ys are (label, position from 0 to 1), series are (name, [(x, y)])."""
    width, height, top = 380, 260, 40
    x = lambda share: left + share * width
    y = lambda share: top + (1 - share) * height
    out = [f'<text class="title" x="{left}" y="20">{title}</text>']
    if shade:
        out.append(f'<rect class="down" x="{x(shade[0]):.1f}" y="{top}" width="{(shade[1] - shade[0]) * width:.1f}" height="{height}"/>')
    for label, share in xs:
        out.append(f'<line class="grid" x1="{x(share):.1f}" y1="{top}" x2="{x(share):.1f}" y2="{top + height}"/>')
        out.append(f'<text x="{x(share):.1f}" y="{top + height + 16}" text-anchor="middle">{label}</text>')
    for label, share in ys:
        out.append(f'<line class="grid" x1="{left}" y1="{y(share):.1f}" x2="{left + width}" y2="{y(share):.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{label}</text>')
    for index, (name, points) in enumerate(series):
        line = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
        colour = COLOURS[index]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        row = top + height + 40 + 18 * index
        out.append(f'<line stroke="{colour}" stroke-width="3" x1="{left}" y1="{row - 4}" x2="{left + 20}" y2="{row - 4}"/>')
        out.append(f'<text x="{left + 28}" y="{row}">{name}</text>')
    return out


def plot():
    log = lambda value, low, high: (math.log10(value) - low) / (high - low)
    rates = [25 * (4000 ** (step / 40)) for step in range(41)]
    needs = [
        ("96 h of ids in the bridges, GiB", lambda rate: rate * WINDOW_96H * LOCAL / GIB),
        ("96 h of ids in Redis, GiB", lambda rate: rate * WINDOW_96H * REDIS / GIB),
        ("JetStream's window of 2 h, GiB", lambda rate: rate * 7200 * WINDOW / GIB),
        ("CPU cores of the bridges, Kafka", lambda rate: rate * cpu(CPU["kafka"], rate / replicas("kafka", rate)) / 1e6),
        ("CPU cores of Redis, pipelined", lambda rate: rate * REDIS_PIPELINED / 1e6),
    ]
    lines = [
        (name, [(log(rate, 1, 5), log(need(rate), -4, 5)) for rate in rates if need(rate) >= 1e-4]) for name, need in needs
    ]
    out = panel(
        65, "What a steady load needs, by deliveries per second",
        [(f"{10**power:,}", (power - 1) / 4) for power in range(1, 6)],
        [(number(10.0**power), (power + 4) / 9) for power in range(-4, 6)], lines,
    )
    hours = 12
    lines = []
    for load in LOADS[:3]:
        sent, _, _ = storm(load)
        means = [sum(sent[at : at + 36]) / 36 for at in range(0, hours * 720, 36)]
        lines.append((f"{load * PER_URL:g} deliveries a second before", [(at / len(means), mean / 30) for at, mean in enumerate(means)]))
    out += panel(
        525, "Deliveries per second and URL, a broker away for 1 h",
        [(f"{hour} h", hour / hours) for hour in range(0, hours + 1, 2)],
        [(value, value / 30) for value in range(0, 31, 5)], lines, (1 / hours, 2 / hours),
    )
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 440" role="img" aria-label="What a steady load needs, and a retry storm">',
        STYLE, '<rect class="back" width="940" height="440"/>', *out, "</svg>\n",
    ])


def main(*arguments):
    page = HERE / "scaling.md"
    text = page.read_text()
    for name, made in (("steady", steady), ("limits", limits), ("storms", storms), ("spread", spread)):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n" + made() + "\n\n" + end + rest.split(end)[1]
    files = {page: text, HERE / "images/scaling.svg": plot()}
    if arguments == ("--check",):
        differing = [path.name for path, now in files.items() if path.read_text() != now]
        for name in differing:
            print(f"{name} differs: run python3 deploy/scaling.py", file=sys.stderr)
        return bool(differing)
    for path, now in files.items():
        path.write_text(now)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
