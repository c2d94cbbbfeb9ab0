"""Makes small.parquet as Hugging Face's `datasets` writes an image data set with domains.

    pip install datasets pillow; python make.py
"""
import io
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow


def picture(colour, form):
    out = io.BytesIO()
    Pillow.new("RGB", (4, 4), colour).save(out, form)
    return {"bytes": out.getvalue(), "path": None}


rows = {"image": [], "domain": [], "label": []}
for domain in ("art_painting", "photo"):
    for label in (0, 1, 1):
        rows["image"].append(picture((40 * label, 90, 10), "PNG" if label else "JPEG"))
        rows["domain"].append(domain)
        rows["label"].append(label)
features = Features({"image": Image(), "domain": Value("string"), "label": ClassLabel(names=["dog", "gui/tar"])})
Dataset.from_dict(rows, features=features).to_parquet("small.parquet")
