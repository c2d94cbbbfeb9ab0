//! The algorithms, a file each.

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
