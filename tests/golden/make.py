"""Records the goldens of this folder with the public libraries. README.md says what each file holds.

usage: python make.py [NAME ..]                       records again, and prints how far it is from what lies here
       python make.py --write [--out DIR] NAME ..     stores what it records, here or in another folder

Needs (the CPU is enough): pip install torch torchvision transformers diffusers safetensors
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent

# ---- synthetic weights and inputs: functions of a name, so that nothing has to be stored
#      (the same rule in Rust: `synthetic` in src/data/checkpoint.rs)


def uniform(name, *shape):
    """Values in [-1, 1): PCG's output hash of FNV-1a of the name plus the element's index."""
    h = 0x811C9DC5
    for byte in name.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    u = np.uint32
    with np.errstate(over="ignore"):
        s = (np.arange(np.prod(shape, dtype=np.int64), dtype=u) + u(h)) * u(747796405) + u(2891336453)
        w = ((s >> ((s >> u(28)) + u(4))) ^ s) * u(277803737)
        w = (w >> u(22)) ^ w
    values = (w >> u(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return torch.from_numpy(values.reshape(shape))


def weight(name, shape):
    """The synthetic value of a parameter or buffer, by its name in Hugging Face's or torchvision's module."""
    u = uniform(name, *shape)
    if len(shape) <= 1:
        if name.endswith("running_var"):
            return 1 + 0.5 * u.abs()
        if name.endswith("weight") and any(part in name for part in ("norm", "bn", "ln_")):
            return 1 + 0.1 * u
        return 0.05 * u
    if "embedding" in name and "patch_embedding" not in name and "time_embedding" not in name:
        return 0.5 * u
    return u * np.float32(np.sqrt(3 / np.prod(shape[1:])))


def filled(module):
    """The module with synthetic weights, in eval mode."""
    with torch.no_grad():
        for name, t in [*module.named_parameters(), *module.named_buffers()]:
            if t.is_floating_point() and not any(n in name for n in ("position_ids", "inv_freq", "embed_scale")):
                t.copy_(weight(name, tuple(t.shape)))
    return module.eval()


def tokens(name, n, vocab):
    """Ids of a text between the two special tokens at the end of the vocabulary, padded with the last."""
    u = uniform("input." + name, n).numpy()
    ids = ((u + 1) / 2 * (vocab - 3)).astype(np.int64)
    ids[0], ids[5 + int(abs(u[0]) * (n - 8)) :] = vocab - 2, vocab - 1
    return torch.from_numpy(ids)[None]


def words(name, rows, n, vocab):
    """Ids of texts without special tokens."""
    return torch.from_numpy(((uniform(name, rows, n).numpy() + 1) / 2 * (vocab - 1)).astype(np.int64))


# ---- models: each returns the module (None: it has no folder here) and the recorded tensors


def clip(config, pixels, ids):
    from transformers import CLIPConfig, CLIPModel

    model = filled(CLIPModel(CLIPConfig(**config)))
    size = model.config.vision_config.image_size
    pixels = uniform("input." + pixels, 2, 3, size, size)
    out = model(input_ids=ids, pixel_values=pixels)
    return model, dict(
        pixel_values=pixels,
        input_ids=ids.int(),
        image_embeds=out.image_embeds,
        text_embeds=out.text_embeds,
        logits_per_image=out.logits_per_image,
        vision_last_hidden_state=out.vision_model_output.last_hidden_state,
        text_last_hidden_state=out.text_model_output.last_hidden_state,
    )


def clip_tiny():
    text = dict(vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                projection_dim=32, bos_token_id=598, eos_token_id=599, pad_token_id=599)
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=32,
                  patch_size=8, projection_dim=32)
    ids = torch.cat([tokens(f"clip_tiny.ids{i}", 77, 600) for i in (0, 1)])
    return clip(dict(text_config=text, vision_config=vision, projection_dim=32), "clip_tiny.pixels", ids)


def clip_p14_gelu():
    """Patches that do not divide the image, exact GELU, and padding with a token that is not the end's."""
    text = dict(vocab_size=300, hidden_size=40, intermediate_size=64, num_hidden_layers=2, num_attention_heads=5,
                max_position_embeddings=20, hidden_act="gelu", bos_token_id=0, eos_token_id=299, pad_token_id=1)
    vision = dict(hidden_size=36, intermediate_size=50, num_hidden_layers=1, num_attention_heads=3, image_size=45,
                  patch_size=14, hidden_act="gelu")
    rows = [[298, 15, 296, 16, 222, 256, 185, 264, 152, 22, 49, 110, 177, 163, 132, 299],
            [298, 87, 48, 199, 128, 111, 280, 120, 178, 263, 224, 116, 293, 170, 299]]
    ids = torch.tensor([row + [0] * (20 - len(row)) for row in rows])
    return clip(dict(text_config=text, vision_config=vision, projection_dim=24), "clip_p14_gelu", ids)


def clip_vit_b32():
    special = dict(bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)
    ids = torch.cat([tokens(f"clip_vit_b32.ids{i}", 77, 49408) for i in (0, 1)])
    return None, clip(dict(text_config=special, vision_config={}), "clip_vit_b32.pixels", ids)[1]


def text(name, width, act):
    """A text encoder of Stable Diffusion."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(vocab_size=600, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
                            num_attention_heads=4, hidden_act=act, bos_token_id=598, eos_token_id=599, pad_token_id=599)
    model, ids = filled(CLIPTextModel(config)), tokens(name, 77, 600)
    return model, dict(input_ids=ids.int(), context=model(ids).last_hidden_state)


def language(model, ids):
    """Logits of given tokens, and the 16 that follow when the likeliest is taken."""
    # With a mask: without one, tokens that are called 0 would count as padding.
    greedy = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    return model, dict(input_ids=ids.int(), logits=model(ids).logits, greedy=greedy.int())


def llama_tiny():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=512, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
                         rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True)
    return language(filled(LlamaForCausalLM(config)), words("input.llama", 1, 24, 512))


def llama3_rope():
    """Llama 3's scaling of rotary frequencies, heads wider than their share, a head of its own for logits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = dict(rope_type="llama3", rope_theta=50000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64)
    config = LlamaConfig(vocab_size=512, hidden_size=48, intermediate_size=100, num_hidden_layers=2, head_dim=16,
                         num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
                         rope_parameters=rope)
    return language(filled(LlamaForCausalLM(config)), words("input.llama3_rope", 1, 40, 512))


def qwen2_tiny():
    """Biases of queries, keys and values; two texts at once."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(vocab_size=512, hidden_size=48, intermediate_size=100, num_hidden_layers=2,
                         num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
                         tie_word_embeddings=True)
    return language(filled(Qwen2ForCausalLM(config)), words("input.qwen2_tiny", 2, 24, 512))


def qwen3_tiny():
    """Norms of queries and keys, heads wider than their share."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(vocab_size=512, hidden_size=48, intermediate_size=100, num_hidden_layers=2, head_dim=16,
                         num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
                         tie_word_embeddings=True)
    return language(filled(Qwen3ForCausalLM(config)), words("input.qwen3_tiny", 1, 24, 512))


def gemma3_tiny():
    """Two layers with a window of 8 tokens and one without, norms on both sides of attention and MLP."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(vocab_size=512, hidden_size=48, intermediate_size=100, num_hidden_layers=3, head_dim=16,
                              num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
                              query_pre_attn_scalar=24, sliding_window=8, pad_token_id=0,
                              layer_types=["sliding_attention", "sliding_attention", "full_attention"])
    return language(filled(Gemma3ForCausalLM(config)), words("input.gemma3_tiny", 1, 24, 512))


def unet(name, batch, size, t, **config):
    from diffusers import UNet2DConditionModel

    model = filled(UNet2DConditionModel(**config))
    sample = uniform(f"input.{name}.sample", batch, 4, size, size)
    context = uniform(f"input.{name}.context", batch, 77, config["cross_attention_dim"])
    out = model(sample, torch.tensor(t), encoder_hidden_states=context).sample
    return model, dict(sample=sample, timestep=torch.tensor([float(t)]), context=context, out=out)


def unet_sd1_tiny():
    return unet("unet_sd1_tiny", 2, 16, 481, sample_size=16, cross_attention_dim=64, block_out_channels=(32, 64, 64),
                attention_head_dim=4, layers_per_block=2, norm_num_groups=16,
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))


def unet_sd2_tiny():
    """Linear projections, heads per level, a timestep between two whole ones, a size that halves unevenly."""
    return unet("unet_sd2_tiny", 1, 12, 37.5, sample_size=16, cross_attention_dim=48, block_out_channels=(32, 64),
                attention_head_dim=(2, 4), layers_per_block=1, norm_num_groups=8, use_linear_projection=True,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))


def unet_sd15():
    return None, unet("unet_sd15", 1, 16, 981, sample_size=64, cross_attention_dim=768, attention_head_dim=8)[1]


def vae(name, widths, layers, groups):
    from diffusers import AutoencoderKL

    levels = len(widths)
    model = filled(AutoencoderKL(block_out_channels=widths, layers_per_block=layers, norm_num_groups=groups,
                                 latent_channels=4, down_block_types=("DownEncoderBlock2D",) * levels,
                                 up_block_types=("UpDecoderBlock2D",) * levels))
    size = 8 * 2 ** (levels - 1)
    latent, pixels = uniform(f"input.{name}.latent", 1, 4, 8, 8), uniform(f"input.{name}.pixels", 1, 3, size, size)
    encoded = model.encode(pixels).latent_dist
    return model, dict(latent=latent, image=model.decode(latent).sample, pixels=pixels, mean=encoded.mean,
                       logvar=encoded.logvar)


def taesd_tiny():
    """More blocks on one level, latents that the tangent bends."""
    from diffusers import AutoencoderTiny

    widths = dict(encoder_block_out_channels=(16, 16, 16), decoder_block_out_channels=(16, 16, 16))
    model = filled(AutoencoderTiny(num_encoder_blocks=(1, 2, 1), num_decoder_blocks=(2, 1, 1), **widths))
    latent, pixels = 4 * uniform("input.taesd_tiny.latent", 1, 4, 6, 5), uniform("input.taesd_tiny.pixels", 2, 3, 24, 20)
    return model, dict(latent=latent, image=model.decode(latent).sample, pixels=pixels, latents=model.encode(pixels).latents)


GRADIENTS = ["conv1.weight", "bn1.weight", "bn1.bias", "layer2.0.conv1.weight", "layer2.0.downsample.0.weight",
             "layer4.0.conv2.weight", "layer4.0.bn2.weight", "fc.weight", "fc.bias"]


def resnet(name, batch, steps):
    """Adam on seven classes with the running statistics fixed, gamma and beta trained: as DomainBed trains."""
    import torchvision

    model = filled(getattr(torchvision.models, name)(num_classes=7))
    images, labels = uniform(f"input.{name}.images", batch, 3, 64, 64), torch.arange(batch) % 7
    logits = model(images)
    losses, gradients = train(model, torch.optim.Adam(model.parameters(), lr=5e-5), images, labels, steps)
    return None, dict(images=images, labels=labels.int(), logits=logits, losses=losses, **gradients)


def resnet18_batchnorm():
    """SGD with batch norm in training mode."""
    import torchvision

    model = filled(torchvision.models.resnet18(num_classes=7)).train()
    images, labels = uniform("input.resnet18_bn.images", 8, 3, 64, 64), torch.arange(8) % 7
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    losses, _ = train(model, optimizer, images, labels, 3)
    return None, dict(images=images, labels=labels.int(), losses=losses, running_mean=model.bn1.running_mean,
                      running_var=model.bn1.running_var)


@torch.enable_grad()
def train(model, optimizer, images, labels, steps):
    """Losses of all steps, and the first elements of the first step's gradients."""
    losses, gradients = [], {}
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.item())
        for name in GRADIENTS:
            gradients.setdefault("grad." + name, model.get_parameter(name).grad.flatten()[:256].clone())
        optimizer.step()
    return torch.tensor(losses), gradients


# ---- JSON


def schedulers():
    """Each sampler, with eps(x, t) = 0.3 x + 0.1 sin(t / 100) in place of a UNet."""
    runs = {}
    old = dict(set_alpha_to_one=False)
    for prediction, end in [("epsilon", ""), ("v_prediction", "_v")]:
        for name, class_name, steps, config in [
            ("ddim_10", "DDIMScheduler", 10, dict(old, clip_sample=False)),
            ("ddim_50", "DDIMScheduler", 50, dict(old, clip_sample=False)),
            ("pndm_12", "PNDMScheduler", 12, dict(old, skip_prk_steps=True)),
            ("euler_9", "EulerDiscreteScheduler", 9, {}),
            ("euler_karras_9", "EulerDiscreteScheduler", 9, dict(use_karras_sigmas=True)),
            ("euler_a_7", "EulerAncestralDiscreteScheduler", 7, {}),
            ("dpmpp_2m_12", "DPMSolverMultistepScheduler", 12, {}),
            ("dpmpp_2m_karras_20", "DPMSolverMultistepScheduler", 20, dict(use_karras_sigmas=True)),
        ]:
            runs[name + end] = trajectory(class_name, steps, prediction, config)
    spacing = dict(timestep_spacing="trailing")
    runs["euler_trailing_4"] = trajectory("EulerDiscreteScheduler", 4, "epsilon", spacing)
    runs["lcm_4"] = trajectory("LCMScheduler", 4, "epsilon", old)
    runs["ddpm_25"] = trajectory("DDPMScheduler", 25, "epsilon", dict(clip_sample=False))
    runs["heun_6"] = trajectory("HeunDiscreteScheduler", 6, "epsilon", {})
    runs["heun_6_v"] = trajectory("HeunDiscreteScheduler", 6, "v_prediction", {})
    sde = dict(algorithm_type="sde-dpmsolver++")
    runs["dpmpp_2m_sde_9"] = trajectory("DPMSolverMultistepScheduler", 9, "epsilon", sde)
    runs["dpmpp_2m_sde_karras_16_v"] = trajectory(
        "DPMSolverMultistepScheduler", 16, "v_prediction", dict(sde, use_karras_sigmas=True)
    )
    runs["unipc_10"] = trajectory("UniPCMultistepScheduler", 10, "epsilon", {})
    runs["unipc_16_v"] = trajectory("UniPCMultistepScheduler", 16, "v_prediction", {})
    runs["unipc_karras_8"] = trajectory("UniPCMultistepScheduler", 8, "epsilon", dict(use_karras_sigmas=True))
    runs["deis_10"] = trajectory("DEISMultistepScheduler", 10, "epsilon", {})
    runs["deis_16_v"] = trajectory("DEISMultistepScheduler", 16, "v_prediction", {})
    runs["deis_karras_8"] = trajectory("DEISMultistepScheduler", 8, "epsilon", dict(use_karras_sigmas=True))
    # From an image, as the image-to-image pipelines do it.
    for name, class_name, config in [
        ("ddim", "DDIMScheduler", dict(old, clip_sample=False)),
        ("euler", "EulerDiscreteScheduler", {}),
        ("euler_a", "EulerAncestralDiscreteScheduler", {}),
        ("dpmpp_2m_karras", "DPMSolverMultistepScheduler", dict(use_karras_sigmas=True)),
        ("heun", "HeunDiscreteScheduler", {}),
        ("ddpm", "DDPMScheduler", dict(clip_sample=False)),
        ("unipc", "UniPCMultistepScheduler", {}),
        ("deis", "DEISMultistepScheduler", {}),
    ]:
        runs[f"{name}_10_from_image"] = trajectory(class_name, 10, "epsilon", config, strength=0.65)
    return runs


def trajectory(class_name, steps, prediction, config, strength=None):
    import diffusers

    cls, drawn = getattr(diffusers, class_name), []

    def draw(shape, **_):
        drawn.append(uniform(f"input.noise.{len(drawn) + 1}", *shape))
        return drawn[-1]

    module = sys.modules[cls.__module__]
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = draw
    scheduler = cls(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
                    steps_offset=1, prediction_type=prediction, **config)
    scheduler.set_timesteps(steps)
    latents, states = uniform("input.latents", 1, 4, 2, 2), []
    timesteps, x, more = scheduler.timesteps, latents * scheduler.init_noise_sigma, {}
    if strength is not None:
        begin = (steps - min(int(steps * strength), steps)) * scheduler.order
        timesteps = timesteps[begin:]
        scheduler.set_begin_index(begin) if hasattr(scheduler, "set_begin_index") else None
        x = scheduler.add_noise(latents, draw(latents.shape), timesteps[:1])
        more = dict(strength=strength)
    for t in timesteps:
        seen = scheduler.scale_model_input(x, t)
        eps = 0.3 * seen + 0.1 * torch.sin(torch.as_tensor(t, dtype=torch.float32) / 100)
        x = scheduler.step(eps, t, x).prev_sample
        states.append(x.flatten().tolist())
    return dict(
        scheduler=class_name, steps=steps, prediction_type=prediction, config=config,
        init_noise_sigma=float(scheduler.init_noise_sigma), latents=latents.flatten().tolist(),
        noise=[n.flatten().tolist() for n in drawn], timesteps=[float(t) for t in timesteps],
        trajectory=states, **more,
    )


def torch_randn():
    """seed -> count -> draws of torch's CPU generator."""
    draws = lambda seed, n: torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed)).tolist()
    return {str(seed): {str(n): draws(seed, n) for n in (8, 16, 40, 64)} for seed in (0, 42, 1234567)}


def clip_preprocess():
    """Pillow's resize of the short side, the middle, CLIP's mean and deviation: of the images that lie here."""
    from PIL import Image

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    cases = json.loads((HERE / "clip_preprocess.json").read_text())["cases"]
    for case in cases:
        width, height, size, crop = (case[key] for key in ("width", "height", "size", "crop"))
        pixels = np.array(case["image"], np.uint8).reshape(height, width, 3)
        short = min(width, height)
        resized = Image.fromarray(pixels).resize((size * width // short, size * height // short), Image.BICUBIC)
        left, top = (resized.width - crop) // 2, (resized.height - crop) // 2
        pixels = np.array(resized.crop((left, top, left + crop, top + crop)))
        pixels = (torch.from_numpy(pixels).float() / 255 - mean) / deviation
        case["pixels"] = [round(v, 5) for v in pixels.flatten().tolist()]
    return dict(cases=cases)


def tokenizer_clip():
    """transformers' tokenizer of CLIP over the small vocabulary in tokenizer_clip/, on the texts that lie here."""
    from transformers import CLIPTokenizer

    golden = json.loads((HERE / "tokenizer_clip.json").read_text())
    length = golden["length"]
    # The folder pads with "!", as Stable Diffusion 2 does. A "!" in a text is a word all the same, as in open_clip, which
    # trained those models; transformers would take it for padding, so it is not told.
    tokenizer = CLIPTokenizer.from_pretrained(HERE / "tokenizer_clip", pad_token="<|endoftext|>")
    encode = lambda text: tokenizer(text, truncation=True, max_length=length).input_ids
    padded = lambda ids: ids + [tokenizer.convert_tokens_to_ids("!")] * (length - len(ids))
    return dict(golden, tokens={text: padded(encode(text)) for text in golden["tokens"]})


MODELS = {
    "clip_tiny": clip_tiny,
    "clip_p14_gelu": clip_p14_gelu,
    "text_sd1_tiny": lambda: text("text_sd1_tiny", 64, "quick_gelu"),
    "text_sd2_tiny": lambda: text("text_sd2_tiny", 48, "gelu"),
    "llama_tiny": llama_tiny,
    "llama3_rope": llama3_rope,
    "qwen2_tiny": qwen2_tiny,
    "qwen3_tiny": qwen3_tiny,
    "gemma3_tiny": gemma3_tiny,
    "unet_sd1_tiny": unet_sd1_tiny,
    "unet_sd2_tiny": unet_sd2_tiny,
    "vae_tiny": lambda: vae("vae_tiny", (16, 32, 32), 1, 8),
    "taesd_tiny": taesd_tiny,
    "resnet18": lambda: resnet("resnet18", 4, 5),
    "resnet50": lambda: resnet("resnet50", 2, 3),
}
# Full-size models, which are not stored here: `kaleid verify FOLDER` knows their configurations.
FULL_SIZE = {
    "clip_vit_b32": clip_vit_b32,
    "unet_sd15": unet_sd15,
    "vae_sd15": lambda: (None, vae("vae_sd15", (128, 256, 512, 512), 2, 32)[1]),
    "resnet18_batchnorm": resnet18_batchnorm,
}
JSON = {f.__name__: f for f in (schedulers, torch_randn, clip_preprocess, tokenizer_clip)}


def numbers(value, path=""):
    """All numbers in a JSON value, by their place."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in numbers(item, f"{path}/{key}").items()}
    return {path: float(value)} if isinstance(value, (int, float)) else {}


def difference(new, old):
    """The largest difference, relative to the largest reference value."""
    if new.shape != old.shape:
        return float("inf")
    return ((new.double() - old.double()).abs().max() / old.double().abs().max().clamp(min=1e-12)).item()


def record(name, out):
    """Records one golden and stores it in `out`; without `out`, compares it with what lies here."""
    if name in JSON:
        file, new = HERE / f"{name}.json", JSON[name]()
        if out:
            (out / file.name).write_text(json.dumps(new, ensure_ascii=False))
            return "written"
        new, old = numbers(new), numbers(json.loads(file.read_text()))
        if new.keys() != old.keys():
            return "other keys than here"
        return f"{max(abs(new[k] - old[k]) / max(1, abs(old[k])) for k in old):.1e}"
    with torch.no_grad():
        model, tensors = (MODELS | FULL_SIZE)[name]()
    tensors = {k: t.detach().contiguous().clone() for k, t in tensors.items()}
    if out:
        save_file(tensors, out / f"{name}.safetensors")
        if model is not None:
            if hasattr(model, "save_config"):  # diffusers
                model.save_config(out / name)
            else:
                model.config.architectures, model.config.dtype = [type(model).__name__], model.dtype
                model.config.save_pretrained(out / name)
        return "written"
    if not (HERE / f"{name}.safetensors").exists():
        return "not stored here"
    old = load_file(HERE / f"{name}.safetensors")
    if tensors.keys() != old.keys():
        return "other tensors than here"
    return ", ".join(f"{k} {difference(tensors[k], old[k]):.1e}" for k in old)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true", help="store what is recorded")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for --write")
    args = parser.parse_args()
    for name in args.names or [*MODELS, *JSON]:
        print(f"{name:18} {record(name, args.out if args.write else None)}", flush=True)
