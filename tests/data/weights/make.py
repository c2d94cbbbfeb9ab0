"""Makes the files of this folder by other programs: torch 2.15 (pickles) and gguf 0.19 (GGUF), whose values want.json holds; diffusers
0.42 (ldm_names.json: the names of Stable Diffusion's single files, and what its converter makes of them).

    pip install torch numpy gguf diffusers transformers; python make.py
"""
import argparse, collections, json, os, re, sys, types
import gguf, numpy as np, torch
import torch.nn as nn
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils

want = {}


def values(tensors):
    return {k: {"shape": list(v.shape), "values": v.detach().float().reshape(-1).tolist()} for k, v in tensors.items()}


# Pickles of torch: every kind of number and of view.
base = torch.arange(24.0).reshape(4, 6)
state = collections.OrderedDict([
    ("whole.weight", base), ("turned", base.t()), ("part", base[1:3, 2:5]), ("wide", base[0].expand(3, 6)),
    ("half", torch.tensor([[0.5, -1.5], [2.0, 65504.0]]).half()), ("brain", torch.tensor([1.5, -0.25]).bfloat16()),
    ("double", torch.tensor([1 / 3, 2.5], dtype=torch.float64)), ("ids", torch.tensor([0, 1, 76])),
    ("scalar", torch.tensor(2.5)), ("none", torch.zeros(0, 3)), ("param", nn.Parameter(torch.tensor([7.0, 8.0]))),
    ("eight", torch.tensor([0.5, -448.0]).to(torch.float8_e4m3fn)), ("every fourth", torch.arange(40.0)[::4].reshape(2, 5)),
    ("last", torch.arange(16.0).reshape(1, 2, 2, 4).to(memory_format=torch.channels_last))])
state._metadata = {"": {"version": 1}}
torch.save(state, "state.pt")
want["state.pt"] = values(state)
old = collections.OrderedDict((k, v) for k, v in state.items() if k != "eight")
torch.save(old, "legacy.pt", _use_new_zipfile_serialization=False)
want["legacy.pt"] = values(old)


class Callback:
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.seq = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.BatchNorm1d(2))


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil_was_here",)


module = types.ModuleType("elsewhere")
sys.modules["elsewhere"] = module
for one in (Callback, Net):
    one.__module__, one.__qualname__ = "elsewhere", one.__name__
    setattr(module, one.__name__, one)
# What a program that trains leaves.
torch.save({"epoch": 3, "global_step": 875000, "pytorch-lightning_version": "1.4.2",
            "state_dict": {"model.a": torch.ones(2), "model.b": base}, "callbacks": {Callback: {"best": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(5)}}}], "hyper_parameters": argparse.Namespace(a=1)},
           "lightning.ckpt")
torch.manual_seed(1)
net = Net()
torch.save(net, "module.pt")
want["module.pt"] = values(net.state_dict())
torch.save({"string_to_token": {"*": 265}, "string_to_param": nn.ParameterDict({"*": nn.Parameter(torch.arange(8.0).reshape(2, 4))}),
            "name": "cat", "step": 500, "sd_checkpoint": None}, "embedding.pt")
torch.save(torch.arange(6.0).reshape(2, 3), "tensor.pt")
torch.save({"weight": torch.ones(2), "evil": Evil()}, "evil.pt")
torch.save({"weight": torch.eye(3).to_sparse()}, "sparse.pt")
torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "script.pt")

# A GGUF: two rows of random blocks of each type.
random = np.random.default_rng(0)
writer = gguf.GGUFWriter("blocks.gguf", "llama")
writer.add_uint32("llama.block_count", 2)
writer.add_array("tokenizer.ggml.tokens", ["<s>", "ä", "b"])
writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, -2.0])
want["blocks.gguf"] = {}
for name in "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS BF16 F16 F32".split():
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    columns = max(block, 32)
    shape = (2, columns // block * size)
    if name in ("F16", "F32"):
        raw = random.standard_normal((2, columns)).astype({"F16": np.float16, "F32": np.float32}[name])
        numbers = raw
        writer.add_tensor(name, raw)
    else:
        while True:
            raw = random.integers(0, 256, shape, dtype=np.uint8)
            numbers = gguf.quants.dequantize(raw, kind)
            if np.isfinite(numbers).all():
                break
        writer.add_tensor(name, raw, raw_dtype=kind)
    want["blocks.gguf"][name] = {"shape": [2, columns], "values": [float(v) for v in np.asarray(numbers, np.float32).reshape(-1)]}
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
json.dump(want, open("want.json", "w"))


# Names of single files, written from the rules of CompVis' modules; diffusers' converter has to find its own from each.
def ldm_unet(name):
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    outer = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_norm_out": "out.0", "conv_out": "out.2"}
    for ours, theirs in outer.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours):]
    way, rest = name.split(".", 1)
    if way == "mid_block":
        kind, j, rest = rest.split(".", 2)
        if kind == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{int(j) * 2}." + re.sub(r"^\w+", lambda m: resnet[m[0]], rest)
    b, kind, j, rest = rest.split(".", 3)
    b, j = int(b), int(j)
    if kind == "resnets":
        rest = re.sub(r"^\w+", lambda m: resnet[m[0]], rest)
    if kind == "downsamplers":
        return f"input_blocks.{3 * b + 3}.0.op.{rest[5:]}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * b + 2}.{1 if b == 0 else 2}.{rest}"
    first = f"input_blocks.{1 + 3 * b + j}" if way == "down_blocks" else f"output_blocks.{3 * b + j}"
    return f"{first}.{0 if kind == 'resnets' else 1}.{rest}"


def ldm_vae(name):
    for ours, theirs in [("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"), ("mid_block.resnets.0", "mid.block_1"),
                         ("mid_block.resnets.1", "mid.block_2"), ("mid_block.attentions.0", "mid.attn_1"), ("group_norm", "norm"),
                         ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"), (".resnets.", ".block."),
                         ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample")]:
        name = name.replace(ours, theirs)
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    return re.sub(r"up_blocks\.(\d)", lambda m: f"up.{3 - int(m[1])}", name)


def pairs(model, rule, prefix, convert):
    names = list(model.state_dict())
    file = {prefix + rule(name): torch.full((1, 1, 1, 1), i) for i, name in enumerate(names)}
    made = {name: names[int(number.flatten()[0])] for name, number in convert(dict(file), dict(model.config)).items()}
    assert made == {name: name for name in names}
    return [[rule(name), name] for name in names]


channels = (32, 64, 96, 96)
unet = UNet2DConditionModel(block_out_channels=channels, cross_attention_dim=32)
vae = AutoencoderKL(block_out_channels=channels, layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4,
                    up_block_types=["UpDecoderBlock2D"] * 4)
names = {"unet": pairs(unet, ldm_unet, "model.diffusion_model.", single_file_utils.convert_ldm_unet_checkpoint),
         "vae": pairs(vae, ldm_vae, "first_stage_model.", single_file_utils.convert_ldm_vae_checkpoint)}
json.dump(names, open("ldm_names.json", "w"), separators=(",", ":"))

# What diffusers' image-to-image pipeline makes of a gradient, with the demo's model.
from diffusers import EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

pipeline = StableDiffusionImg2ImgPipeline.from_pretrained("../../../weights/demo/stable-diffusion", safety_checker=None)
pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
y, x = np.mgrid[0:72, 0:80]
gradient = Image.fromarray(np.stack([3 * x, 3 * y, 0 * x + 128], -1).astype(np.uint8))
pipeline("a sketch of a dog", image=gradient.resize((64, 64), Image.LANCZOS), strength=0.6, num_inference_steps=10, guidance_scale=3.0,
         generator=torch.Generator("cpu").manual_seed(7)).images[0].save("img2img.png")
