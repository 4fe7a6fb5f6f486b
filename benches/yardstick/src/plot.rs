//! Plots as SVG: bars in groups, and lines over two logarithmic axes.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const COLORS: &[&str] = &["#1b6ca8", "#e07a1f", "#6b7280", "#2e8b57", "#a8326e", "#8a6d1b", "#5b4bb5"];

/// A series: its name, and a value for each place on the axis.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escape(words);
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn legend(svg: &mut String, names: impl Iterator<Item = impl AsRef<str>>, y: f64) {
    let mut x = 16.0;
    for (at, name) in names.enumerate() {
        let color = COLORS[at % COLORS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"11\" height=\"11\" fill=\"{color}\"/>",
            y - 10.0
        );
        text(svg, x + 16.0, y, "start", name.as_ref());
        x += 36.0 + 7.0 * name.as_ref().chars().count() as f64;
    }
}

/// A group of horizontal bars for each label; each group is drawn to its own longest bar if `apart`.
pub fn bars(title: &str, names: &[&str], groups: &[(String, Vec<f64>)], apart: bool) -> String {
    const LEFT: f64 = 190.0;
    const BAR: f64 = 15.0;
    let group_height = BAR * names.len() as f64 + 14.0;
    let mut svg = open(66.0 + group_height * groups.len() as f64, title);
    legend(&mut svg, names.iter(), 46.0);
    let longest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let all = groups.iter().map(|(_, values)| longest(values)).fold(0.0, f64::max);
    let mut y = 62.0;
    for (label, values) in groups {
        text(&mut svg, LEFT - 8.0, y + group_height / 2.0 - 3.0, "end", label);
        let full = if apart { longest(values) } else { all };
        for (at, value) in values.iter().enumerate() {
            let (width, top) = (value / full * (WIDTH - LEFT - 90.0), y + BAR * at as f64);
            let color = COLORS[at % COLORS.len()];
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{color}\"/>",
                BAR - 2.0
            );
            text(&mut svg, LEFT + width + 5.0, top + 11.0, "start", &short(*value));
        }
        y += group_height;
    }
    svg + "</svg>\n"
}

/// Three digits, or all that stand before the point, with commas.
pub fn short(value: f64) -> String {
    let decimals = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let digits = format!("{value:.decimals$}");
    if decimals > 0 || value.is_nan() {
        return digits;
    }
    let with_commas = |(at, digit)| match at {
        0 => String::from(digit),
        _ if (digits.len() - at) % 3 == 0 => format!(",{digit}"),
        _ => String::from(digit),
    };
    digits.chars().enumerate().map(with_commas).collect()
}

/// Lines, both axes logarithmic.
pub fn lines(title: &str, x_title: &str, y_title: &str, series: &[Series]) -> String {
    const LEFT: f64 = 64.0;
    const TOP: f64 = 24.0;
    const RIGHT: f64 = WIDTH - 24.0;
    const BOTTOM: f64 = 400.0;
    let top = TOP + 26.0 + 18.0 * series.len() as f64;
    let mut svg = open(BOTTOM + 48.0, title);
    for (at, one) in series.iter().enumerate() {
        let y = TOP + 22.0 + 18.0 * at as f64;
        let color = COLORS[at % COLORS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"16\" y=\"{:.1}\" width=\"11\" height=\"11\" fill=\"{color}\"/>",
            y - 10.0
        );
        text(&mut svg, 32.0, y, "start", &one.name);
    }
    let points = || series.iter().flat_map(|series| &series.points);
    let decades = |value: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            points().map(value).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        (low.log10().floor(), high.log10().ceil())
    };
    let (x_axis, y_axis) = (decades(|point| point.0), decades(|point| point.1));
    let x_of = |x: f64| LEFT + (x.log10() - x_axis.0) / (x_axis.1 - x_axis.0) * (RIGHT - LEFT);
    let y_of = |y: f64| BOTTOM - (y.log10() - y_axis.0) / (y_axis.1 - y_axis.0) * (BOTTOM - top);
    let mut rule = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            svg,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#d5d8dd\"/>"
        );
    };
    let powers = |axis: (f64, f64)| (axis.0 as i32..=axis.1 as i32).map(|power| 10f64.powi(power));
    powers(x_axis).for_each(|x| rule(x_of(x), top, x_of(x), BOTTOM));
    powers(y_axis).for_each(|y| rule(LEFT, y_of(y), RIGHT, y_of(y)));
    powers(x_axis).for_each(|x| text(&mut svg, x_of(x), BOTTOM + 16.0, "middle", &tick(x)));
    powers(y_axis).for_each(|y| text(&mut svg, LEFT - 6.0, y_of(y) + 4.0, "end", &tick(y)));
    text(&mut svg, (LEFT + RIGHT) / 2.0, BOTTOM + 36.0, "middle", x_title);
    text(&mut svg, LEFT - 48.0, top - 10.0, "start", y_title);
    for (at, one) in series.iter().enumerate() {
        let color = COLORS[at % COLORS.len()];
        let path: Vec<String> =
            one.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
        let path = path.join(" ");
        let _ = writeln!(
            svg,
            "<polyline points=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>"
        );
        for (x, y) in &one.points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>",
                x_of(*x),
                y_of(*y)
            );
        }
    }
    svg + "</svg>\n"
}

/// A power of ten on an axis.
fn tick(value: f64) -> String {
    if value < 1.0 { value.to_string() } else { short(value) }
}
