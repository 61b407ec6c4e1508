//! Plots as SVG: lines over two axes, and no more than that.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
/// Of the small print, which needs the whole width.
const MARGIN: f64 = 8.0;
/// The drawing area: left, top, right, bottom.
const AREA: [f64; 4] = [80.0, 50.0, 640.0, 380.0];
/// Told apart by people who see few colours, too (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"];

/// One axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) is_logarithmic: bool,
}

/// A line with a name.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A moment on the horizontal axis.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) at: f64,
}

/// A whole plot.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    /// What it was measured on and how, in small print.
    pub(crate) conditions: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    pub(crate) marks: Vec<Mark>,
}

/// An axis with its range, and where it lies on the paper.
struct Scale {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    from: f64,
    to: f64,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64> + Clone, (from, to): (f64, f64)) -> Self {
        let largest = values.clone().fold(0.0_f64, f64::max);
        if !axis.is_logarithmic {
            let high = if largest > 0.0 { largest } else { 1.0 };
            return Self { low: 0.0, high, is_logarithmic: false, from, to };
        }
        let smallest = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let low = 10_f64.powf(smallest.min(largest).max(1e-9).log10().floor());
        let high = 10_f64.powf(largest.max(low * 10.0).log10().ceil());
        Self { low, high, is_logarithmic: true, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.is_logarithmic {
            true => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + share * (self.to - self.from)
    }

    /// Where lines of the grid are: at powers of ten, or at round numbers.
    fn ticks(&self) -> Vec<f64> {
        if self.is_logarithmic {
            let decades = (self.high / self.low).log10().round() as i32;
            return (0..=decades).map(|decade| self.low * 10_f64.powi(decade)).collect();
        }
        let rough = (self.high - self.low) / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| rough <= *step);
        let step = step.unwrap_or(10.0 * power);
        (0..=(self.high / step) as u32).map(|count| f64::from(count) * step).collect()
    }
}

impl Plot {
    pub(crate) fn to_svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let [left, top, right, bottom] = AREA;
        let x = Scale::new(&self.x, points().map(|(x, _)| *x), (left, right));
        let y = Scale::new(&self.y, points().map(|(_, y)| *y), (bottom, top));
        let mut body = String::new();
        self.grid(&x, &y, &mut body);
        self.lines(&x, &y, &mut body);
        let (title, conditions) = (escape(&self.title), escape(&self.conditions));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{left}\" y=\"28\" font-size=\"16\">{title}</text>\n\
             <text x=\"{MARGIN}\" y=\"{}\" font-size=\"9\" fill=\"#555\">{conditions}</text>\n{body}</svg>\n",
            HEIGHT - MARGIN,
        )
    }

    fn grid(&self, x: &Scale, y: &Scale, out: &mut String) {
        let [left, top, right, bottom] = AREA;
        for value in x.ticks() {
            let at = x.place(value);
            line([at, top, at, bottom], "#ddd", out);
            text([at, bottom + 16.0], "middle", &short(value), out);
        }
        for value in y.ticks() {
            let at = y.place(value);
            line([left, at, right, at], "#ddd", out);
            text([left - 6.0, at + 4.0], "end", &short(value), out);
        }
        line([left, bottom, right, bottom], "#000", out);
        line([left, top, left, bottom], "#000", out);
        text([(left + right) / 2.0, bottom + 36.0], "middle", &escape(&self.x.label), out);
        text([left, top - 8.0], "middle", &escape(&self.y.label), out);
        for (number, mark) in self.marks.iter().enumerate() {
            let at = x.place(mark.at);
            line([at, top, at, bottom], "#888", out);
            text([at + 4.0, top + 12.0 + 14.0 * number as f64], "start", &escape(&mark.name), out);
        }
    }

    fn lines(&self, x: &Scale, y: &Scale, out: &mut String) {
        let [_, top, right, _] = AREA;
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = series.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x.place(*a), y.place(*b)));
            let points = points.collect::<Vec<_>>().join(" ");
            let _ = writeln!(
                out,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            );
            let row = top + 10.0 + 18.0 * number as f64;
            line([right + 12.0, row, right + 34.0, row], colour, out);
            text([right + 40.0, row + 4.0], "start", &escape(&series.name), out);
        }
    }
}

fn line([x1, y1, x2, y2]: [f64; 4], colour: &str, out: &mut String) {
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn text([x, y]: [f64; 2], anchor: &str, text: &str, out: &mut String) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number of an axis, without more digits than it needs.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", value / 1e6),
        _ if value >= 1e3 => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}
