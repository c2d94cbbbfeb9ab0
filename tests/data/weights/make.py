"""Makes the files of this folder by other programs: torch 2.15 (pickles) and gguf 0.19 (GGUF), whose values want.json holds.

    pip install torch numpy gguf; python make.py
"""
import argparse, collections, json, os, sys, types
import gguf, numpy as np, torch
import torch.nn as nn

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
