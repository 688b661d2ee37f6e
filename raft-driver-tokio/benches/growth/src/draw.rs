//! Figures as SVG. Text stays text, in whatever font the reader has. The background is the page's, and ink and curves are
//! chosen again for dark pages by a style sheet within each file.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::figures::{Figure, Row, Scale};

const SIZE: (u32, u32) = (760, 420);
/// On light pages and on dark ones.
const INK: [&str; 2] = ["#1F2328", "#E6EDF3"];
const GRID: [&str; 2] = ["#D8DEE4", "#30363D"];
const CURVES: [[&str; 2]; 6] = [
    ["#0550AE", "#6CB6FF"],
    ["#BC4C00", "#F0883E"],
    ["#116329", "#57AB5A"],
    ["#8250DF", "#BC8CFF"],
    ["#A40E26", "#FF7B72"],
    ["#6E7781", "#9EA7B3"],
];

/// What a logarithmic axis can show at least.
const LEAST: f64 = 1e-6;

type Series<'a> = BTreeMap<&'a str, Vec<(f64, f64)>>;

fn color(hex: &str) -> RGBColor {
    let part = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits of a colour");
    RGBColor(part(1), part(3), part(5))
}

/// Draws a figure from the rows that belong to it. Without any there is no file.
pub(crate) fn draw(folder: &Path, figure: &Figure, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let mut order = Vec::new();
    let mut series = Series::new();
    let mut marks = Vec::new();
    for row in rows {
        match row {
            Row::Point { figure: name, series: label, x, y } if name == figure.name => {
                if !series.contains_key(label.as_str()) {
                    order.push(label.as_str());
                }
                series.entry(label).or_default().push((*x, *y));
            }
            Row::Mark { figure: name, label, x } if name == figure.name => marks.push((label.as_str(), *x)),
            _ => {}
        }
    }
    if series.is_empty() {
        return Ok(());
    }
    let curves: Vec<_> = order.iter().map(|label| (*label, series[label].as_slice())).collect();
    let picture = Picture { figure, curves, marks };
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let ((x_from, x_to), (y_from, y_to)) = picture.bounds();
        match (figure.x.1, figure.y.1) {
            (Scale::Linear, Scale::Linear) => picture.onto(&root, x_from..x_to, y_from..y_to)?,
            (Scale::Linear, Scale::Log) => picture.onto(&root, x_from..x_to, (y_from..y_to).log_scale())?,
            (Scale::Log, Scale::Linear) => picture.onto(&root, (x_from..x_to).log_scale(), y_from..y_to)?,
            (Scale::Log, Scale::Log) => {
                picture.onto(&root, (x_from..x_to).log_scale(), (y_from..y_to).log_scale())?;
            }
        }
        root.present()?;
    }
    fs::write(folder.join(format!("{}.svg", figure.name)), themed(&text))?;
    Ok(())
}

/// With what makes it readable on dark pages.
fn themed(svg: &str) -> String {
    let mut style = String::from("<style>@media (prefers-color-scheme: dark) {");
    for [light, dark] in CURVES.iter().chain([&INK, &GRID]) {
        style += &format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}");
    }
    style += "}</style>";
    let end = svg.find("<svg").and_then(|at| Some(at + svg[at..].find('>')? + 1)).unwrap_or(0);
    format!("{}\n{style}{}", &svg[..end], &svg[end..])
}

struct Picture<'a> {
    figure: &'a Figure,
    curves: Vec<(&'a str, &'a [(f64, f64)])>,
    marks: Vec<(&'a str, f64)>,
}

impl Picture<'_> {
    /// From where to where each axis goes: above the curves there is room for what they are called.
    fn bounds(&self) -> ((f64, f64), (f64, f64)) {
        let all = || self.curves.iter().flat_map(|(_, points)| points.iter());
        let reach = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(value), most.max(value))
            })
        };
        let (x_least, x_most) = reach(&mut all().map(|(x, _)| *x));
        let (y_least, y_most) = reach(&mut all().map(|(_, y)| *y));
        let x = match self.figure.x.1 {
            Scale::Linear => (0.0, x_most * 1.05),
            Scale::Log => (x_least / 1.3, x_most * 1.4),
        };
        let legend = if self.curves.len() > 1 { self.curves.len() as f64 } else { 0.0 };
        let share = 1.0 / (0.95 - 0.055 * legend);
        let y = match self.figure.y.1 {
            Scale::Linear => (0.0, y_most.max(LEAST) * share),
            Scale::Log => {
                // Whole decades, since only those have numbers. What is less than the least is drawn there.
                let from = y_least.max(LEAST).log10().floor();
                let to = y_most.max(LEAST).log10();
                (10_f64.powf(from), 10_f64.powf(from + (to - from).max(0.9) * share))
            }
        };
        (x, y)
    }

    fn onto<X, Y>(&self, root: &DrawingArea<SVGBackend<'_>, Shift>, x: X, y: Y) -> Result<(), Box<dyn Error>>
    where
        X: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
        Y: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let (ink, grid) = (color(INK[0]), color(GRID[0]));
        let text = |size: i32| ("sans-serif", size).into_font().color(&ink);
        let mut chart = ChartBuilder::on(root)
            .caption(self.figure.title, text(22))
            .margin(12)
            .x_label_area_size(50)
            .y_label_area_size(78)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(self.figure.x.0)
            .y_desc(self.figure.y.0)
            .axis_style(ink)
            .bold_line_style(grid)
            .light_line_style(TRANSPARENT)
            .label_style(text(16))
            .axis_desc_style(text(17))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .x_labels(9)
            .y_labels(8)
            .draw()?;
        let (_, (y_from, y_to)) = self.bounds();
        for (label, x) in &self.marks {
            let line = [(*x, y_from), (*x, y_to)];
            chart.draw_series(DashedLineSeries::new(line, 4, 4, ink.into()))?;
            let label = Text::new((*label).to_owned(), (5, 4), text(15));
            chart.draw_series([EmptyElement::at((*x, y_to)) + label])?;
        }
        for (at, (label, points)) in self.curves.iter().enumerate() {
            let color = color(CURVES[at % CURVES.len()][0]);
            let points = points.iter().map(|(x, y)| (*x, y.max(y_from)));
            let drawn = chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
            drawn
                .label(*label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            // Many points are a line already.
            if points.len() <= 20 {
                chart.draw_series(points.map(|at| Circle::new(at, 3, color.filled())))?;
            }
        }
        if self.curves.len() > 1 {
            let legend = SeriesLabelPosition::UpperLeft;
            chart.configure_series_labels().position(legend).label_font(text(16)).margin(6).draw()?;
        }
        Ok(())
    }
}

/// A number in few characters.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        0.0 => return "0".to_owned(),
        most if most >= 1e9 => (value / 1e9, " G"),
        most if most >= 1e6 => (value / 1e6, " M"),
        most if most >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = if value.abs() >= 100.0 { 0 } else { 3 };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::FIGURES;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.05, 1.0, 2_000.0, 10_000.0, 1_500_000.0, 2e9].map(short);
        assert_eq!(all, ["0", "0.05", "1", "2000", "10 k", "1.5 M", "2 G"]);
    }

    #[test]
    fn text_stays_text_and_dark_pages_have_their_colours() {
        let folder = tempfile::tempdir().expect("a directory");
        let figure = &FIGURES[0];
        let rows = [Row::point(figure.name, "one", 3.0, 50.0), Row::point(figure.name, "one", 5.0, 90.0)];
        draw(folder.path(), figure, &rows).expect("it is drawn");
        let svg = fs::read_to_string(folder.path().join("nodes-core.svg")).expect("a file");
        assert!(svg.contains(figure.title) && svg.contains(figure.y.0), "{svg}");
        assert!(svg.contains("prefers-color-scheme: dark") && svg.contains(CURVES[0][1]));
        draw(folder.path(), &FIGURES[1], &rows).expect("nothing of another figure");
        assert!(!folder.path().join("nodes-driver.svg").exists());
    }
}
