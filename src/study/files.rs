//! A run's results for other programs: `results.csv`, a line a training; `classes.csv`, a line a training and class; `domains.csv`, a line a
//! domain of pictures; and `tables.tex`, the tables of the report.

use super::config::Study;
use super::results::{Accuracies, averaged, by_class, by_target, matrix};
use super::score::Diversity;
use crate::data::write_atomic;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes them into the folder of a run.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(dir: &Path, rows: &[Accuracies], study: &Study, diversity: Option<&Diversity>) -> Result<()> {
    write_atomic(dir.join("results.csv"), csv(rows).as_bytes())?;
    write_atomic(dir.join("classes.csv"), classes_csv(rows).as_bytes())?;
    if let Some(diversity) = diversity {
        write_atomic(dir.join("domains.csv"), domains_csv(diversity).as_bytes())?;
    }
    write_atomic(dir.join("tables.tex"), latex(rows, study, diversity).as_bytes())
}

/// Accuracies from 0 to 1; empty where one was not measured.
fn csv(rows: &[Accuracies]) -> String {
    let mut lines =
        "test_domains,algorithm,variant,seed,accuracy,balanced,unseen_concepts,validation\n".to_string();
    for row in rows {
        for (seed, accuracy) in &row.seeds {
            let of = |all: &BTreeMap<u64, f64>| all.get(seed).map_or(String::new(), f64::to_string);
            let rest = [&row.balanced, &row.unseen, &row.validation].map(of).join(",");
            let (target, variant) = (quoted(&row.target), row.variant.name());
            lines += &format!("{target},{},{variant},{seed},{accuracy},{rest}\n", row.algorithm);
        }
    }
    lines
}

/// Accuracies from 0 to 1.
fn classes_csv(rows: &[Accuracies]) -> String {
    let mut lines = "test_domains,algorithm,variant,seed,class,accuracy\n".to_string();
    for row in rows {
        let (target, algorithm, variant) = (quoted(&row.target), &row.algorithm, row.variant.name());
        for (seed, classes) in &row.classes {
            for (class, accuracy) in classes {
                lines += &format!("{target},{algorithm},{variant},{seed},{},{accuracy}\n", quoted(class));
            }
        }
    }
    lines
}

/// Pictures of each domain, and the share of the generated ones in which CLIP sees what their prompt named; empty where there are none.
fn domains_csv(diversity: &Diversity) -> String {
    let mut lines = "domain,originals,generated,class_agreement,style_agreement\n".to_string();
    for (name, d) in &diversity.domains {
        let [class, style] =
            [d.class_agreement, d.style_agreement].map(|v| v.map_or(String::new(), |v| v.to_string()));
        lines += &format!("{},{},{},{class},{style}\n", quoted(name), d.originals, d.generated);
    }
    lines
}

/// A text as CSV has it: in quotes where it holds what separates.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

/// Algorithms by variants, as the paper's Table 1; of several test domains, each of them; each class; the pictures of each domain. For
/// `booktabs`.
fn latex(rows: &[Accuracies], study: &Study, diversity: Option<&Diversity>) -> String {
    let (variants, cells) = matrix(&averaged(rows), study);
    let head: Vec<String> = ["algorithm"].into_iter().chain(variants).map(str::to_string).collect();
    let lines: Vec<Vec<String>> =
        cells.into_iter().map(|(name, cells)| [name].into_iter().chain(cells).collect()).collect();
    let mut text =
        "% \\usepackage{booktabs}; mean and standard error (n - 1) over seeds, in percent\n".to_string();
    text += &tabular(&head, &lines);
    let of_pictures = diversity.map(|d| (d.head().map(str::to_string).to_vec(), d.lines()));
    for (head, lines) in [by_target(rows), by_class(rows), of_pictures].into_iter().flatten() {
        text += &tabular(&head, &lines);
    }
    text
}

fn tabular(head: &[String], lines: &[Vec<String>]) -> String {
    let escaped = |cell: &String| {
        let special = |c: char| if "&%$#_{}".contains(c) { format!("\\{c}") } else { c.to_string() };
        let percent = cell.strip_suffix(" %").unwrap_or(cell);
        percent.chars().map(special).collect::<String>().replace('±', "$\\pm$").replace('–', "--")
    };
    let line = |cells: &[String]| cells.iter().map(escaped).collect::<Vec<_>>().join(" & ") + " \\\\\n";
    let columns = "l".to_string() + &"r".repeat(head.len().saturating_sub(1));
    let body: String = lines.iter().map(|cells| line(cells)).collect();
    format!(
        "\\begin{{tabular}}{{{columns}}}\n\\toprule\n{}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n",
        line(head)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::score::DomainDiversity;
    use crate::train::Variant;

    #[test]
    fn tables_are_read_by_other_programs() {
        let row = |target: &str, accuracy: f64| Accuracies {
            target: target.into(),
            algorithm: "ERM".into(),
            variant: Variant::O,
            seeds: BTreeMap::from([(0, accuracy), (1, accuracy + 0.1)]),
            balanced: BTreeMap::new(),
            unseen: BTreeMap::new(),
            validation: BTreeMap::from([(0, 0.5)]),
            classes: BTreeMap::from([(0, BTreeMap::from([("cat, dog".to_string(), accuracy)]))]),
        };
        let rows = [row("art_painting", 0.25), row("a,b", 0.5)];
        let csv = csv(&rows);
        assert_eq!(csv.lines().nth(1), Some("art_painting,ERM,o,0,0.25,,,0.5"));
        assert_eq!(csv.lines().nth(4), Some("\"a,b\",ERM,o,1,0.6,,,"));
        let classes = classes_csv(&rows);
        assert_eq!(classes.lines().nth(1), Some("art_painting,ERM,o,0,\"cat, dog\",0.25"));
        let of_ink = DomainDiversity { generated: 8, class_agreement: Some(0.5), ..Default::default() };
        let diversity = Diversity { domains: [("ink".into(), of_ink)].into(), ..Default::default() };
        assert_eq!(domains_csv(&diversity).lines().nth(1), Some("ink,0,8,0.5,"));
        let tex = latex(&rows, &Study::demo().unwrap(), Some(&diversity));
        assert!(tex.contains("ERM & 42.5 $\\pm$ 5.0 & -- \\\\"), "{tex}");
        assert!(
            tex.contains("algorithm & trained on & art\\_painting & a,b & average & worst \\\\"),
            "{tex}"
        );
        assert!(tex.contains("algorithm & trained on & cat, dog \\\\\n"), "{tex}");
        assert!(tex.contains("ink & 0 & 8 & 50 & -- \\\\\n"), "{tex}");
        assert_eq!(tex.matches("\\begin{tabular}").count(), 4);
    }
}
