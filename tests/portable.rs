//! Every kernel variant of every kind of devices, as SPIR-V, HLSL and MSL, within the limits that WebGPU guarantees.

use kaleid::bench;
use kaleid::core::Caps;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};

fn parse(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    // Every device must have unpack2x16float, which naga calls an ability. Others only where a variant enables them.
    let optional = [
        ("enable f16;", Capabilities::SHADER_FLOAT16),
        ("enable wgpu_cooperative_matrix;", Capabilities::COOPERATIVE_MATRIX),
    ];
    let enabled = optional.iter().filter(|(line, _)| source.contains(line)).map(|o| o.1);
    let abilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let abilities = enabled.fold(abilities, |all, one| all | one);
    let info = Validator::new(ValidationFlags::all(), abilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    (module, info)
}

fn variants(kinds: &[(&str, Caps)], check: impl Fn(&str, &Module, &ModuleInfo)) -> usize {
    let mut seen = 0;
    for (kind, caps) in kinds {
        for (name, source) in bench::sources(caps) {
            if caps.coop.is_some() && !source.contains("enable ") {
                continue;
            }
            seen += 1;
            let name = format!("{name}.{kind}");
            let (module, info) = parse(&name, &source);
            check(&name, &module, &info);
        }
    }
    seen
}

fn all_variants(check: impl Fn(&str, &Module, &ModuleInfo)) {
    variants(&Caps::kinds(), check);
}

/// Matrix units exist on Vulkan, and fragments of 8 x 8 on Metal.
#[test]
fn variants_for_matrix_units_can_be_written_for_vulkan_and_metal() {
    let seen = variants(&Caps::kinds_with_coop(), |name, module, info| {
        spv::write_vec(module, info, &spv::Options { lang_version: (1, 3), ..Default::default() }, None)
            .unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"));
        if name.ends_with(".coop8") {
            let options =
                msl::Options { fake_missing_bindings: true, lang_version: (2, 3), ..Default::default() };
            msl::write_string(module, info, &options, &msl::PipelineOptions::default())
                .unwrap_or_else(|e| panic!("{name}: MSL: {e}"));
        }
        within_limits(name, module, info, 32_768);
    });
    assert!(seen > 30, "{seen} variants");
}

#[test]
fn every_variant_can_be_written_for_vulkan_dx12_and_metal() {
    all_variants(|name, module, info| {
        spv::write_vec(module, info, &spv::Options { lang_version: (1, 3), ..Default::default() }, None)
            .unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"));

        let options = hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(module, info, None)
            .unwrap_or_else(|e| panic!("{name}: HLSL: {e}"));

        let options =
            msl::Options { fake_missing_bindings: true, lang_version: (2, 0), ..Default::default() };
        msl::write_string(module, info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{name}: MSL: {e}"));
    });
}

#[test]
fn every_variant_keeps_webgpus_default_limits() {
    all_variants(|name, module, info| within_limits(name, module, info, 16_384));
}

fn within_limits(name: &str, module: &Module, info: &ModuleInfo, workgroup_memory: u32) {
    for (i, entry) in module.entry_points.iter().enumerate() {
        let uses = |space: &dyn Fn(AddressSpace) -> bool| {
            let used = info.get_entry_point(i);
            let globals = module.global_variables.iter();
            globals
                .filter(|&(h, g)| !used[h].is_empty() && space(g.space))
                .map(|(_, g)| g)
                .collect::<Vec<_>>()
        };
        let name = format!("{name}, {}", entry.name);
        let size: u32 = entry.workgroup_size.iter().product();
        assert!(size <= 256, "{name}: {size} invocations");
        let buffers = uses(&|space| matches!(space, AddressSpace::Storage { .. })).len();
        assert!(buffers <= 8, "{name}: {buffers} storage buffers");
        let sizes = uses(&|space| space == AddressSpace::WorkGroup).into_iter();
        let bytes: u32 = sizes.map(|g| module.types[g.ty].inner.size(module.to_ctx())).sum();
        assert!(bytes <= workgroup_memory, "{name}: {bytes} bytes of workgroup memory");
    }
}
