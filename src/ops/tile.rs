//! Tiles of matrix products: how the work on a result is given to workgroups and threads.

use super::tuning;
use crate::core::{Caps, Coop, Kernel};

/// Shape of the work of a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// `wg_m` x `wg_n` threads, each with r_i x r_j blocks of 4x4, and the slice of K that lies in workgroup memory; 0: none does, and
    /// threads read what they need themselves.
    Threads { wg_m: usize, wg_n: usize, r_i: usize, r_j: usize, k: usize },
    /// `sg_m` x `sg_n` subgroups, each with r_i x r_j fragments of matrix units.
    Coop { unit: Coop, sg_m: usize, sg_n: usize, r_i: usize, r_j: usize, k: usize, prefetch: bool },
}

impl Tile {
    /// The tile for `batch` (m, n) results with an inner size k on this device, of products or of a convolution. `half`: of f16 numbers.
    pub fn choose(caps: &Caps, conv: bool, half: bool, batch: usize, mnk: [usize; 3]) -> Self {
        if let Some(unit) = caps.coop.filter(|_| half && caps.tile.is_none()) {
            return tuning::coop_tile(caps.class, unit, conv, batch, mnk);
        }
        let [wg_m, wg_n, r_i, r_j, k] = caps.tile.unwrap_or_else(|| tuning::tile(caps, batch, mnk));
        Tile::Threads { wg_m, wg_n, r_i, r_j, k }
    }

    pub fn m(&self) -> usize {
        match *self {
            Tile::Threads { wg_m, r_i, .. } => wg_m * 4 * r_i,
            Tile::Coop { unit, sg_m, r_i, .. } => sg_m * r_i * unit.size,
        }
    }

    pub fn n(&self) -> usize {
        match *self {
            Tile::Threads { wg_n, r_j, .. } => wg_n * 4 * r_j,
            Tile::Coop { unit, sg_n, r_j, .. } => sg_n * r_j * unit.size,
        }
    }

    /// Workgroups along the rows and columns of the result.
    pub fn groups(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m()) * n.div_ceil(self.n())
    }

    /// The gemm kernel with this tile; loaders and readers are still to be added.
    pub fn kernel(&self, b_along_k: bool) -> Kernel {
        let loads = |kernel: Kernel, k: usize, threads: usize| {
            kernel
                .int("TILE_K", k)
                .int("R_s", (self.m() * k / 16).div_ceil(threads))
                .int("R_t", (self.n() * k / 16).div_ceil(threads))
                .int("B_ALONG_K", b_along_k as usize)
        };
        let kernel = match *self {
            Tile::Threads { wg_m, r_i, r_j, k: 0, .. } => {
                Kernel::new("gemm_direct", "main").int("THREADS", wg_m).int("R_i", r_i).int("R_j", r_j)
            }
            Tile::Threads { wg_m, wg_n, r_i, r_j, k } => {
                let kernel = Kernel::new("gemm", "main").int("WG_M", wg_m).int("WG_N", wg_n);
                loads(kernel.int("R_i", r_i).int("R_j", r_j), k, wg_m * wg_n)
            }
            Tile::Coop { unit, sg_m, sg_n, r_i, r_j, k, prefetch } => {
                let kernel = Kernel::new("gemm_coop", "main")
                    .enable("f16")
                    .enable("wgpu_cooperative_matrix")
                    .part(unit.part())
                    .int("SUBGROUP", unit.subgroup)
                    .int("SG_M", sg_m)
                    .int("SG_N", sg_n)
                    .int("R_i", r_i)
                    .int("R_j", r_j)
                    .int("PREFETCH", prefetch as usize);
                loads(kernel, k, sg_m * sg_n * unit.subgroup)
            }
        };
        kernel.part("gemm/result")
    }

    /// What loaders have to know: `load_a` of an inner size k, and of pixels with so many channels, if it finds pixels.
    pub fn loaders(&self, kernel: Kernel, load_a: &str, k: usize, channels: usize) -> Kernel {
        let Tile::Threads { wg_m, k: 0, .. } = *self else {
            return kernel.int("ROW_STEP", 1).int("WHOLE", 0);
        };
        // Rows that lie apart cannot be read as one vector.
        let step = if load_a == "gemm/a_transposed" { 1 } else { wg_m };
        let kernel = kernel
            .int("ROW_STEP", step)
            .int("WHOLE", (k % 4 == 0) as usize)
            .int("RUNS", (channels >= tuning::RUN) as usize);
        if channels == 0 { kernel.part("gemm/one_run") } else { kernel }
    }
}

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} x {} tiles, ", self.m(), self.n())?;
        match self {
            Tile::Threads { wg_m, r_i, r_j, k: 0, .. } => {
                write!(f, "{wg_m} threads of {} x {}, no workgroup memory", 4 * r_i, 4 * r_j)
            }
            Tile::Threads { wg_m, wg_n, r_i, r_j, k } => {
                write!(f, "{wg_m} x {wg_n} threads of {} x {}, slices of {k}", 4 * r_i, 4 * r_j)
            }
            Tile::Coop { unit, sg_m, sg_n, r_i, r_j, k, .. } => {
                let (m, n) = (r_i * unit.size, r_j * unit.size);
                write!(f, "{sg_m} x {sg_n} subgroups of {m} x {n} on matrix units, slices of {k}")
            }
        }
    }
}

/// The kernels of products of 4096^3 and of a convolution of 320 channels, 64 x 64 pixels, in f32 and with f16 weights, on a device: in words.
pub fn tiles(caps: &Caps) -> Vec<(&'static str, String)> {
    let tile = |conv, half, mnk| Tile::choose(caps, conv, half, 1, mnk).to_string();
    let (product, conv) = ([4096; 3], [4096, 320, 2880]);
    vec![
        ("products, f32", tile(false, false, product)),
        ("products, f16", tile(false, true, product)),
        ("convolutions, f32", tile(true, false, conv)),
        ("convolutions, f16", tile(true, true, conv)),
    ]
}

/// Tiles for [`Caps::tile`] that this device can run: those worth a try.
pub fn tile_candidates(caps: &Caps) -> Vec<[usize; 5]> {
    let mut found = vec![];
    for [r_i, r_j] in [[1, 2], [1, 4], [1, 8], [2, 1], [2, 2], [2, 4], [2, 5], [4, 1], [4, 2], [4, 3]] {
        found.push([8, 1, r_i, r_j, 0]);
    }
    for [wg_m, wg_n] in [[8, 4], [4, 8], [8, 8], [16, 8], [8, 16], [16, 16]] {
        for [r_i, r_j] in [[1, 1], [2, 2], [4, 2], [2, 4], [4, 4]] {
            for k in [8, 16] {
                let bytes = 4 * k * 4 * (wg_m * r_i + wg_n * r_j);
                if wg_m * wg_n <= caps.invocations && bytes <= caps.workgroup_bytes {
                    found.push([wg_m, wg_n, r_i, r_j, k]);
                }
            }
        }
    }
    found
}
