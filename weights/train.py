"""Trains the demo's small models on emoji64 with torch, diffusers and transformers, and writes them where they lie now.

    pip install torch diffusers transformers safetensors pillow tokenizers
    python train.py tokenizer|vae|unet|clip|data|export|judge|look EMOJI64 WORK

Stages run in this order; each reads what those before it left in WORK. EMOJI64 is the unpacked data set. The held-out
domain (openmoji) and the concepts whose hash is a multiple of five are never read, except by `judge`, which judges only.
"""
import json, math, pathlib, random, sys, time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

HERE = pathlib.Path(__file__).parent
GRAMMAR = json.loads((HERE / "captions.json").read_text())
DOMAINS = [d["folder"] for d in GRAMMAR["domains"]]
CLASSES = [c["folder"] for c in GRAMMAR["classes"]]
LENGTH = 72  # tokens of a caption


def unseen(stem):
    """32-bit FNV-1a of the file stem is a multiple of five."""
    h = 0x811C9DC5
    for byte in stem.encode():
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h % 5 == 0


def read_images(root, domains, keep):
    """uint8 (N, 3, 64, 64), domain and class numbers, concept names ("" in clipart)."""
    names = json.loads((root / "concepts.json").read_text())
    pixels, domain, label, concept = [], [], [], []
    for d, folder in enumerate(domains):
        for c, cls in enumerate(CLASSES):
            for path in sorted((root / folder / cls).iterdir()):
                if keep(path.stem):
                    pixels.append(np.asarray(Image.open(path).convert("RGB")))
                    domain.append(d)
                    label.append(c)
                    concept.append(names.get(path.stem, {}).get("name", ""))
    pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor(domain), torch.tensor(label), concept


def signed(pixels):
    return pixels.float() / 127.5 - 1


def caption(rng, domain, label, concept):
    """A caption of about 40 words from the grammar."""
    d, c = GRAMMAR["domains"][domain], GRAMMAR["classes"][label]
    text = rng.choice(GRAMMAR["templates"])
    for filler in rng.sample(GRAMMAR["fillers"], text.count("{filler}")):
        text = text.replace("{filler}", filler, 1)
    text = text.format(**{"class": c["phrase"]}, domain=d["name"], style=rng.choice(d["styles"]),
                       class_detail=rng.choice(c["details"]), concept=concept or c["noun"])
    return text[0].upper() + text[1:]


def train_tokenizer(root, work):
    """Byte-pair encoding in CLIP's form: words of the grammar become single tokens."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    rng = random.Random(0)
    texts = [caption(rng, rng.randrange(len(DOMAINS)), c, name)
             for c, cls in enumerate(GRAMMAR["classes"]) for name in cls["concepts"] for _ in range(12)]
    tok = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Lowercase()
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=2200, min_frequency=2, end_of_word_suffix="</w>"))
    merges = [m if isinstance(m, list) else m.split() for m in json.loads(tok.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [b + "</w>" for b in letters] + ["".join(m) for m in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    out = work / "tokenizer"
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False, indent=0))
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in merges))
    (out / "special_tokens_map.json").write_text(json.dumps(
        {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
         "unk_token": "<|endoftext|>"}, indent=2))
    (out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "bos_token": "<|startoftext|>",
         "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}, indent=2))
    lengths = [len(tok.encode(t).ids) + 2 for t in texts]
    print(f"{len(tokens)} tokens; captions of {min(lengths)} to {max(lengths)} tokens")


def tokenizer(work):
    """Text to LENGTH ids, as CLIP's tokenizer does it."""
    from transformers import CLIPTokenizer
    tok = CLIPTokenizer.from_pretrained(work / "tokenizer")
    return lambda texts: torch.tensor(
        tok(texts, padding="max_length", max_length=LENGTH, truncation=True).input_ids)


class Schedule:
    """AdamW with a linear warm-up and a cosine, an average of the weights, and a line of progress."""

    def __init__(self, modules, steps, lr, decay, ema):
        self.params = [p for m in modules for p in m.parameters()]
        self.opt = torch.optim.AdamW(self.params, lr=lr, weight_decay=decay, betas=(0.9, 0.99))
        self.average = [p.detach().clone() for p in self.params]
        self.steps, self.lr, self.ema, self.step, self.start, self.shown = steps, lr, ema, 0, time.time(), 0.0

    def update(self, loss):
        for group in self.opt.param_groups:
            warm = min(1.0, (self.step + 1) / 100)
            group["lr"] = self.lr * warm * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)))
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.step += 1
        rate = min(self.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - rate)
        self.shown = self.shown * 0.98 + 0.02 * loss.item() if self.step > 1 else loss.item()
        if self.step % 100 == 0:
            spent = time.time() - self.start
            left = spent / self.step * (self.steps - self.step)
            print(f"{self.step}/{self.steps} loss {self.shown:.4f} {spent:.0f} s, {left:.0f} s left", flush=True)

    def finish(self):
        with torch.no_grad():
            for p, average in zip(self.params, self.average):
                p.copy_(average)


def train_vae(root, work, steps=4500):
    from diffusers import AutoencoderKL
    torch.manual_seed(1)
    pixels, *_ = read_images(root, DOMAINS, lambda stem: not unseen(stem))
    x = signed(pixels)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 32, 48], layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=64,
        mid_block_add_attention=False).to(memory_format=torch.channels_last)
    run = Schedule([vae], steps, 2e-3, 1e-4, 0.995)
    for step in range(steps):
        whole = step % 4 == 0 or step > steps * 0.9
        batch = x[torch.randint(len(x), (16 if whole else 48,))]
        if torch.rand(()) < 0.5:
            batch = batch.flip(3)
        if not whole:
            i, j = (8 * torch.randint(5, (2,))).tolist()
            batch = batch[:, :, i:i + 32, j:j + 32]
        batch = batch.to(memory_format=torch.channels_last)
        posterior = vae.encode(batch).latent_dist
        out = vae.decode(posterior.sample()).sample
        slope = sum((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for a, b in [(out, batch)] for d in (2, 3))
        kl = 0.5 * (posterior.mean ** 2 + posterior.logvar.exp() - 1 - posterior.logvar)
        run.update((out - batch).abs().mean() + 0.5 * slope + 2e-4 * kl.mean())
    run.finish()
    vae.eval()
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(256)])
        vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        test, domain, *_ = read_images(root, DOMAINS, unseen)
        test = signed(test)
        out = torch.cat([vae.decode(vae.encode(p).latent_dist.mean).sample.clamp(-1, 1) for p in test.split(256)])
        mse = ((out - test) / 2).pow(2).mean((1, 2, 3))
        print("PSNR on unseen concepts", round((-10 * mse.log10()).mean().item(), 2),
              {d: round((-10 * mse[domain == i].log10()).mean().item(), 1) for i, d in enumerate(DOMAINS)})
    vae.save_pretrained(work / "vae")
    show(torch.stack([test, out], 1).flatten(0, 1)[:: max(1, len(test) // 48)][:96], work / "vae.png", 16)


def show(images, path, columns):
    """A grid of (N, 3, 64, 64) in -1..1."""
    images = (images.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = -(-len(images) // columns)
    grid = np.full((rows * 64, columns * 64, 3), 255, np.uint8)
    for k, image in enumerate(images):
        r, c = divmod(k, columns)
        grid[r * 64:r * 64 + 64, c * 64:c * 64 + 64] = image
    Image.fromarray(grid).save(path)


def text_encoder(work, hidden, layers):
    from transformers import CLIPTextConfig, CLIPTextModel
    vocab = len(json.loads((work / "tokenizer/vocab.json").read_text()))
    config = CLIPTextConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=LENGTH, hidden_act="quick_gelu", bos_token_id=vocab - 2,
        eos_token_id=vocab - 1, pad_token_id=vocab - 1)
    return CLIPTextModel(config)


def captions_of(rng, tokenize, domain, label, concept, drop_all, drop_concept):
    texts = []
    for d, c, name in zip(domain.tolist(), label.tolist(), concept):
        r = rng.random()
        texts.append("" if r < drop_all else
                     caption(rng, d, c, "" if r < drop_all + drop_concept else name))
    return tokenize(texts)


def train_unet(root, work, steps=7000, batch=64):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    torch.manual_seed(2)
    rng = random.Random(2)
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    tokenize = tokenizer(work)
    pixels, domain, label, concept = read_images(root, DOMAINS, lambda stem: not unseen(stem))
    with torch.no_grad():
        both = [torch.cat([vae.encode(p).latent_dist.mean for p in x.split(256)]) * vae.config.scaling_factor
                for x in (signed(pixels), signed(pixels).flip(3))]
    latents = torch.stack(both, 1)
    # Classes and styles are asked for evenly; rare classes are seen more often than they occur, clipart's mush less.
    count = torch.bincount(domain * 7 + label, minlength=42).float()[domain * 7 + label]
    weight = count.pow(-0.4) * torch.where(domain == DOMAINS.index("clipart"), 0.6, 1.0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=[32, 64, 96], layers_per_block=1, cross_attention_dim=64,
        attention_head_dim=4, norm_num_groups=8,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]).to(memory_format=torch.channels_last)
    text = text_encoder(work, 64, 2)
    print(sum(p.numel() for p in unet.parameters()), sum(p.numel() for p in text.parameters()), "parameters")
    noise = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                          prediction_type="v_prediction", steps_offset=1, set_alpha_to_one=False, clip_sample=False)
    noise.save_pretrained(work / "scheduler")
    run = Schedule([unet, text], steps, 1.5e-3, 1e-3, 0.9985)

    def save():
        kept = [p.detach().clone() for p in run.params]
        run.finish()
        unet.save_pretrained(work / "unet")
        text.save_pretrained(work / "text_encoder")
        with torch.no_grad():
            for p, k in zip(run.params, kept):
                p.copy_(k)

    for step in range(steps):
        pick = torch.multinomial(weight, batch, replacement=True)
        x = latents[pick, torch.randint(2, (batch,))]
        ids = captions_of(rng, tokenize, domain[pick], label[pick], [concept[i] for i in pick], 0.1, 0.35)
        t = torch.randint(1000, (batch,))
        eps = torch.randn_like(x)
        target = noise.get_velocity(x, eps, t)
        noisy = noise.add_noise(x, eps, t).to(memory_format=torch.channels_last)
        out = unet(noisy, t, text(ids).last_hidden_state).sample
        run.update(F.mse_loss(out, target))
        if run.step % 500 == 0:
            save()
    save()


def train_clip(root, work, steps=1200, batch=128):
    """Images and captions of one batch find each other; domains and classes repeat, so equal pairs share the target."""
    from transformers import CLIPConfig, CLIPModel
    torch.manual_seed(3)
    rng = random.Random(3)
    tokenize = tokenizer(work)
    pixels, domain, label, concept = read_images(root, DOMAINS, lambda stem: not unseen(stem))
    x = signed(pixels)
    vocab = len(json.loads((work / "tokenizer/vocab.json").read_text()))
    model = CLIPModel(CLIPConfig(
        text_config=dict(vocab_size=vocab, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=vocab - 2,
                         eos_token_id=vocab - 1, pad_token_id=vocab - 1),
        vision_config=dict(hidden_size=96, intermediate_size=384, num_hidden_layers=3, num_attention_heads=6,
                           image_size=64, patch_size=8),
        projection_dim=64, logit_scale_init_value=2.0))
    print(sum(p.numel() for p in model.parameters()), "parameters")
    run = Schedule([model], steps, 1.5e-3, 0.1, 0.995)
    for step in range(steps):
        pick = torch.randint(len(x), (batch,))
        images = x[pick]
        if torch.rand(()) < 0.5:
            images = images.flip(3)
        i, j = torch.randint(9, (2,)).tolist()
        images = F.pad(images, (4, 4, 4, 4), value=1.0)[:, :, i:i + 64, j:j + 64]
        names = [concept[k] for k in pick]
        named = [n if rng.random() < 0.5 else "" for n in names]
        ids = captions_of(rng, tokenize, domain[pick], label[pick], named, 0.0, 0.0)
        out = model(input_ids=ids, pixel_values=images)
        logits = out.logits_per_image
        # A caption without a concept fits every image of its class and style.
        d, c = domain[pick], label[pick]
        number = {n: k for k, n in enumerate(sorted(set(names) | {""}))}
        own, said = (torch.tensor([number[n] for n in ns]) for ns in (names, named))
        fits = (d[:, None] == d) & (c[:, None] == c) & ((said == 0) | (own[:, None] == said))
        of_text = fits.float()
        loss = -(of_text / of_text.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
        loss -= (of_text / of_text.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
        run.update(loss / 2)
    run.finish()
    model.eval()
    test, d, c, _ = read_images(root, DOMAINS, unseen)
    print("unseen concepts, zero-shot: class, style", zero_shot(model, tokenize, signed(test), d, c))
    model.save_pretrained(work / "clip")


def zero_shot(model, tokenize, images, domain, label):
    rng = random.Random(4)
    pairs = [(d, c) for d in range(len(DOMAINS)) for c in range(len(CLASSES))]
    with torch.no_grad():
        texts = torch.stack([F.normalize(model.get_text_features(
            tokenize([caption(rng, d, c, "") for _ in range(8)])).pooler_output, dim=-1).mean(0) for d, c in pairs])
        features = torch.cat([F.normalize(model.get_image_features(p).pooler_output, dim=-1)
                              for p in images.split(256)])
    score = (features @ texts.T).view(-1, len(DOMAINS), len(CLASSES))
    right = [(score.amax(1).argmax(1) == label).float().mean().item(),
             (score.amax(2).argmax(1) == domain).float().mean().item()]
    return [round(r, 3) for r in right]


class Judge(torch.nn.Module):
    """Class and style of an image: a small convolutional net with two heads."""

    def __init__(self):
        super().__init__()
        layers, cin = [], 3
        for cout in (32, 64, 128, 192):
            for stride in (1, 2):
                layers += [torch.nn.Conv2d(cin, cout, 3, stride, 1, bias=False), torch.nn.BatchNorm2d(cout),
                           torch.nn.ReLU()]
                cin = cout
        self.trunk = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                                         torch.nn.Dropout(0.3))
        self.cls, self.style = torch.nn.Linear(192, 7), torch.nn.Linear(192, 7)

    def forward(self, x):
        h = self.trunk(x)
        return self.cls(h), self.style(h)


def train_judge(root, work, steps=1500, batch=64):
    """Sees real images of all seven domains, openmoji included: it judges pictures and trains nothing."""
    torch.manual_seed(5)
    domains = DOMAINS + ["openmoji"]
    pixels, domain, label, _ = read_images(root, domains, lambda stem: not unseen(stem))
    x = signed(pixels)
    judge = Judge().to(memory_format=torch.channels_last)
    run = Schedule([judge], steps, 2e-3, 1e-3, 0.99)
    count = torch.bincount(domain * 7 + label, minlength=49).float()[domain * 7 + label]
    for step in range(steps):
        pick = torch.multinomial(count.pow(-0.5), batch, replacement=True)
        images = x[pick]
        if torch.rand(()) < 0.5:
            images = images.flip(3)
        i, j = torch.randint(13, (2,)).tolist()
        images = F.pad(images, (6, 6, 6, 6), value=1.0)[:, :, i:i + 64, j:j + 64]
        cls, style = judge(images.to(memory_format=torch.channels_last))
        run.update(F.cross_entropy(cls, label[pick]) + F.cross_entropy(style, domain[pick]))
    judge.eval()
    test, d, c, _ = read_images(root, domains, unseen)
    with torch.no_grad():
        cls, style = judge(signed(test))
    print("real unseen concepts: class", (cls.argmax(1) == c).float().mean().item(), "style",
          (style.argmax(1) == d).float().mean().item())
    torch.save(judge.state_dict(), work / "judge.pt")


def train_look(root, work):
    """What the judge says of the images that `kaleid run` painted (WORK/images, its folder), a grid of them, and some beside the
    training image nearest in pixels."""
    judge = Judge()
    judge.load_state_dict(torch.load(work / "judge.pt"))
    judge.eval()
    paths = sorted((work / "images").glob("*/*/*.png"))
    made = signed(torch.from_numpy(np.stack([np.asarray(Image.open(p)) for p in paths])).permute(0, 3, 1, 2))
    domain = torch.tensor([DOMAINS.index(p.parts[-3]) for p in paths])
    label = torch.tensor([CLASSES.index(p.parts[-2]) for p in paths])
    with torch.no_grad():
        cls, style = (torch.cat(h).argmax(1) for h in zip(*(judge(part) for part in made.split(128))))
    print(f"{len(made)} images: class {(cls == label).float().mean():.3f} style {(style == domain).float().mean():.3f}")
    for names, of in (DOMAINS, domain), (CLASSES, label):
        for i, name in enumerate(names):
            print(f"{name:10} class {(cls == label)[of == i].float().mean():.2f}"
                  f" style {(style == domain)[of == i].float().mean():.2f}")
    grid = [made[(domain == d) & (label == c)][:3] for c in range(7) for d in range(6)]
    show(torch.cat(grid), HERE / "samples.png", 18)
    real, *_ = read_images(root, DOMAINS, lambda stem: not unseen(stem))
    real, few = signed(real), made[:: max(1, len(made) // 48)][:48]
    nearest = torch.cat([torch.cdist(f[None].flatten(1), real.flatten(1)).argmin(1) for f in few])
    show(torch.stack([few, real[nearest]], 1).flatten(0, 1), HERE / "nearest.png", 16)


def train_data(root, work, per_class=34):
    """The demo's data set: `per_class` seen images of every class of the originals, and all of openmoji, as lossless WebP."""
    import hashlib, shutil
    out = HERE / "demo/data"
    shutil.rmtree(out, ignore_errors=True)
    for domain in ["clipart", "noto", "twemoji", "openmoji"]:
        for cls in CLASSES:
            paths = sorted((root / domain / cls).iterdir())
            if domain != "openmoji":
                key = lambda p: hashlib.md5(f"{domain}/{p.stem}".encode()).hexdigest()
                paths = sorted((p for p in paths if not unseen(p.stem)), key=key)[:per_class]
            (out / domain / cls).mkdir(parents=True)
            for path in paths:
                image = Image.open(path).convert("RGB")
                image.save(out / domain / cls / f"{path.stem}.webp", lossless=True, quality=100, method=6)
    shutil.copy(root / "LICENSES.md", out)


def train_export(root, work):
    """Everything as f16 in its Hugging Face layout, where the program takes it from."""
    import shutil
    from safetensors.torch import load_file, save_file
    def folder(name, to):
        to.mkdir(parents=True, exist_ok=True)
        for path in sorted((work / name).iterdir()):
            if path.suffix == ".safetensors":
                tensors = {k: v.half().contiguous() for k, v in load_file(path).items() if v.is_floating_point()}
                save_file(tensors, to / path.name, metadata={"format": "pt"})
            else:
                shutil.copy(path, to / path.name)
    demo = HERE / "demo"
    for name in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]:
        folder(name, demo / "stable-diffusion" / name)
    (demo / "stable-diffusion/model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None], "safety_checker": [None, None], "requires_safety_checker": False}, indent=2))
    folder("clip", demo / "clip")
    folder("tokenizer", demo / "clip")
    (demo / "clip/preprocessor_config.json").write_text(json.dumps({
        "size": 64, "crop_size": 64, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, indent=2))


if __name__ == "__main__":
    stage, root, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    options = {k: int(v) for k, v in (o.split("=") for o in sys.argv[4:])}
    globals()[f"train_{stage}"](root, work, **options)
