//! Matrix units (WGSL's cooperative matrices): which shapes an adapter lists, and whether they are to be trusted.

use super::arch::Arch;

/// The matrix units that kernels use: f16 numbers, f32 sums, square fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Coop {
    /// Rows and columns of a fragment: 8 or 16.
    pub size: usize,
    /// Threads that hold one together.
    pub subgroup: usize,
}

impl Coop {
    /// The part file of their fragments.
    pub(crate) fn part(&self) -> &'static str {
        if self.size == 16 { "coop/size16" } else { "coop/size8" }
    }
}

/// Devices that list matrix units and do not get kernels for them (is it a CPU, whose is it, its driver): why, and where that is known
/// from.
const DENIED: [(fn(bool, Arch, &str) -> bool, &str, &str); 4] = [
    (|software, _, _| software, "a CPU has none: its driver emulates them", "gfx-rs/wgpu #9891"),
    (
        |_, arch, _| matches!(arch, Arch::Xe1 | Arch::Xe2),
        "wrong results or slower on several of Intel's drivers, and no square shape on Xe2",
        "mesa #15932, llama.cpp #24404 and #24406",
    ),
    (
        |_, arch, _| matches!(arch, Arch::Gcn | Arch::Rdna(1 | 2)),
        "AMD emulates them before RDNA3, slowly",
        "llama.cpp #11074",
    ),
    (
        |_, arch, driver| arch == Arch::Rdna(0) && driver != "radv",
        "which generation this AMD card is cannot be told",
        "llama.cpp #26697",
    ),
];

/// The units to use, of the square f16 -> f32 shapes that an adapter lists, or why none.
pub(super) fn choose(
    sizes: &[usize],
    software: bool,
    arch: Arch,
    driver: &str,
    subgroup: [u32; 2],
    trust: bool,
) -> Result<Coop, String> {
    let Some(&size) = sizes.iter().max() else { return Err("none listed".into()) };
    let denied = DENIED.iter().find(|(applies, ..)| applies(software, arch, driver));
    if let Some((_, reason, source)) = denied.filter(|_| !trust) {
        return Err(format!("{reason} ({source})"));
    }
    // Sizes are not fixed by us, so they must be known: where a driver may choose, this is what it does for compute.
    let subgroup = match (arch, subgroup) {
        (Arch::Apple, _) => 32, // whatever Metal reports
        (Arch::Rdna(_), [32, 64]) => 64,
        (_, [least, most]) if least == most && least > 0 => least as usize,
        (_, [least, most]) => return Err(format!("subgroups of {least} to {most} threads")),
    };
    Ok(Coop { size, subgroup })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_lie_are_not_trusted_unless_asked_for() {
        let choose = |arch, driver, subgroup, trust| {
            choose(&[8, 16], false, arch, driver, subgroup, trust).map(|c| (c.size, c.subgroup))
        };
        assert_eq!(choose(Arch::Nvidia, "NVIDIA", [32, 32], false), Ok((16, 32)));
        assert_eq!(choose(Arch::Rdna(3), "radv", [32, 64], false), Ok((16, 64)));
        assert!(choose(Arch::Rdna(2), "radv", [32, 64], false).unwrap_err().contains("RDNA3"));
        assert!(choose(Arch::Rdna(0), "AMD proprietary", [32, 64], false).is_err());
        assert!(choose(Arch::Xe2, "Intel", [16, 32], false).unwrap_err().contains("mesa #15932"));
        assert!(choose(Arch::Xe2, "Intel", [16, 32], true).unwrap_err().contains("16 to 32"));
        let software = |trust| super::choose(&[8], true, Arch::Llvm(22), "llvmpipe", [8, 8], trust);
        assert!(software(false).is_err());
        assert_eq!(software(true), Ok(Coop { size: 8, subgroup: 8 }));
    }
}
