//! Checkpoints: named tensors in safetensors files, mapped into memory and converted to f32 when asked for.

use super::elements::{Values, elements};
use super::text::stand_in;
use super::{synthetic, weight_files, write_atomic};
use anyhow::{Context, Result, anyhow, bail};
use half::f16;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::json;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

/// Named tensors of a model, in one file or several. Tensors are read when asked for.
pub struct Checkpoint {
    /// What error messages call it.
    name: String,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    synthetic: bool,
}

struct Shard {
    name: String,
    bytes: Bytes,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Held(Cow<'static, [u8]>),
}

impl Bytes {
    fn slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Held(bytes) => bytes,
        }
    }
}

#[derive(Clone)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Checkpoint {
    /// Opens a safetensors file, the index of several, or what a folder holds under one of the usual names: see
    /// [`weight_files`].
    ///
    /// # Errors
    /// No such file, a file that is no whole safetensors file, an index that names what is not there.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let mut checkpoint = Checkpoint::empty(path.display().to_string());
        let file = if path.is_dir() { weight_files::find(path)? } else { path.to_path_buf() };
        if file.extension().is_none_or(|e| e != "json") {
            checkpoint.name = file.display().to_string();
            checkpoint.add_file(&file)?;
            return Ok(checkpoint);
        }
        let (shards, tensors) = weight_files::shards(&file)?;
        shards.iter().try_for_each(|shard| checkpoint.add_file(shard))?;
        match tensors.iter().find(|name| !checkpoint.contains(name)) {
            Some(name) => bail!("{}: {name} is in none of the files it lists", file.display()),
            None => Ok(checkpoint),
        }
    }

    /// A safetensors file that lies in memory, such as one inside the program; `name` says so in error messages.
    ///
    /// # Errors
    /// Bytes that are no whole safetensors file.
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::empty(name.to_string());
        checkpoint.add(name.to_string(), Bytes::Held(bytes.into()))?;
        Ok(checkpoint)
    }

    /// A checkpoint that makes up every tensor asked for from its name and shape, by the rule of [`synthetic::tensor`]: full-size
    /// models are compared with reference values that were made from the same weights, without a download.
    pub fn synthetic() -> Checkpoint {
        Checkpoint { synthetic: true, ..Checkpoint::empty("synthetic weights".into()) }
    }

    fn empty(name: String) -> Checkpoint {
        Checkpoint {
            name,
            shards: vec![],
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
            synthetic: false,
        }
    }

    /// What error messages call it: mostly the path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What [`save`] was given beside tensors, over all files.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether it holds a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Shape of a tensor, in torch's layout.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// The same tensors under other names; those that `f` gives none are left out.
    pub fn rename(mut self, f: impl Fn(&str) -> Option<String>) -> Checkpoint {
        let old = std::mem::take(&mut self.entries);
        self.entries = old.into_iter().filter_map(|(name, e)| Some((f(&name)?, e))).collect();
        self
    }

    /// Sees that it holds a floating-point tensor of this name and shape, without reading its values.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`], but for the numbers.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        if self.synthetic {
            return Ok(());
        }
        let entry = self.entry(name)?;
        let file = &self.shards[entry.shard].name;
        if trimmed(&entry.shape) != trimmed(shape) {
            bail!("{file}: {name} has shape {:?}, expected {shape:?}", entry.shape);
        }
        match entry.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 => Ok(()),
            other => bail!("{file}: {name} holds {other:?}, expected F32, F16, BF16 or F64"),
        }
    }

    /// All values of a tensor, which must have torch's shape `shape` (sizes of 1 at its end do not count: a 1x1 convolution
    /// may be stored as a matrix, and a matrix as a 1x1 convolution).
    ///
    /// # Errors
    /// No such tensor, another shape, elements that are not floating point, numbers that are not finite.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match self.values(name, shape, false)? {
            Values::F32(values) => Ok(values),
            Values::F16(_) => unreachable!("not asked for"),
        }
    }

    /// [`Checkpoint::f32`], or as f16: without a detour where the file holds halves.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`].
    pub fn values(&self, name: &str, shape: &[usize], half: bool) -> Result<Values> {
        if self.synthetic {
            return Ok(Values::of(synthetic::tensor(name, shape), half));
        }
        self.check(name, shape)?;
        let entry = self.entry(name)?;
        self.convert(name, entry, 0..entry.shape.iter().product(), half)
    }

    /// Rows `ids` of a matrix, one after the other: an embedding may be larger than a device lets a kernel see.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`]; a row that the matrix does not have.
    pub fn rows_f32(&self, name: &str, ids: &[u32], shape: &[usize; 2]) -> Result<Vec<f32>> {
        let [rows, width] = *shape;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
            bail!("{}: {name} has {rows} rows, asked for row {id}", self.name);
        }
        if self.synthetic {
            let table = synthetic::tensor(name, shape);
            return Ok(ids.iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect());
        }
        let entry = self.entry(name)?;
        if entry.shape != shape {
            let file = &self.shards[entry.shard].name;
            bail!("{file}: {name} has shape {:?}, expected {shape:?}", entry.shape);
        }
        let mut out = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let start = id as usize * width;
            match self.convert(name, entry, start..start + width, false)? {
                Values::F32(row) => out.extend(row),
                Values::F16(_) => unreachable!("not asked for"),
            }
        }
        Ok(out)
    }

    /// Shape and values of a floating-point tensor.
    ///
    /// # Errors
    /// No such tensor, elements that are not floating point.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let shape = self.entry(name)?.shape.clone();
        let data = self.f32(name, &shape)?;
        Ok((shape, data))
    }

    /// Values of a tensor of whole numbers (ids, labels).
    ///
    /// # Errors
    /// No such tensor, other elements than I32 or I64, a negative number.
    pub fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        let entry = self.entry(name)?;
        let bytes = self.bytes(entry);
        let numbers: Vec<i64> = match entry.dtype {
            Dtype::I32 => elements(bytes).map(|b| i32::from_le_bytes(b).into()).collect(),
            Dtype::I64 => elements(bytes).map(i64::from_le_bytes).collect(),
            other => bail!("{}: {name} holds {other:?}, expected I32 or I64", self.shards[entry.shard].name),
        };
        let convert = |&n: &i64| u32::try_from(n);
        let numbers: Result<Vec<u32>, _> = numbers.iter().map(convert).collect();
        numbers.map_err(|_| anyhow!("{}: {name} holds a number below 0 or above 2^32", self.name))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let last = name.rsplit('.').nth(1).unwrap_or(name);
            let near = self.names().find(|n| n.contains(last)).map(|n| format!(" (it has {n})"));
            anyhow!("{}: no tensor {name}{}", self.name, near.unwrap_or_default())
        })
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].bytes.slice()[entry.range.clone()]
    }

    /// Elements `range` of a tensor.
    fn convert(&self, name: &str, entry: &Entry, range: Range<usize>, half: bool) -> Result<Values> {
        let (bytes, file) = (self.bytes(entry), &self.shards[entry.shard].name);
        let size = bytes.len() / entry.shape.iter().product::<usize>().max(1);
        let values = Values::read(entry.dtype, &bytes[range.start * size..range.end * size], half)
            .map_err(|e| anyhow!("{file}: {name} {e}"))?;
        // One such number spoils every output: name it here, before it becomes a black image.
        if let Some((i, value)) = values.not_finite() {
            bail!(
                "{file}: {name} holds {value} at place {}: the file is damaged, or its training diverged",
                range.start + i
            );
        }
        Ok(values)
    }

    /// Adds every tensor of a safetensors file.
    fn add(&mut self, name: String, bytes: Bytes) -> Result<()> {
        let slice = bytes.slice();
        if let Some(what) = stand_in(slice) {
            bail!("{name}: {what}");
        }
        let (header, metadata) = SafeTensors::read_metadata(slice).map_err(|e| match e {
            SafeTensorError::InvalidHeaderDeserialization(e) => {
                anyhow!("{name}: its header is none of safetensors: {e}; what wrote it made a mistake")
            }
            e => {
                anyhow!(
                    "{name}: not a whole safetensors file ({} bytes): {e}; download it again",
                    slice.len()
                )
            }
        })?;
        // The parser keeps the last of two entries of one name.
        if let Ok(Names(Some(twice))) = serde_json::from_slice(&slice[8..8 + header]) {
            let n = slice.len();
            bail!(
                "{name}: not a whole safetensors file ({n} bytes): {twice} is listed twice; download it again"
            );
        }
        self.metadata.extend(metadata.metadata().clone().unwrap_or_default());
        let shard = self.shards.len();
        for (tensor, info) in metadata.tensors() {
            let range = header + 8 + info.data_offsets.0..header + 8 + info.data_offsets.1;
            let entry = Entry { shard, dtype: info.dtype, shape: info.shape.clone(), range };
            if let Some(other) = self.entries.get(&tensor) {
                bail!(
                    "{name}: {tensor} is in {} as well: which one is meant?",
                    self.shards[other.shard].name
                );
            }
            self.entries.insert(tensor, entry);
        }
        self.shards.push(Shard { name, bytes });
        Ok(())
    }

    fn add_file(&mut self, file: &Path) -> Result<()> {
        let opened = std::fs::File::open(file);
        let handle = opened.with_context(|| format!("{}: cannot open the weights", file.display()))?;
        // SAFETY: the map is only read. If another program changes the file, numbers change, not types;
        // we replace files by renaming, which leaves the map as it was.
        let map = unsafe { memmap2::Mmap::map(&handle) };
        let map = map.with_context(|| format!("{}: cannot map the weights into memory", file.display()))?;
        self.add(file.display().to_string(), Bytes::Mapped(map))
    }
}

/// The first name that a JSON object holds twice.
struct Names(Option<String>);

impl<'de> serde::Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let (mut seen, mut twice) = (HashSet::new(), None);
                while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                    if let Some(name) = seen.replace(name) {
                        twice.get_or_insert(name);
                    }
                }
                Ok(Names(twice))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// A shape without the ones at its end.
fn trimmed(shape: &[usize]) -> &[usize] {
    let len = shape.iter().rposition(|&d| d != 1).map_or(0, |i| i + 1);
    &shape[..len]
}

/// A tensor to be saved.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorData {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl TensorData {
    /// An f32 tensor in torch's layout.
    pub fn f32(shape: &[usize], data: &[f32]) -> TensorData {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "a tensor of shape {shape:?}");
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorData { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// The same, each number rounded to f16.
    pub fn f16(shape: &[usize], data: &[f32]) -> TensorData {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "a tensor of shape {shape:?}");
        let bytes = data.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        TensorData { dtype: Dtype::F16, shape: shape.to_vec(), bytes }
    }
}

/// Writes a safetensors file, whole or not at all. Equal tensors and metadata give equal bytes.
///
/// # Errors
/// A file that cannot be written.
pub fn save(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, TensorData>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    // Larger elements first, so that each tensor is aligned to its own.
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype));
    let mut end = 0;
    for (name, t) in &order {
        let start = end;
        end += t.bytes.len();
        let info = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, end]});
        header.insert(name.to_string(), info);
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + text.len() + end);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    order.iter().for_each(|(_, t)| bytes.extend(&t.bytes));
    write_atomic(path, &bytes)
}
