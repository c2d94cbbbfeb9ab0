//! Made-up weights: functions of a tensor's name, shape and index, so that full-size models are compared with recorded numbers without a
//! download.

use super::rng::fnv1a;

/// The tensor that stands for `name` in such a model, exact in f32.
///
/// u is the PCG hash of FNV-1a(name) + index, uniform in [-1, 1). Vectors: 1 + |u|/2 for running variances, 1 + u/10 for the
/// weights of norms, else u/20. Embeddings: u/2. Other tensors: u sqrt(3 / fan_in), which keeps variances.
pub fn tensor(name: &str, shape: &[usize]) -> Vec<f32> {
    let hash = fnv1a(name);
    let uniform = |i: usize| {
        let s = hash.wrapping_add(i as u32).wrapping_mul(747796405).wrapping_add(2891336453);
        let w = ((s >> ((s >> 28) + 4)) ^ s).wrapping_mul(277803737);
        (((w >> 22) ^ w) >> 8) as f32 * 2f32.powi(-23) - 1.0
    };
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    let value: Box<dyn Fn(f32) -> f32> = if shape.len() > 1 {
        let convolution = has(&["patch_embedding", "time_embedding"]);
        let fan_in: usize = shape[1..].iter().product();
        let gain =
            if has(&["embedding"]) && !convolution { 0.5 } else { (3.0 / fan_in as f64).sqrt() as f32 };
        Box::new(move |u| gain * u)
    } else if name.ends_with("running_var") {
        Box::new(|u| 1.0 + 0.5 * u.abs())
    } else if name.ends_with("weight") && has(&["norm", "bn", "ln_"]) {
        Box::new(|u| 1.0 + 0.1 * u)
    } else {
        Box::new(|u| 0.05 * u)
    };
    (0..shape.iter().product()).map(|i| value(uniform(i))).collect()
}
