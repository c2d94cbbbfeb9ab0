"""Makes LoRAs in every spelling and algorithm, and what they make of a few layers (want.safetensors: FILE/TENSOR, at weight 0.7), by the
functions of LyCORIS 3 and by numpy's einsum.

    pip install torch safetensors lycoris-lora einops; python make.py
"""
import json, os
import torch
from lycoris.functional import locon, loha, lokr
from safetensors.torch import save_file

torch.manual_seed(0)
S = 0.7
r = 2
UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
Q, OUT, K2 = f"{UNET}.to_q.weight", f"{UNET}.to_out.0.weight", f"{UNET.replace('attn1', 'attn2')}.to_k.weight"
CONV, PROJ = "down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.attentions.0.proj_in.weight"
NORM = "down_blocks.0.attentions.0.norm.weight"
TEXT = "encoder.layers.0.self_attn.q_proj.weight"
shapes = {Q: (6, 4), OUT: (4, 6), K2: (6, 8), CONV: (6, 4, 3, 3), PROJ: (4, 4, 1, 1), NORM: (4,)}
unet = {name: torch.randn(shape) for name, shape in shapes.items()}
for name in (OUT, CONV, NORM):
    unet[name.replace("weight", "bias")] = torch.randn(shapes[name][0])
# A level has one residual block, a second level follows.
unet["down_blocks.0.downsamplers.0.conv.weight"] = torch.randn(4, 4, 3, 3)
text = {TEXT: torch.randn(6, 6), "encoder.layers.0.self_attn.out_proj.weight": torch.randn(6, 6)}
save_file(unet, "unet.safetensors")
save_file(text, "text.safetensors")
want = {}


def write(file, tensors, deltas, metadata=None, folder=None):
    path = f"{folder}/{file}" if folder else file
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
    for name, delta in deltas.items():
        base = unet.get(name, text.get(name))
        want[f"{folder or file}/{name}"] = base + S * delta.reshape(base.shape)


def pair(name):
    out, inner, *kernel = (unet.get(name, text.get(name))).shape
    return torch.randn(r, inner, *kernel), torch.randn(out, r, *[1 for _ in kernel])


def product(down, up):
    return locon.diff_weight(down, up, None, gamma=1.0)


flat = lambda name: name.removesuffix(".weight").replace(".", "_")
factors = {name: pair(name) for name in (Q, OUT, CONV, PROJ, TEXT)}
plain = {name: product(*f) for name, f in factors.items()}
# kohya, with alpha; the text encoder's too.
tensors = {}
for name, (down, up) in factors.items():
    module = f"lora_te_text_model_{flat(name)}" if name == TEXT else f"lora_unet_{flat(name)}"
    tensors |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up, f"{module}.alpha": torch.tensor(1.0)}
write("kohya.safetensors", tensors, {n: d * 0.5 for n, d in plain.items()}, {"ss_base_model_version": "sd_v1"})
# The authors' names: block 1 of the input, and the end of the first level.
tensors = {}
for name, module in [(Q, "input_blocks_1_1_transformer_blocks_0_attn1_to_q"), (CONV, "input_blocks_1_0_in_layers_2")]:
    tensors |= {f"lora_unet_{module}.lora_down.weight": factors[name][0], f"lora_unet_{module}.lora_up.weight": factors[name][1]}
down, up = torch.randn(r, 4, 3, 3), torch.randn(4, r, 1, 1)
tensors |= {"lora_unet_input_blocks_2_0_op.lora_down.weight": down, "lora_unet_input_blocks_2_0_op.lora_up.weight": up}
write("ldm.safetensors", tensors, {Q: plain[Q], CONV: plain[CONV], "down_blocks.0.downsamplers.0.conv.weight": product(down, up)})
# PEFT in diffusers: alpha in the metadata.
tensors = {}
for name, (down, up) in factors.items():
    module = f"text_encoder.text_model.{name}" if name == TEXT else f"unet.{name}"
    module = module.removesuffix(".weight")
    tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
meta = {f"{side}.{k}": v for side in ("unet", "text_encoder") for k, v in {"r": r, "lora_alpha": 8}.items()}
write("peft.safetensors", tensors, {n: d * 4 for n, d in plain.items()}, {"lora_adapter_metadata": json.dumps(meta)})
# PEFT's own folder, scaled by the root of the rank, one layer by a pattern.
os.makedirs("adapter", exist_ok=True)
tensors = {}
for name in (Q, OUT):
    module = "base_model.model." + name.removesuffix(".weight")
    tensors |= {f"{module}.lora_A.weight": factors[name][0], f"{module}.lora_B.weight": factors[name][1]}
config = {"peft_type": "LORA", "r": r, "lora_alpha": 4, "use_rslora": True, "alpha_pattern": {"to_out.0": 6}}
json.dump(config, open("adapter/adapter_config.json", "w"))
write("adapter_model.safetensors", tensors, {Q: plain[Q] * 4 / 2**0.5, OUT: plain[OUT] * 6 / 2**0.5}, None, "adapter")
# diffusers before 2023's end.
tensors = {}
for name, old in [(Q, "to_q_lora"), (OUT, "to_out_lora")]:
    tensors |= {f"unet.{UNET}.processor.{old}.down.weight": factors[name][0], f"unet.{UNET}.processor.{old}.up.weight": factors[name][1]}
module = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
tensors |= {f"{module}.down.weight": factors[TEXT][0], f"{module}.up.weight": factors[TEXT][1]}
write("old.safetensors", tensors, {n: plain[n] for n in (Q, OUT, TEXT)})
# LoCon in Tucker's form.
down, mid, up = torch.randn(r, 4, 1, 1), torch.randn(r, r, 3, 3), torch.randn(6, r, 1, 1)
module = f"lycoris_{flat(CONV)}"
write("tucker.safetensors", {f"{module}.lora_down.weight": down, f"{module}.lora_mid.weight": mid, f"{module}.lora_up.weight": up,
      f"{module}.alpha": torch.tensor(1.0)}, {CONV: locon.diff_weight(down, up, mid, gamma=1.0) * 0.5})
# LoHa, and in Tucker's form.
a1, b1, a2, b2 = torch.randn(6, r), torch.randn(r, 4), torch.randn(6, r), torch.randn(r, 4)
c1, d1, c2, d2 = torch.randn(r, 6), torch.randn(r, 4), torch.randn(r, 6), torch.randn(r, 4)
t1, t2 = torch.randn(r, r, 3, 3), torch.randn(r, r, 3, 3)
q, conv = f"lora_unet_{flat(Q)}", f"lora_unet_{flat(CONV)}"
write("loha.safetensors", {
    f"{q}.hada_w1_a": a1, f"{q}.hada_w1_b": b1, f"{q}.hada_w2_a": a2, f"{q}.hada_w2_b": b2, f"{q}.alpha": torch.tensor(1.0),
    f"{conv}.hada_w1_a": c1, f"{conv}.hada_w1_b": d1, f"{conv}.hada_w2_a": c2, f"{conv}.hada_w2_b": d2,
    f"{conv}.hada_t1": t1, f"{conv}.hada_t2": t2},
    {Q: (a1 @ b1) * (a2 @ b2) * 0.5,
     CONV: torch.einsum("pqyx,po,qi->oiyx", t1, c1, d1) * torch.einsum("pqyx,po,qi->oiyx", t2, c2, d2)})
assert torch.allclose(loha.diff_weight(b1, a1, b2, a2, None, None, gamma=1.0).reshape(6, 4), (a1 @ b1) * (a2 @ b2), atol=1e-5)
# LoKr: both whole (alpha says nothing), one in factors, a kernel in Tucker's form.
w1, w2 = torch.randn(2, 2), torch.randn(3, 2)
u1, v2a, v2b = torch.randn(2, 3), torch.randn(2, r), torch.randn(r, 2)
x1, x2a, x2b, x2t = torch.randn(2, 2), torch.randn(r, 3), torch.randn(r, 2), torch.randn(r, r, 3, 3)
out = f"lora_unet_{flat(OUT)}"
write("lokr.safetensors", {
    f"{q}.lokr_w1": w1, f"{q}.lokr_w2": w2, f"{q}.alpha": torch.tensor(1e10),
    f"{out}.lokr_w1": u1, f"{out}.lokr_w2_a": v2a, f"{out}.lokr_w2_b": v2b, f"{out}.alpha": torch.tensor(1.0),
    f"{conv}.lokr_w1": x1, f"{conv}.lokr_w2_a": x2a, f"{conv}.lokr_w2_b": x2b, f"{conv}.lokr_t2": x2t},
    {Q: torch.kron(w1, w2), OUT: lokr.diff_weight(u1, None, None, None, v2a, v2b, None, gamma=1.0),
     # The function takes the rank from the wrong side of a core.
     CONV: lokr.diff_weight(x1, None, None, None, x2a, x2b, x2t, gamma=3.0)})
# DoRA: lengths of rows, in two spellings, and of columns, as older files have them.
rows, columns, conv_rows = torch.rand(6, 1) + 0.5, torch.rand(1, 6) + 0.5, torch.rand(6, 1, 1, 1) + 0.5


def dora(name, magnitude):
    moved = unet[name] + plain[name].reshape(unet[name].shape)
    flat_dims = [d for d in range(moved.dim()) if d != (0 if magnitude.shape[0] > 1 else 1)]
    return moved * magnitude / moved.pow(2).sum(flat_dims, keepdim=True).sqrt() - unet[name]


write("dora.safetensors", {
    f"{q}.lora_down.weight": factors[Q][0], f"{q}.lora_up.weight": factors[Q][1], f"{q}.dora_scale": rows,
    f"{out}.lora_down.weight": factors[OUT][0], f"{out}.lora_up.weight": factors[OUT][1], f"{out}.dora_scale": columns,
    f"{conv}.lora_down.weight": factors[CONV][0], f"{conv}.lora_up.weight": factors[CONV][1], f"{conv}.dora_scale": conv_rows},
    {Q: dora(Q, rows), OUT: dora(OUT, columns), CONV: dora(CONV, conv_rows)})
# Whole differences.
diff, bias, norm, norm_bias = torch.randn(6, 4, 3, 3), torch.randn(6), torch.randn(4), torch.randn(4)
n = f"lora_unet_{flat(NORM)}"
write("full.safetensors", {f"{conv}.diff": diff, f"{conv}.diff_b": bias, f"{n}.w_norm": norm, f"{n}.b_norm": norm_bias},
      {CONV: diff, CONV.replace("weight", "bias"): bias, NORM: norm, NORM.replace("weight", "bias"): norm_bias})
# One that is for another model: wider prompts.
module = f"lora_unet_{flat(K2)}"
save_file({f"{module}.lora_down.weight": torch.randn(r, 1024), f"{module}.lora_up.weight": torch.randn(6, r)}, "other.safetensors")
save_file(want, "want.safetensors")
