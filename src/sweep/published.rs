//! What the paper printed: accuracies in percent, without errors.

use crate::data::known::KNOWN;
use crate::domainbed::PAPER;
use crate::train::Variant;

/// The paper's table 1: PACS, mean over test domains, of its eight algorithms by o, q, d, qd.
pub const TABLE_1: [[f64; 4]; 8] = [
    [84.4, 84.6, 88.5, 87.5],
    [83.5, 86.2, 88.1, 86.5],
    [86.8, 88.0, 86.6, 87.8],
    [79.2, 76.9, 77.6, 80.0],
    [84.2, 87.0, 86.6, 88.7],
    [85.2, 86.9, 86.0, 88.4],
    [83.2, 84.4, 85.8, 85.0],
    [81.9, 85.0, 87.4, 86.3],
];
/// Its averages, as printed.
pub const AVERAGE_1: [f64; 4] = [83.6, 84.9, 85.8, 86.3];

/// Columns of its table 2: the data sets with o, then with qd.
pub const SETS_2: [&str; 3] = ["OfficeHome", "VLCS", "PACS"];
/// The rows of its table 2, by algorithm.
pub const TABLE_2: [[f64; 6]; 8] = [
    [70.3, 77.8, 84.4, 73.9, 78.3, 87.5],
    [58.1, 78.8, 83.5, 66.5, 79.4, 86.5],
    [69.2, 77.8, 86.8, 72.4, 76.6, 87.8],
    [56.0, 71.5, 79.2, 59.5, 70.1, 80.0],
    [70.3, 75.9, 84.2, 71.3, 77.2, 88.7],
    [68.8, 76.8, 85.2, 72.2, 78.5, 88.4],
    [68.7, 78.0, 83.2, 71.5, 76.1, 85.0],
    [70.7, 76.9, 81.9, 73.4, 78.7, 86.3],
];
/// Their averages, as printed.
pub const AVERAGE_2: [f64; 6] = [66.5, 76.7, 83.6, 70.1, 76.9, 86.3];

/// The paper's accuracy for an algorithm (`average`: of its eight) and a variant, mean over all test domains of the data set that has these
/// domains; nothing for what it does not have.
pub fn published(domains: &[&str], algorithm: &str, variant: Variant) -> Option<f64> {
    // Folders are spelt in several ways: Real World, Real_World, RealWorld.
    let plain = |name: &str| name.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "");
    let sorted = |names: &[&str]| {
        let mut names: Vec<String> = names.iter().map(|name| plain(name)).collect();
        names.sort();
        names
    };
    let set = KNOWN.iter().find(|known| sorted(known.domains) == sorted(domains))?.name;
    let row = PAPER.iter().position(|name| *name == algorithm);
    let of = |one: Option<f64>, average: f64| if algorithm == "average" { Some(average) } else { one };
    if set == "PACS" {
        let column = Variant::PAPER.iter().position(|v| *v == variant)?;
        return of(row.map(|row| TABLE_1[row][column]), AVERAGE_1[column]);
    }
    let place = SETS_2.iter().position(|name| *name == set)?;
    let column = match variant {
        Variant::O => place,
        Variant::Qd => SETS_2.len() + place,
        _ => return None,
    };
    of(row.map(|row| TABLE_2[row][column]), AVERAGE_2[column])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_tables() {
        let pacs = ["sketch", "Art Painting", "cartoon", "photo"];
        assert_eq!(published(&pacs, "CORAL", Variant::Q), Some(87.0));
        assert_eq!(published(&pacs, "average", Variant::Qd), Some(86.3));
        let home = ["Art", "Clipart", "Product", "Real_World"];
        assert_eq!(published(&home, "IRM", Variant::Qd), Some(66.5));
        assert_eq!(
            published(&["Caltech101", "LabelMe", "SUN09", "VOC2007"], "average", Variant::O),
            Some(76.7)
        );
        let nothing = [
            (&home[..], "IRM", Variant::Q),
            (&pacs[..], "Fish", Variant::O),
            (&pacs[..3], "IRM", Variant::O),
        ];
        assert!(
            nothing
                .iter()
                .all(|(domains, algorithm, variant)| published(domains, algorithm, *variant).is_none())
        );
    }
}
