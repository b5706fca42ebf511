//! One chart: the CPU that a request costs, by server, at saturation with 64 connections.

use std::fmt::Write;

use super::Machine;
use crate::row::{Phase, Row};

const BAR: f64 = 22.0;
const LEFT: f64 = 150.0;
const WIDTH: f64 = 760.0;

/// The chart as SVG. It stands on light and on dark pages.
pub fn svg(machine: &Machine, rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.phase == Phase::Saturated(64)).collect();
    let longest = rows.iter().map(|row| row.cpu_us).fold(1.0, f64::max);
    let height = 70.0 + BAR * rows.len() as f64;
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="12" y="22" font-size="15" font-weight="bold" fill="#1f2933">CPU microseconds a request, 64 connections</text>
"##
    );
    for (number, row) in rows.iter().enumerate() {
        let y = 38.0 + BAR * number as f64;
        let length = (WIDTH - LEFT - 130.0) * row.cpu_us / longest;
        let _ = writeln!(
            out,
            r##"<text x="{x}" y="{text}" text-anchor="end" fill="#1f2933">{name}</text><rect x="{LEFT}" y="{y}" width="{length:.1}" height="{bar}" fill="{colour}"/><text x="{label:.1}" y="{text}" fill="#52606d">{cpu:.1} µs · {ratio:.1} ×</text>"##,
            x = LEFT - 8.0,
            text = y + 14.0,
            name = row.server,
            bar = BAR - 5.0,
            colour = colour(&row.server),
            label = LEFT + length + 8.0,
            cpu = row.cpu_us,
            ratio = row.ratio,
        );
    }
    let _ = writeln!(
        out,
        r##"<text x="12" y="{y}" font-size="11" fill="#52606d">{footer}</text></svg>"##,
        y = height - 12.0,
        footer = machine.short().replace('&', "&amp;").replace('<', "&lt;")
    );
    out
}

fn colour(server: &str) -> &'static str {
    match server {
        "stdout" | "memory" | "kafka" | "kafka-linger" | "nats" => "#2563eb",
        "node" | "python" => "#c2410c",
        _ => "#9aa5b1",
    }
}
