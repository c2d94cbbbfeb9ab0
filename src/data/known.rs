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
    /// Folders of its domains, in the same order.
    pub domains: &'static [&'static str],
    /// Images of each, where we know them; empty where we do not.
    pub images: &'static [usize],
    /// Number of its classes.
    pub classes: usize,
}

/// Those that are folders of images, in DomainBed's order.
pub const KNOWN: &[Known] = &[
    Known {
        name: "VLCS",
        folder: "VLCS",
        codes: &["C", "L", "S", "V"],
        domains: &["Caltech101", "LabelMe", "SUN09", "VOC2007"],
        images: &[1415, 2656, 3282, 3376],
        classes: 5,
    },
    Known {
        name: "PACS",
        folder: "PACS",
        codes: &["A", "C", "P", "S"],
        domains: &["art_painting", "cartoon", "photo", "sketch"],
        images: &[2048, 2344, 1670, 3929],
        classes: 7,
    },
    Known {
        name: "OfficeHome",
        folder: "office_home",
        codes: &["A", "C", "P", "R"],
        domains: &["Art", "Clipart", "Product", "Real World"],
        images: &[2427, 4365, 4439, 4357],
        classes: 65,
    },
    Known {
        name: "TerraIncognita",
        folder: "terra_incognita",
        codes: &["L100", "L38", "L43", "L46"],
        domains: &["location_100", "location_38", "location_43", "location_46"],
        images: &[],
        classes: 10,
    },
    Known {
        name: "DomainNet",
        folder: "domain_net",
        codes: &["clip", "info", "paint", "quick", "real", "sketch"],
        domains: &["clipart", "infograph", "painting", "quickdraw", "real", "sketch"],
        images: &[],
        classes: 345,
    },
    Known { name: "SVIRO", folder: "sviro", codes: SVIRO, domains: SVIRO, images: &[], classes: 7 },
];

const SVIRO: &[&str] =
    &["aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe"];

/// The data set called `name`.
pub fn named(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|k| k.name == name)
}

/// What the data set in `folder` is called: DomainBed's name, where it is one of its folders, or the folder's own.
pub fn name_of(folder: &Path) -> String {
    let own = folder.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    KNOWN.iter().find(|k| k.folder == own).map_or(own, |k| k.name.to_string())
}
