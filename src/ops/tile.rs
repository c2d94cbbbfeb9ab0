//! Tiles of matrix products: how the work on a result is given to workgroups and threads.

use super::tuning;
use crate::core::{Caps, Kernel};

/// Shape of the work of a workgroup: `wg_m` x `wg_n` threads, each with r_i x r_j blocks of 4x4, and the slice of K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub wg_m: usize,
    pub wg_n: usize,
    pub r_i: usize,
    pub r_j: usize,
    /// 0: nothing is kept there, and threads read what they need themselves.
    pub k: usize,
}

impl Tile {
    /// The tile for `batch` (m, n) results with an inner size k on this device, of products or of a convolution.
    pub fn choose(caps: &Caps, conv: bool, batch: usize, mnk: [usize; 3]) -> Self {
        let [wg_m, wg_n, r_i, r_j, k] = caps.tile.unwrap_or_else(|| tuning::tile(caps, conv, batch, mnk));
        Tile { wg_m, wg_n, r_i, r_j, k }
    }

    pub fn m(&self) -> usize {
        self.wg_m * 4 * self.r_i
    }

    pub fn n(&self) -> usize {
        self.wg_n * 4 * self.r_j
    }

    /// Workgroups along the rows and columns of the result.
    pub fn groups(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m()) * n.div_ceil(self.n())
    }

    /// The gemm kernel with this tile; loaders and readers are still to be added.
    pub fn kernel(&self, b_along_k: bool) -> Kernel {
        if self.k == 0 {
            return Kernel::new("gemm_direct", "main")
                .int("THREADS", self.wg_m)
                .int("R_i", self.r_i)
                .int("R_j", self.r_j)
                .part("gemm/result");
        }
        let threads = self.wg_m * self.wg_n;
        Kernel::new("gemm", "main")
            .int("WG_M", self.wg_m)
            .int("WG_N", self.wg_n)
            .int("R_i", self.r_i)
            .int("R_j", self.r_j)
            .int("TILE_K", self.k)
            .int("R_s", (self.m() * self.k / 16).div_ceil(threads))
            .int("R_t", (self.n() * self.k / 16).div_ceil(threads))
            .int("B_ALONG_K", b_along_k as usize)
            .part("gemm/result")
    }
}

/// The tile of large matrix products on a device, in words.
pub fn tiles(caps: &Caps) -> String {
    let t = Tile::choose(caps, false, 1, [1024; 3]);
    let (m, n) = (4 * t.r_i, 4 * t.r_j);
    format!("{} x {} tiles, {} x {} threads of {m} x {n}, slices of {}", t.m(), t.n(), t.wg_m, t.wg_n, t.k)
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
                let tile = Tile { wg_m, wg_n, r_i, r_j, k };
                let bytes = 4 * k * (tile.m() + tile.n());
                if wg_m * wg_n <= caps.invocations && bytes <= caps.workgroup_bytes {
                    found.push([wg_m, wg_n, r_i, r_j, k]);
                }
            }
        }
    }
    found
}
