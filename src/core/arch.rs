//! Whose device it is, as far as kernels care: read off the ids, names and subgroup sizes of an adapter.

use std::fmt;

/// Families of devices whose compilers like different kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Mesa's llvmpipe and lavapipe, with the major version of LLVM that they compile by.
    Llvm(u32),
    /// Google's CPU renderer, in Chrome.
    SwiftShader,
    /// GeForce, RTX, Tesla.
    Nvidia,
    /// AMD before 2019: 64 threads run together, always.
    Gcn,
    /// AMD since: the generation, 0 where the name does not tell.
    Rdna(u32),
    /// M1 and later.
    Apple,
    /// Intel up to Arc A and Meteor Lake: from 8 threads together.
    Xe1,
    /// Intel from Arc B and Lunar Lake on: from 16.
    Xe2,
    /// Qualcomm.
    Adreno,
    /// None of these.
    Other,
}

impl Arch {
    pub(super) fn of(info: &wgpu::AdapterInfo) -> Arch {
        Arch::new(
            info.vendor,
            &format!("{} {} {}", info.name, info.driver, info.driver_info),
            [info.subgroup_min_size, info.subgroup_max_size],
        )
    }

    /// From PCI's number of the vendor, all that the driver says of itself, and the sizes of subgroups.
    fn new(vendor: u32, text: &str, subgroup: [u32; 2]) -> Arch {
        let text = text.to_lowercase();
        let has = |word: &str| text.contains(word);
        if has("llvmpipe") || has("lavapipe") {
            return Arch::Llvm(number_after(&text, "llvm ").unwrap_or(0));
        }
        match vendor {
            _ if has("swiftshader") => Arch::SwiftShader,
            0x10de => Arch::Nvidia,
            0x106b => Arch::Apple,
            0x5143 => Arch::Adreno,
            0x8086 if subgroup[0] >= 16 => Arch::Xe2,
            0x8086 => Arch::Xe1,
            0x1002 if subgroup == [64, 64] => Arch::Gcn,
            0x1002 => Arch::Rdna(rdna(&text)),
            // Over GL there are no ids of vendors.
            _ if has("nvidia") => Arch::Nvidia,
            _ if has("apple") => Arch::Apple,
            _ if has("adreno") => Arch::Adreno,
            _ => Arch::Other,
        }
    }
}

/// The generation of an RDNA card by Mesa's names of its chip, or by the number of the model.
fn rdna(text: &str) -> u32 {
    const CHIPS: [(&str, u32); 5] = [("navi1", 1), ("navi2", 2), ("navi3", 3), ("gfx11", 3), ("gfx12", 4)];
    let chip = CHIPS.iter().find(|(chip, _)| text.contains(chip)).map(|c| c.1);
    let model = || match number_after(text, "rx ")? {
        5000..6000 => Some(1),
        6000..7000 => Some(2),
        7000..8000 => Some(3),
        9000..10_000 => Some(4),
        _ => None,
    };
    chip.or_else(model).unwrap_or(0)
}

/// The number right behind the first place of `word`.
fn number_after(text: &str, word: &str) -> Option<u32> {
    let (_, rest) = text.split_once(word)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Arch::Llvm(0) => f.write_str("LLVM"),
            Arch::Llvm(version) => write!(f, "LLVM {version}"),
            Arch::SwiftShader => f.write_str("SwiftShader"),
            Arch::Nvidia => f.write_str("NVIDIA"),
            Arch::Gcn => f.write_str("GCN"),
            Arch::Rdna(0) => f.write_str("RDNA"),
            Arch::Rdna(generation) => write!(f, "RDNA{generation}"),
            Arch::Apple => f.write_str("Apple"),
            Arch::Xe1 => f.write_str("Xe1"),
            Arch::Xe2 => f.write_str("Xe2"),
            Arch::Adreno => f.write_str("Adreno"),
            Arch::Other => f.write_str("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_told_by_what_adapters_say_of_themselves() {
        let cases = [
            (
                0x10005,
                "llvmpipe (LLVM 15.0.6, 256 bits) llvmpipe Mesa 22.3.6 (LLVM 15.0.6)",
                [8, 8],
                Arch::Llvm(15),
            ),
            (
                0x10005,
                "llvmpipe (LLVM 22.1.8, 256 bits) llvmpipe Mesa 26.2.3-1 (LLVM 22.1.8)",
                [8, 8],
                Arch::Llvm(22),
            ),
            (0x1ae0, "SwiftShader Device (LLVM 10.0.0) SwiftShader driver", [4, 4], Arch::SwiftShader),
            (0x10de, "NVIDIA H100 80GB HBM3 NVIDIA 580.159.04", [32, 32], Arch::Nvidia),
            (0x1002, "AMD Radeon RX 6800 (RADV NAVI21) radv Mesa 25.0.7", [64, 64], Arch::Gcn),
            (0x1002, "AMD Radeon RX 6800 (RADV NAVI21) radv Mesa 25.0.7", [32, 64], Arch::Rdna(2)),
            (0x1002, "AMD Radeon RX 7900 XTX AMD proprietary driver 26.3.1", [32, 64], Arch::Rdna(3)),
            (0x1002, "AMD Radeon RX 9070 (RADV GFX1201) radv", [32, 64], Arch::Rdna(4)),
            (0x1002, "AMD Radeon 780M Graphics", [32, 64], Arch::Rdna(0)),
            (0x8086, "Intel(R) Arc(tm) A770 Graphics (DG2)", [8, 32], Arch::Xe1),
            (0x8086, "Intel(R) Arc(tm) B580 Graphics (BMG G21)", [16, 32], Arch::Xe2),
            (0x106b, "Apple M2", [4, 64], Arch::Apple),
            (0, "Apple M1", [0, 0], Arch::Apple),
            (0x5143, "Adreno (TM) 740", [64, 128], Arch::Adreno),
            (0x13b5, "Mali-G78", [16, 16], Arch::Other),
        ];
        for (vendor, text, subgroup, arch) in cases {
            assert_eq!(Arch::new(vendor, text, subgroup), arch, "{text}");
        }
    }
}
