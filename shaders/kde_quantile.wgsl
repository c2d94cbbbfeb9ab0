// w[0] in [0, 1] such that F(lo + w (hi - lo)) = q, by bisection, where F(v) = mean over i of Phi((v - x_i) / width), the distribution of a
// kernel density estimate with normal kernels. x (n), lo, hi, width (1 each). One thread: n is a handful. No backward.

struct Params { n: u32, q: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> lo: array<f32>;
@group(0) @binding(3) var<storage, read> hi: array<f32>;
@group(0) @binding(4) var<storage, read> width: array<f32>;
@group(0) @binding(5) var<storage, read_write> w: array<f32>;

@compute @workgroup_size(1)
fn main() {
    var low = 0.0;
    var high = 1.0;
    for (var step = 0u; step < 32u; step++) {
        let middle = 0.5 * (low + high);
        var sum = 0.0;
        for (var i = 0u; i < p.n; i++) {
            sum += normal_integral(vec4f((lo[0] + middle * (hi[0] - lo[0]) - x[i]) / max(width[0], 1e-30))).x;
        }
        let left = sum > p.q * f32(p.n);
        low = select(middle, low, left);
        high = select(high, middle, left);
    }
    w[0] = 0.5 * (low + high);
}
