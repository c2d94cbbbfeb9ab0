//! A table of accuracies in the four forms that `kaleid sweep collect` prints. The text is DomainBed's to the byte.

use crate::data::stats::Mean;
use serde_json::{Map, Value, json};

/// How tables are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// DomainBed's plain text.
    #[default]
    Text,
    /// A document of its own.
    Latex,
    /// Pipes.
    Markdown,
    /// Numbers, for machines.
    Json,
}

impl Format {
    /// Ending of its files.
    pub fn ending(self) -> &'static str {
        ["txt", "tex", "md", "json"][self as usize]
    }
}

/// A mean over trials, in percent; what was not measured is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cell {
    /// Mean over trials.
    pub mean: Option<f64>,
    /// Its standard error.
    pub error: Option<f64>,
    /// What the paper has here.
    pub published: Option<f64>,
}

impl Cell {
    /// Mean and standard error (n - 1) of accuracies from 0 to 1; one value has no error. Empty for no values.
    pub fn of(values: &[f64]) -> Cell {
        if values.is_empty() {
            return Cell::default();
        }
        let Mean { mean, standard_error, .. } = Mean::of(values);
        Cell { mean: Some(100.0 * mean), error: standard_error.map(|e| 100.0 * e), published: None }
    }

    /// The same as DomainBed prints it: the variance is divided by n, and one value has an error of 0.
    pub fn domainbeds(values: &[f64]) -> Cell {
        let n = values.len() as f64;
        let Some(mean) = super::select::mean(values) else { return Cell::default() };
        let scaled: Vec<f64> = values.iter().map(|v| v / n.sqrt()).collect();
        let centre = scaled.iter().sum::<f64>() / n;
        let variance = scaled.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / n;
        Cell { mean: Some(100.0 * mean), error: Some(100.0 * variance.sqrt()), published: None }
    }

    /// The mean of means, without an error; empty if one of them is.
    pub fn average(cells: &[Cell]) -> Cell {
        let means: Option<Vec<f64>> = cells.iter().map(|c| c.mean).collect();
        Cell { mean: means.and_then(|m| super::select::mean(&m)), ..Cell::default() }
    }

    fn text(&self, plus_minus: &str) -> String {
        let own = match (self.mean, self.error) {
            (Some(mean), Some(error)) => format!("{mean:.1} {plus_minus} {error:.1}"),
            (Some(mean), None) => format!("{mean:.1}"),
            (None, _) => "X".into(),
        };
        match self.published {
            Some(published) => format!("{own} ({published:.1})"),
            None => own,
        }
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("mean".into(), json!(self.mean));
        for (name, value) in [("standard_error", self.error), ("published", self.published)] {
            fields.extend(value.map(|v| (name.to_string(), json!(v))));
        }
        Value::Object(fields)
    }
}

/// Algorithms in rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The same within its section.
    pub short: String,
    /// Heads of all columns except the first.
    pub columns: Vec<String>,
    /// Names, and one cell per column.
    pub rows: Vec<(String, Vec<Cell>)>,
    /// Characters of a column of text.
    pub width: usize,
}

/// Tables in sections.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Number of records behind them.
    pub records: usize,
    /// What the numbers after ± are; the text, which is DomainBed's, does not say.
    pub note: &'static str,
    /// Titles, and their tables.
    pub sections: Vec<(String, Vec<Table>)>,
}

impl Page {
    /// The whole file.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Latex => self.latex(),
            Format::Markdown => self.markdown(),
            Format::Json => format!("{:#}\n", self.json()),
        }
    }

    fn text(&self) -> String {
        let mut out = format!("Total records: {}\n", self.records);
        for table in self.sections.iter().flat_map(|s| &s.1) {
            out += &format!("\n-------- {}\n", table.title);
            let width = table.width;
            for row in table.grid("+/-") {
                let cell = |c: &String| format!("{:width$}", c.chars().take(width).collect::<String>());
                out += &row.iter().map(cell).collect::<Vec<_>>().join("  ");
                out += " \n";
            }
        }
        out
    }

    fn latex(&self) -> String {
        let plain = |text: &str| {
            text.chars()
                .map(|c| if "_%&#".contains(c) { format!("\\{c}") } else { c.to_string() })
                .collect::<String>()
        };
        let mut out = format!(
            "\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\usepackage{{adjustbox}}\n\\begin{{document}}\n\\section{{Results}}\n% Total records: {}\n% {}\n",
            self.records, self.note
        );
        for (title, tables) in &self.sections {
            out += &format!("\n\\subsection{{{}}}\n", plain(title));
            for table in tables {
                out += &format!("\n\\subsubsection{{{}}}\n\n\\begin{{center}}\n", plain(&table.short));
                out += "\\adjustbox{max width=\\textwidth}{%\n";
                out += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "c".repeat(table.columns.len()));
                for (i, row) in table.grid("$\\pm$").iter().enumerate() {
                    let cell = |c: &String| match i {
                        0 => format!("\\textbf{{{}}}", plain(c)),
                        _ => plain(c),
                    };
                    out += &(row.iter().map(cell).collect::<Vec<_>>().join(" & ") + " \\\\\n");
                    out += if i == 0 { "\\midrule\n" } else { "" };
                }
                out += "\\bottomrule\n\\end{tabular}}\n\\end{center}\n";
            }
        }
        out + "\\end{document}\n"
    }

    fn markdown(&self) -> String {
        let mut out = format!("{} records. {}\n", self.records, self.note);
        for (title, tables) in &self.sections {
            out += &format!("\n## {title}\n");
            for table in tables {
                out += &format!("\n### {}\n\n", table.short);
                for (i, row) in table.grid("±").iter().enumerate() {
                    out += &format!("| {} |\n", row.join(" | "));
                    out += &if i == 0 {
                        format!("|---|{}\n", "---:|".repeat(row.len() - 1))
                    } else {
                        String::new()
                    };
                }
            }
        }
        out
    }

    fn json(&self) -> Value {
        let row = |table: &Table, (name, cells): &(String, Vec<Cell>)| {
            let cells: Map<_, _> = table.columns.iter().cloned().zip(cells.iter().map(Cell::json)).collect();
            json!({"name": name, "cells": cells})
        };
        let table = |t: &Table| {
            let rows: Vec<Value> = t.rows.iter().map(|r| row(t, r)).collect();
            json!({"title": t.title, "columns": t.columns, "rows": rows})
        };
        let sections: Vec<Value> = self
            .sections
            .iter()
            .map(|(title, tables)| json!({"title": title, "tables": tables.iter().map(table).collect::<Vec<_>>()}))
            .collect();
        json!({"records": self.records, "unit": "percent", "note": self.note, "sections": sections})
    }
}

impl Table {
    /// The heads and all rows as text.
    fn grid(&self, plus_minus: &str) -> Vec<Vec<String>> {
        let heads = std::iter::once("Algorithm".to_string()).chain(self.columns.iter().cloned()).collect();
        let row = |(name, cells): &(String, Vec<Cell>)| {
            std::iter::once(name.clone()).chain(cells.iter().map(|c| c.text(plus_minus))).collect()
        };
        std::iter::once(heads).chain(self.rows.iter().map(row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_domainbeds() {
        assert_eq!(Cell::domainbeds(&[0.1, 0.2, 0.3]).text("+/-"), "20.0 +/- 4.7");
        assert_eq!(Cell::of(&[0.1, 0.2, 0.3]).text("+/-"), "20.0 +/- 5.8");
        assert_eq!(
            [Cell::domainbeds(&[0.1]), Cell::of(&[0.1])].map(|c| c.text("+/-")),
            ["10.0 +/- 0.0", "10.0"]
        );
        assert_eq!(Cell::of(&[]).text("+/-"), "X");
        let cells = [Cell::of(&[0.5]), Cell::of(&[0.75])];
        assert_eq!(Cell { published: Some(84.4), ..Cell::average(&cells) }.text("+/-"), "62.5 (84.4)");
        assert_eq!(Cell::average(&[cells[0], Cell::default()]).text("+/-"), "X");
    }

    #[test]
    fn every_form_has_the_numbers() {
        let table = Table {
            title: "Dataset: a_b".into(),
            short: "a_b".into(),
            columns: vec!["one".into(), "a name that is too long by far".into()],
            rows: vec![("ERM".into(), vec![Cell::of(&[0.5, 0.5]), Cell::default()])],
            width: 20,
        };
        let page =
            Page { records: 2, note: "Standard error.", sections: vec![("Choice".into(), vec![table])] };
        let text = "Total records: 2\n\n-------- Dataset: a_b\n\
            Algorithm             one                   a name that is too l \n\
            ERM                   50.0 +/- 0.0          X                    \n";
        assert_eq!(page.render(Format::Text), text);
        assert!(page.render(Format::Latex).contains("\\subsubsection{a\\_b}"));
        assert!(page.render(Format::Latex).contains("ERM & 50.0 $\\pm$ 0.0 & X \\\\\n\\bottomrule"));
        assert!(page.render(Format::Markdown).contains("|---|---:|---:|\n| ERM | 50.0 ± 0.0 | X |\n"));
        let json: Value = serde_json::from_str(&page.render(Format::Json)).unwrap();
        let row = &json["sections"][0]["tables"][0]["rows"][0];
        assert_eq!(row["cells"]["one"], json!({"mean": 50.0, "standard_error": 0.0}));
    }
}
