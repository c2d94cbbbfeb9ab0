//! Random numbers, three kinds, all reproducible from a seed:
//! - [`Mt19937`], the Mersenne Twister behind torch's CPU generator and numpy's legacy `RandomState`;
//! - [`torch_randn`], the noise that `torch.randn` draws on the CPU, so that a seed paints the image it paints elsewhere;
//! - [`Key`], a counter-based generator: the i-th number of (seed, step, purpose) is a pure function of these four, so a
//!   run resumes without a stored state, and the GPU draws the same bits in any order.

/// MT19937 (Matsumoto and Nishimura, 1998), seeded by `init_genrand`.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    /// The generator of `torch.manual_seed(seed)` and `numpy.random.RandomState(seed)`; the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Mt19937 {
        let mut state = [seed as u32; 624];
        for i in 1..624 {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1812433253).wrapping_add(i as u32);
        }
        Mt19937 { state, next: 624 }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == 624 {
            let s = &mut self.state;
            for i in 0..624 {
                let y = (s[i] & 0x8000_0000) | (s[(i + 1) % 624] & 0x7fff_ffff);
                s[i] = s[(i + 397) % 624] ^ (y >> 1) ^ (if y & 1 == 1 { 0x9908_b0df } else { 0 });
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// numpy's `random_sample()`: uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let (a, b) = (self.next_u32() >> 5, self.next_u32() >> 6);
        (f64::from(a) * 67108864.0 + f64::from(b)) / 9007199254740992.0
    }

    /// numpy's bounded integer, uniform in [0, max]: masked draws until one fits; 0 draws nothing when `max` is 0.
    pub fn bounded(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let v = self.next_u32() & mask;
            if v <= max {
                return v;
            }
        }
    }

    /// numpy's `shuffle`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.bounded(i as u32) as usize);
        }
    }

    /// numpy's `permutation(n)`: the numbers below n in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// numpy's `choice(items)`: one of them. Panics when there are none.
    pub fn choice<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.bounded(items.len() as u32 - 1) as usize]
    }

    /// `torch.randn(n, generator=...)` on the CPU: `n` standard normals, equal to torch's except for the last bits of its
    /// vectorised logarithm and cosine. The diffusers pipelines draw an image's first latents so, in NCHW order, and then
    /// the noise of its steps. (torch keeps the spare half of an odd draw below 16; this does not.)
    pub fn torch_randn(&mut self, n: usize) -> Vec<f32> {
        if n < 16 {
            // Box-Muller on doubles, one pair at a time.
            let mut out = Vec::with_capacity(n + 1);
            while out.len() < n {
                let (u1, u2) = (self.torch_f64(), self.torch_f64());
                let (radius, angle) = ((-2.0 * (-u2).ln_1p()).sqrt(), std::f64::consts::TAU * u1);
                out.push((radius * angle.cos()) as f32);
                out.push((radius * angle.sin()) as f32);
            }
            out.truncate(n);
            return out;
        }
        // Uniforms for every element first; then each block of 16 pairs its first eight with its last eight. A ragged
        // tail is drawn again as a whole block of the last 16.
        let mut out: Vec<f32> = (0..n).map(|_| self.torch_f32()).collect();
        let whole = n - n % 16;
        out[..whole].chunks_exact_mut(16).for_each(box_muller_16);
        if whole < n {
            let tail = &mut out[n - 16..];
            tail.fill_with(|| self.torch_f32());
            box_muller_16(tail);
        }
        out
    }

    /// torch's CPU double, uniform in [0, 1): the low 53 of 64 bits.
    fn torch_f64(&mut self) -> f64 {
        let bits = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
        (bits & ((1 << 53) - 1)) as f64 * 2f64.powi(-53)
    }

    /// torch's CPU float, uniform in [0, 1): the low 24 of 32 bits.
    fn torch_f32(&mut self) -> f32 {
        (self.next_u32() & 0xff_ffff) as f32 * 2f32.powi(-24)
    }
}

/// torch's generator on CUDA, as far as `torch.randn` goes: Philox by (draw, element), a pair of its numbers for each normal. The images of
/// AUTOMATIC1111's program begin with it.
#[derive(Clone, Debug)]
pub struct CudaNormals {
    seed: u64,
    drawn: u32,
}

impl CudaNormals {
    /// After `torch.manual_seed(seed)`.
    pub fn new(seed: u64) -> CudaNormals {
        CudaNormals { seed, drawn: 0 }
    }

    /// `torch.randn(n, device="cuda")`: `n` standard normals, equal to torch's but for last bits, up to the size at which a card begins to
    /// share elements among fewer threads.
    pub fn torch_randn(&mut self, n: usize) -> Vec<f32> {
        let (key, draw) = ([self.seed as u32, (self.seed >> 32) as u32], self.drawn);
        self.drawn += 1;
        let unit = 2f64.powi(-32);
        let normal = |i: u32| {
            let [x, y, ..] = philox4x32([draw, 0, i, 0], key);
            let (u, v) = (
                f64::from(x) * unit + unit / 2.0,
                (f64::from(y) * unit + unit / 2.0) * std::f64::consts::TAU,
            );
            ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
        };
        (0..n as u32).map(normal).collect()
    }
}

/// `torch.randn(n)` on the CPU after `torch.manual_seed(seed)`.
pub fn torch_randn(seed: u64, n: usize) -> Vec<f32> {
    Mt19937::new(seed).torch_randn(n)
}

fn box_muller_16(block: &mut [f32]) {
    for j in 0..8 {
        let (u1, u2) = (1.0 - block[j], block[j + 8]);
        let (radius, angle) = ((-2.0 * u1.ln()).sqrt(), std::f32::consts::TAU * u2);
        block[j] = radius * angle.cos();
        block[j + 8] = radius * angle.sin();
    }
}

/// The key of a counter-based stream: [seed low, seed high, step, hash of the purpose].
///
/// The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), integer
/// operations only, the same in WGSL. Its key is the seed and its counter is [block, 0, step, purpose]; a block gives four
/// words, so element i of a stream is word i % 4 of block i / 4. Bits and uniforms are the same on every device; normals
/// may differ in the last bits, as devices round differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub [u32; 4]);

impl Key {
    /// The stream of `purpose` ("noise", "augment", ...) at `step` of a run seeded with `seed`.
    pub fn new(seed: u64, step: u32, purpose: &str) -> Key {
        // A short hash will do: few purposes exist, and their streams must only differ.
        Key([seed as u32, (seed >> 32) as u32, step, fnv1a(purpose)])
    }

    /// The four words of block `i`.
    pub fn block(self, i: u32) -> [u32; 4] {
        let [seed_low, seed_high, step, purpose] = self.0;
        philox4x32([i, 0, step, purpose], [seed_low, seed_high])
    }

    /// Element `i`: 32 random bits.
    pub fn bits(self, i: u32) -> u32 {
        self.block(i / 4)[i as usize % 4]
    }

    /// Element `i`, uniform in [0, 1): the high 24 bits times 2^-24.
    pub fn uniform(self, i: u32) -> f32 {
        (self.bits(i) >> 8) as f32 * 2f32.powi(-24)
    }

    /// Element `i`, a whole number below `n` (which is at least 1): the high word of bits * n.
    pub fn below(self, i: u32, n: u32) -> u32 {
        ((u64::from(self.bits(i)) * u64::from(n)) >> 32) as u32
    }

    /// Element `i`, standard normal. Elements 2j and 2j + 1 are the cosine and the sine of one Box-Muller pair, whose
    /// radius comes from the even word as a uniform in (0, 1] and whose angle from the odd one.
    pub fn normal(self, i: u32) -> f32 {
        let block = self.block(i / 4);
        let pair = i as usize % 4 / 2 * 2;
        let u1 = ((block[pair] >> 8) + 1) as f32 * 2f32.powi(-24);
        let u2 = (block[pair + 1] >> 8) as f32 * 2f32.powi(-24);
        let (radius, angle) = ((-2.0 * u1.ln()).sqrt(), std::f32::consts::TAU * u2);
        radius * if i.is_multiple_of(2) { angle.cos() } else { angle.sin() }
    }

    /// A number of the distribution Beta(alpha, alpha), from as many elements as it takes: x / (x + y) of two gamma variates.
    pub fn beta(self, alpha: f64) -> f32 {
        // Marsaglia and Tsang, "A simple method for generating gamma variables" (2000). A shape below 1 is raised by 1 and the variate
        // multiplied by u^(1 / alpha). Each try takes a block.
        let unit = |i: u32| (f64::from(self.bits(i)) + 0.5) / (f64::from(u32::MAX) + 1.0);
        let (raised, power) = if alpha < 1.0 { (alpha + 1.0, 1.0 / alpha) } else { (alpha, 0.0) };
        let d = raised - 1.0 / 3.0;
        let mut i = 0;
        let mut gamma = || loop {
            let (x, u, boost) = (f64::from(self.normal(i)), unit(i + 2), unit(i + 3));
            i += 4;
            let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v * boost.powf(power);
            }
        };
        let (x, y) = (gamma(), gamma());
        if x + y > 0.0 { (x / (x + y)) as f32 } else { 0.5 }
    }

    /// The numbers below `n` in random order (Fisher and Yates), from the elements below `n`.
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u32, i as u32 + 1) as usize);
        }
        order
    }
}

/// Ten rounds of Philox on one counter.
fn philox4x32(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (p0, p1) = (u64::from(c[0]) * 0xd251_1f53, u64::from(c[2]) * 0xcd9e_8d57);
        c = [(p1 >> 32) as u32 ^ c[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

/// 32-bit FNV-1a: the hash of names, wherever one is needed that never changes.
pub fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numpy_random_state() {
        let mut rng = Mt19937::new(0);
        assert_eq!([rng.next_u32(), rng.next_u32(), rng.next_u32()], [2357136044, 2546248239, 3071714933]);
        let mut rng = Mt19937::new(0);
        assert_eq!([rng.uniform(), rng.uniform()], [0.5488135039273248, 0.7151893663724195]);
        assert_eq!(Mt19937::new(894182419).permutation(10), [2, 3, 8, 1, 4, 5, 0, 9, 6, 7]);
        let order = Mt19937::new(894182419).permutation(2048);
        assert_eq!(order[..10], [548, 677, 1997, 977, 1553, 1123, 1936, 1520, 1084, 565]);
        assert_eq!(order[2045..], [1046, 1655, 1420]);
        assert_eq!(Mt19937::new(1).bounded(0), 0);
        assert_eq!(*Mt19937::new(894182419).choice(&["only"]), "only");
    }

    #[test]
    fn torch_randn_golden() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/torch_randn.json")).unwrap();
        for (seed, lengths) in golden.as_object().unwrap() {
            for (n, values) in lengths.as_object().unwrap() {
                let drawn = torch_randn(seed.parse().unwrap(), n.parse().unwrap());
                for (a, b) in drawn.iter().zip(values.as_array().unwrap()) {
                    assert!(
                        (f64::from(*a) - b.as_f64().unwrap()).abs() < 1e-6,
                        "seed {seed}, n {n}: {a} for {b}"
                    );
                }
            }
        }
    }

    /// The known answers that Random123, the authors' code, is tested with.
    #[test]
    fn normals_of_cuda_are_those_that_other_programs_print() {
        let got = CudaNormals::new(0).torch_randn(12);
        let want = [
            -0.92466259,
            -0.42534415,
            -2.6438457,
            0.14518388,
            -0.12086647,
            -0.57972564,
            -0.62285122,
            -0.32838709,
            -1.07454231,
            -0.36314407,
            -1.67105067,
            2.26550497,
        ];
        assert!(got.iter().zip(want).all(|(a, b)| (a - b as f32).abs() < 1e-6), "{got:?}");
        // Every draw is another one.
        let mut twice = CudaNormals::new(1 << 40);
        assert_ne!(twice.torch_randn(4), twice.torch_randn(4));
    }

    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32([!0; 4], [!0; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let (counter, key) = ([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
        assert_eq!(philox4x32(counter, key), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn keyed_streams() {
        let key = Key::new(7, 3, "test");
        let n = 100_000;
        let normals: Vec<f64> = (0..n).map(|i| f64::from(key.normal(i))).collect();
        let moment = |p: i32| normals.iter().map(|x| x.powi(p)).sum::<f64>() / f64::from(n);
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1, "{} {}", moment(3), moment(4));
        let mean = (0..n).map(|i| f64::from(key.uniform(i))).sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert_ne!(key, Key::new(7, 3, "tess"));
        let mut order = key.permutation(50);
        order.sort();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
