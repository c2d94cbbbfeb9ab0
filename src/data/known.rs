//! The data sets of several domains that papers compare on, as DomainBed names them.

use std::path::Path;

/// A data set by DomainBed's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What results and tables call it.
    pub name: &'static str,
    /// Its folder below the root of all data.
    pub folder: &'static str,
    /// Short names of its domains, in their order.
    pub codes: &'static [&'static str],
}

/// Those that are folders of images, in DomainBed's order.
pub const KNOWN: &[Known] = &[
    Known { name: "VLCS", folder: "VLCS", codes: &["C", "L", "S", "V"] },
    Known { name: "PACS", folder: "PACS", codes: &["A", "C", "P", "S"] },
    Known { name: "OfficeHome", folder: "office_home", codes: &["A", "C", "P", "R"] },
    Known { name: "TerraIncognita", folder: "terra_incognita", codes: &["L100", "L38", "L43", "L46"] },
    Known {
        name: "DomainNet",
        folder: "domain_net",
        codes: &["clip", "info", "paint", "quick", "real", "sketch"],
    },
    Known {
        name: "SVIRO",
        folder: "sviro",
        codes: &["aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe"],
    },
];

/// The data set called `name`.
pub fn named(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|k| k.name == name)
}

/// What the data set in `folder` is called: DomainBed's name, where it is one of its folders, or the folder's own.
pub fn name_of(folder: &Path) -> String {
    let own = folder.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    KNOWN.iter().find(|k| k.folder == own).map_or(own, |k| k.name.to_string())
}
