// scale = (2^k, 2^-k), where k brings the largest |dy| to 2^10 or a little below 2^11; k = 0 where dy is zero or not finite.
// dy: n numbers; scale: two. No backward.
// Gradients shrink on their way back through a network more than they grow; f16 ends at 2^16, and its last digit is 2^-24.

struct Params { n: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    if row_of(flat_group(group, groups), thread) > 0u { return; }
    var most = 0.0;
    for (var i = lane_of(thread); i < p.n; i += LANES) { most = max(most, abs(dy[i])); }
    let exponent = i32(bitcast<u32>(row_max(most, thread)) >> 23u) - 127;
    // Both powers stay within the normal numbers of f32.
    let up = select(clamp(10 - exponent, -100, 100), 0, most == 0.0 || exponent > 127);
    scale[0] = bitcast<f32>(u32(127 + up) << 23u);
    scale[1] = bitcast<f32>(u32(127 - up) << 23u);
}
