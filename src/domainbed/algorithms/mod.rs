//! The algorithms, one file each, by DomainBed's names.

pub(crate) mod andmask;
pub(crate) mod coral;
pub(crate) mod dann;
pub(crate) mod eqrm;
pub(crate) mod erm;
pub(crate) mod fish;
pub(crate) mod fishr;
pub(crate) mod groupdro;
pub(crate) mod ib;
pub(crate) mod irm;
pub(crate) mod mixup;
pub(crate) mod mldg;
pub(crate) mod mtl;
pub(crate) mod rsc;
pub(crate) mod sagnet;
pub(crate) mod sd;
pub(crate) mod selfreg;
pub(crate) mod vrex;

use super::algorithm::{Algorithm, Setup};
use super::hparams::{Preset, nearest};
use anyhow::{Result, bail};

/// Every algorithm by DomainBed's name, in the order of its tables.
const ALGORITHMS: &[(&str, fn(&Setup) -> Result<Box<dyn Algorithm>>)] = &[
    ("ERM", |_| Ok(Box::new(erm::Erm))),
    ("Fish", |s| Ok(Box::new(fish::Fish::new(s)))),
    ("IRM", |s| Ok(Box::new(irm::Irm::new(s)))),
    ("GroupDRO", |s| Ok(Box::new(groupdro::GroupDro::new(s)))),
    ("Mixup", |s| Ok(Box::new(mixup::Mixup::new(s)))),
    ("MLDG", |s| Ok(Box::new(mldg::Mldg::new(s)?))),
    ("CORAL", |s| Ok(Box::new(coral::Coral::new(s, coral::Distance::Coral)))),
    ("MMD", |s| Ok(Box::new(coral::Coral::new(s, coral::Distance::Mmd)))),
    ("DANN", |s| Ok(Box::new(dann::Dann::new(s, false)))),
    ("CDANN", |s| Ok(Box::new(dann::Dann::new(s, true)))),
    ("MTL", |s| Ok(Box::new(mtl::Mtl::new(s)))),
    ("SagNet", |s| Ok(Box::new(sagnet::SagNet::new(s)))),
    ("VREx", |s| Ok(Box::new(vrex::Vrex::new(s)))),
    ("RSC", |s| Ok(Box::new(rsc::Rsc::new(s)))),
    ("SD", |s| Ok(Box::new(sd::Sd::new(s)))),
    ("ANDMask", |s| Ok(Box::new(andmask::AndMask::new(s)))),
    ("SelfReg", |s| Ok(Box::new(selfreg::SelfReg::new(s)))),
    ("Fishr", |s| Ok(Box::new(fishr::Fishr::new(s)?))),
    ("IB_ERM", |s| Ok(Box::new(ib::Ib::new(s, false)))),
    ("IB_IRM", |s| Ok(Box::new(ib::Ib::new(s, true)))),
    ("CausIRL_CORAL", |s| Ok(Box::new(coral::CausIrl::new(s, coral::Distance::Coral)))),
    ("CausIRL_MMD", |s| Ok(Box::new(coral::CausIrl::new(s, coral::Distance::Mmd)))),
    ("EQRM", |s| Ok(Box::new(eqrm::Eqrm::new(s)?))),
    ("ERMPlusPlus", |s| Ok(Box::new(erm::ErmPlusPlus::new(s)))),
];

/// The algorithms that the paper compares, in the order of its tables.
pub const PAPER: [&str; 8] = ["ERM", "IRM", "Mixup", "MLDG", "CORAL", "MTL", "SagNet", "SelfReg"];

/// Those that DomainBed had in 2020.
const OF_2020: [&str; 13] = [
    "ERM", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL", "SagNet", "VREx",
    "RSC",
];

/// Names of all algorithms, in the order of DomainBed's tables.
pub fn names() -> Vec<&'static str> {
    ALGORITHMS.iter().map(|a| a.0).collect()
}

/// Fails unless `name` is an algorithm.
///
/// # Errors
/// A name that is not known; the nearest one is offered.
pub fn check_name(name: &str) -> Result<()> {
    if names().contains(&name) {
        return Ok(());
    }
    match nearest(name, names()) {
        Some(near) => bail!("no algorithm {name}: did you mean {near}?"),
        None => bail!("no algorithm {name}: there are {}", names().join(", ")),
    }
}

/// The algorithm `name`.
///
/// # Errors
/// A name that is not known; a setup in which the algorithm would train nothing.
pub fn algorithm(name: &str, setup: &Setup) -> Result<Box<dyn Algorithm>> {
    check_name(name)?;
    if setup.preset == Preset::Db2020 && !OF_2020.contains(&name) {
        bail!("{name} was not in DomainBed in 2020: choose another --preset");
    }
    let (_, make) = ALGORITHMS.iter().find(|a| a.0 == name).expect("checked");
    make(setup)
}
