//! Every number in ops that depends on the class of device: one table per kind, with the measurement beside each row. Ops ask here;
//! none of them says `Class`. What is better for a class of devices belongs here, and nowhere else: results must not depend on a
//! file in a cache folder, as another tile adds in another order.
//!
//! Software was measured on lavapipe (Mesa 22.3, two cores), Discrete on an NVIDIA H200 (driver 580), both in f32 with
//! `kaleid bench`. Registers and spills were read from the compilers of NVIDIA, AMD, Apple and Adreno in Mesa, without a card. Integrated
//! GPUs were never measured: they have what is known to be safe.

use super::tile::Tile;
use crate::core::{Arch, Caps, Class, Coop};

/// The tile of a matrix product, for each entry of a batch, with an (m, n) result and an inner size k: threads along m and n, blocks of
/// 4 x 4 a thread along m and n, and the slice of K that is kept in workgroup memory.
pub(super) fn tile(caps: &Caps, batch: usize, [m, n, k]: [usize; 3]) -> [usize; 5] {
    let large = large_tile(caps, m, n);
    let groups = |[wg_m, wg_n, r_i, r_j, _]: [usize; 5]| {
        batch * m.div_ceil(4 * wg_m * r_i) * n.div_ceil(4 * wg_n * r_j)
    };
    let fills =
        |&tile: &[usize; 5]| groups(tile) * splits(caps.class, groups(tile), k) >= fewest_groups(caps.class);
    // 32 x 64, then 32 x 32. On an H200 they are as fast as 64 x 64 for a convolution of 640 channels, 32 x 32: 17.3 and 15.2 to 16.0.
    [large, [8, 8, 1, 2, 16], [8, 8, 1, 1, 16]].into_iter().find(fills).unwrap_or([8, 8, 1, 1, 16])
}

fn large_tile(caps: &Caps, m: usize, n: usize) -> [usize; 5] {
    match caps.class {
        // On Mesa 26.2, without workgroup memory. `benches/notes/software.md`: 4 x 16 a thread; 8 x 16 and 4 x 8 to 4 x 32 are slower.
        Class::Software if is_direct(caps.arch) => [8, 1, 1, n.div_ceil(4).min(4), 0],
        // Matrix product 1024^3: 17.1 GFLOP/s, against 0.97 with one thread per output. Small results (weight gradients of narrow
        // convolutions, few channels) fill smaller tiles; 144 and 288 columns fill tiles of 5 x 32 better than of 4 x 32.
        Class::Software if m <= 64 && n <= 32 => [8, 4, 2, 2, 8],
        Class::Software if m <= 16 && n <= 64 => [1, 8, 4, 2, 8],
        Class::Software if m <= 64 => [m.div_ceil(16).next_power_of_two(), 8, 4, 5, 8],
        Class::Software if n <= 4 => [16, 1, 4, 1, 8],
        Class::Software if n <= 16 => [8, 1, 4, 4, 8],
        Class::Software if n <= 32 => [8, 2, 4, 4, 8],
        Class::Software if n <= 64 => [8, 4, 4, 4, 8],
        Class::Software if n <= 96 => [8, 8, 4, 3, 8],
        Class::Software => [8, 8, 4, 4, 8],
        // Not measured: 64 x 64 in as few registers as can be. Tiles of 2 x 2 blocks spill on Apple's M1 and Adreno.
        Class::Integrated => [16, 16, 1, 1, 16],
        // Small results, and other cards: not measured; 64 x 64 in as few registers as can be.
        Class::Discrete if m <= 64 || n <= 64 || !is_big(caps.arch) => [16, 16, 1, 1, 16],
        // TFLOP/s on 4096^3; on a convolution 3 x 3 of 320 channels, 64 x 64 pixels, batch 2:
        //   8 x 8 threads, 2 x 2 blocks: 30.6; 22.7       16 x 16 threads, 2 x 2 blocks: 28.5; 16.1
        //   8 x 8 threads, 4 x 2 blocks: 32.8; -          16 x 8 and 8 x 16 threads, 2 x 2 blocks: -; 20.0 and 20.5
        // Any tile with 4 x 4 blocks spills: 8 to 12 on 4096^3.
        Class::Discrete => [8, 8, 2, 2, 16],
    }
}

/// The tile of matrix units: f16 numbers, f32 sums. TFLOP/s on an H200 (`benches/notes/first_card.md`), products of 4096^3 and of
/// 8192 x 320 x 320, with slices of 32: 128 x 64 of 8 subgroups 125; 67. 128 x 128 of 4 subgroups 124; 57. 64 x 64 of 4 subgroups 78; 55.
/// 256 x 128 of 16 subgroups 154; 65, but it takes 45 KiB of workgroup memory. Convolutions, 320 channels at 64 x 64 and 1280 at 16 x 16,
/// batch 2, prefetched: 64 x 64 of 8 subgroups 69; 45. 128 x 128 of 8 subgroups 83; 41.
/// Fragments of 8 x 8 were only compiled, and run on lavapipe: their tile is that of Metal.jl #832.
pub(super) fn coop_tile(class: Class, unit: Coop, conv: bool, batch: usize, [m, n, k]: [usize; 3]) -> Tile {
    if unit.size == 8 {
        return Tile::Coop { unit, sg_m: 2, sg_n: 2, r_i: 4, r_j: 4, k: 16, prefetch: false };
    }
    // As many threads whatever the size of a subgroup.
    let (sg_m, r_i) = if unit.subgroup > 32 { (2, 2) } else { (4, 1) };
    let small = Tile::Coop { unit, sg_m, sg_n: 2, r_i, r_j: 2, k: 32, prefetch: conv };
    let large = Tile::Coop { unit, sg_m, sg_n: 2, r_i: 2 * r_i, r_j: 2, k: 32, prefetch: false };
    let groups = batch * large.groups(m, n);
    let fills = groups * splits(class, groups, k) >= fewest_groups(class);
    if fills && !conv { large } else { small }
}

/// Channels from which on a convolution without workgroup memory finds its pixels once a tap, not at every step. GFLOP/s on Mesa 26.2: 64
/// channels 31 against 20, 32 channels 17 against 19, 4 channels (7 x 7, stride 2) 11 against 16.
pub(super) const RUN: usize = 64;

/// Whether products of a CPU driver are faster without workgroup memory: on Mesa 26.2 with LLVM 22 they are; on 22.3 with LLVM 15 they are
/// not (1024^3: 1.8 GFLOP/s against 3.0), nor were they, in an earlier form, on 25.0 with LLVM 19. Between, nothing was measured.
fn is_direct(arch: Arch) -> bool {
    matches!(arch, Arch::Llvm(20..))
}

/// Graphics cards whose compilers have 128 registers and more for a thread (`benches/notes/registers.md`).
fn is_big(arch: Arch) -> bool {
    matches!(arch, Arch::Nvidia | Arch::Gcn | Arch::Rdna(_))
}

/// Pieces that the inner size k of a product is cut into, where `groups` workgroups leave cores idle.
pub(super) fn splits(class: Class, groups: usize, k: usize) -> usize {
    let (wanted, shortest) = match class {
        Class::Software => (4, 512),    // two cores; not measured against other numbers
        Class::Integrated => (64, 256), // not measured
        // Of 64 threads each, eight for each of 64 cores. A convolution of 1280 channels, 16 x 16, batch 2: 160 workgroups 10.6 TFLOP/s on
        // an H200, 80 of a larger tile cut in three 18.5. This number itself: not measured.
        Class::Discrete => (512, 256),
    };
    (wanted / groups).min(k / shortest).max(1)
}

/// Workgroups below which a product gets a smaller tile: two for each core of a usual GPU. Not measured.
fn fewest_groups(class: Class) -> usize {
    match class {
        Class::Software => 0,
        Class::Integrated => 64,
        Class::Discrete => 128,
    }
}

/// Threads that share a column of a product of few rows (`shaders/gemv.wgsl`).
pub(super) fn gemv_lanes(class: Class) -> usize {
    match class {
        Class::Software => 8, // a SIMD register of f32; not measured against other numbers
        Class::Integrated | Class::Discrete => 16, // not measured
    }
}

/// How attention gives the rows of heads to threads.
pub(super) struct Attention {
    /// Threads in a workgroup.
    pub threads: usize,
    /// Blocks of four rows that a thread holds.
    pub rows: usize,
    /// Vectors of four columns that fit into its registers; wider heads are shared by several threads.
    pub columns: usize,
}

/// The kernel of attention for `n` queries a head of `width` vectors; none where two products and their scores are better.
pub(super) fn attention(caps: &Caps, n: usize, width: usize) -> Option<Attention> {
    match caps.class {
        // Threads that share a head wait for one another at barriers, which CPU drivers compile for minutes: none share. Shorter heads
        // get fewer rows a thread, so that more threads are busy. Rows: with 2 (40 columns) and 1 (80) 43 and 25 GFLOP/s on Mesa 26.2, 15 and
        // 12 on 22.3; with 4 and 2 25, 31; 13, 9; and twice as long to compile.
        Class::Software if width > 20 => None,
        // 25 to 44 s to compile, with the fewest rows, on Mesa 25.0 with LLVM 19.
        Class::Software if matches!(caps.arch, Arch::Llvm(16..20)) => None,
        Class::Software => {
            let rows = if width > 10 { 1 } else { 2 };
            Some(Attention { threads: 32, rows: n.div_ceil(4 * 32).clamp(1, rows), columns: 20 })
        }
        // Heads above 80 columns: a thread's share is so small that its sums cost more than its products. Not measured.
        _ if width > 20 => None,
        // 7.4 TFLOP/s (8 heads, 4096 x 40, batch 2). Four columns spill 250 registers on NVIDIA.
        Class::Discrete if is_big(caps.arch) => Some(Attention { threads: 64, rows: 1, columns: 3 }),
        // With two columns Apple's compiler spills 100 registers.
        Class::Discrete | Class::Integrated => Some(Attention { threads: 64, rows: 1, columns: 1 }),
    }
}

/// Vectors of four columns of the widest heads that matrix units take whole; wider ones are products. On an H200 a kernel of this kind had
/// 26.8 TFLOP/s with 64 keys at a time and 20.9 with 32 (8 heads, 4096 x 40, batch 2), against 7.4 without matrix units.
pub(super) const UNITS_WIDTH: usize = 20;

/// Scores that attention by products stores at once: 16 MiB. Not measured against other numbers.
pub(super) const SCORES: usize = 1 << 22;

/// Threads in a workgroup of a kernel that works on whole rows of `width` numbers, and whether they share one row (else each has
/// its own).
pub(super) fn rows(class: Class, width: usize) -> (usize, bool) {
    match class {
        // A barrier costs a CPU driver more than a row.
        Class::Software => (16, false),
        // Not measured.
        Class::Integrated | Class::Discrete => (if width > 8192 { 256 } else { 64 }, true),
    }
}

/// Rows of one column that a thread of a normalisation writes, so that it reads what belongs to the column once.
pub(super) fn norm_rows(class: Class) -> usize {
    match class {
        Class::Software => 16,                    // not measured against other numbers
        Class::Integrated | Class::Discrete => 4, // not measured
    }
}

/// Threads that the sums over columns of a normalisation should have.
pub(super) fn norm_threads(class: Class) -> usize {
    match class {
        Class::Software => 1 << 9,    // not measured against other numbers
        Class::Integrated => 1 << 13, // not measured
        Class::Discrete => 1 << 16,   // not measured
    }
}
